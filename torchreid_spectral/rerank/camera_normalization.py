r"""Camera normalization: take out of the features what all images of a camera share.

Source: M. Song, J.-W. Park, J.-S. Lee, *Exploring the Camera Bias of Person Re-identification*,
ICLR 2025: features of a camera minus their mean, over their standard deviation.

==============================  ============================================  ================
Term                            Here                                          Shape
==============================  ============================================  ================
:math:`u = f / \|f\|`           ``units``                                     ``(N, D)``
:math:`m_c, v_c`                mean and variance of camera c's :math:`u`     ``(D,)``
:math:`m, v`                    those of all images                           ``(D,)``
:math:`\lambda_c = n_c/(n_c+p)` weight of c's own :math:`n_c` images          scalar
:math:`\mu_c, \sigma_c^2`       ``means``, ``scales`` squared                 ``(C + 1, D)``
==============================  ============================================  ================

.. math::

    \mu_c = \lambda_c m_c + (1 - \lambda_c) m, \qquad
    \sigma_c^2 = \lambda_c v_c + (1 - \lambda_c) v + \varepsilon \bar v_c, \qquad
    \hat f = (u - \mu_c) / \sigma_c

Row ``C`` is for cameras that the gallery lacks: all images'. :math:`\bar v_c` is the mean over
dimensions of :math:`\lambda_c v_c + (1 - \lambda_c) v`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.functional import unit_rows
from torchreid_spectral.rerank._inputs import Array, as_cameras, as_features, like

__all__ = ["CAMERA_NORMALIZATIONS", "CameraNormalization"]

CAMERA_NORMALIZATIONS = ("none", "center", "standardize")
"""What a re-ranker can be told."""

_ROWS = 4096  # normalised at once


class CameraNormalization:
    """Learn each camera's mean and deviation from a gallery, and take them out of features.

    It looks at cameras, never at identities. A query is normalised by what the gallery has of its
    camera, so that its features do not depend on other queries.

    Note:
        Not in the paper: features have unit length first; a camera of few images leans on all
        images' figures (``prior``); statistics are the gallery's alone; a zero row stays zero.
        Tests: ``tests/rerank/test_camera_normalization.py``.

    Args:
        method: ``center`` (the mean alone) or ``standardize``.
        prior: Images that all cameras' figures count for beside a camera's own.
        eps: Added to each variance, in shares of their mean.

    Raises:
        InputError: If an option is out of range.

    Example:
        >>> import torch
        >>> x = torch.tensor([[3.0, 4.0], [4.0, 3.0], [1.0, 0.0], [1.0, 0.0]])
        >>> cameras = torch.tensor([0, 0, 1, 1])
        >>> CameraNormalization("center", prior=0).fit(x, cameras).transform(x, cameras)[2:]
        tensor([[0., 0.],
                [0., 0.]])
    """

    def __init__(
        self, method: str = "standardize", *, prior: float = 10.0, eps: float = 1e-3
    ) -> None:
        if method not in CAMERA_NORMALIZATIONS[1:]:
            raise UnknownNameError("camera_normalization", method, CAMERA_NORMALIZATIONS[1:])
        if not (prior >= 0 and eps >= 0):
            raise InputError(f"prior and eps must be >= 0, got {prior} and {eps}.")
        self.method, self.prior, self.eps = method, prior, eps
        self._fitted: tuple[Tensor, Tensor, Tensor] | None = None

    def fit(self, features: Array, camids: Array) -> CameraNormalization:
        """Learn from features; those of an earlier call are forgotten.

        Args:
            features: ``(G, D)``, array or tensor.
            camids: ``(G,)`` camera of each.

        Returns:
            Itself.

        Raises:
            InputError: If features or cameras are missing or do not fit.
        """  # noqa: DOC502
        units = unit_rows(as_features("features", features))
        cameras = self._cameras(camids, len(units))
        known = cameras.unique()  # sorted
        variance, mean = _moments(units)
        means, variances = [], []
        for camera in known:
            own = units[(cameras == camera).to(units.device)]
            share = len(own) / (len(own) + self.prior)
            found = _moments(own)
            means.append(mean.lerp(found[1], share))
            variances.append(variance.lerp(found[0], share))
        spread = torch.stack([*variances, variance])
        scales = (spread + self.eps * spread.mean(dim=1, keepdim=True)).sqrt()
        self._fitted = known, torch.stack([*means, mean]), scales
        return self

    def transform(self, features: Array, camids: Array) -> Array:
        """Normalise.

        Args:
            features: ``(M, D)``, of queries or gallery.
            camids: ``(M,)`` cameras; one that was not fitted is treated as all images together.

        Returns:
            ``(M, D)``, float32, array or tensor as the features, on their device.

        Raises:
            InputError: If nothing was fitted, or features or cameras are missing or do not fit.
        """
        known, means, scales = self._learned()
        given = as_features("features", features)
        if given.shape[1] != means.shape[1]:
            raise InputError(
                f"features must have the fitted width {means.shape[1]}, got {given.shape[1]}."
            )
        places = _places(known, self._cameras(camids, len(given))).to(means.device)
        units = unit_rows(given.to(means.device))
        for some, at in zip(units.split(_ROWS), places.split(_ROWS)):  # views: in place
            blank = ~some.any(dim=1)
            some -= means[at]
            if self.method == "standardize":  # a scale of 0: nothing varies in the gallery
                some /= scales[at].masked_fill_(scales[at] == 0, 1)
            some[blank] = 0
        return like(features, units.to(given.device))

    def state(self) -> dict[str, Tensor]:
        """Give what was learned, for :meth:`restore`.

        Returns:
            Tensors by name.

        Raises:
            InputError: If nothing was fitted.
        """  # noqa: DOC502
        return dict(zip(_STATE, self._learned()))

    def restore(self, tensors: dict[str, Tensor]) -> CameraNormalization:
        """Take back what :meth:`state` gave.

        Args:
            tensors: With those among them.

        Returns:
            Itself.
        """
        known, means, scales = (tensors[name] for name in _STATE)
        self._fitted = known.cpu(), means, scales
        return self

    def _learned(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._fitted is None:
            raise InputError("CameraNormalization knows no features yet: call fit() first.")
        return self._fitted

    def _cameras(self, camids: Array | None, count: int) -> Tensor:
        cameras = as_cameras("camids", camids, count)
        if cameras is None:
            raise InputError(
                f"camera_normalization {self.method} needs the camera of each image, of gallery "
                "and queries: give camids."
            )
        return cameras


_STATE = ("camera_numbers", "camera_means", "camera_scales")


def _places(known: Tensor, cameras: Tensor) -> Tensor:
    """Find cameras among the known ones, which are sorted; the others are one past the last."""
    kind = torch.promote_types(torch.promote_types(known.dtype, cameras.dtype), torch.int64)
    known, cameras = known.to(kind), cameras.to(kind)
    places = torch.searchsorted(known, cameras).clamp_(max=len(known) - 1)
    return torch.where(known[places] == cameras, places, len(known))


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Give variance (of the images at hand, not an estimate) and mean."""
    return torch.var_mean(rows, dim=0, correction=0)
