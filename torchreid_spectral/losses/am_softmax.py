r"""Additive-margin softmax.

Paper: F. Wang, W. Liu, H. Liu, J. Cheng, *Additive Margin Softmax for Face Verification*, IEEE
Signal Processing Letters, 2018; the same as CosFace (H. Wang et al., CVPR 2018).

========================  ==============================  ===========
Paper                     Here                            Shape
========================  ==============================  ===========
:math:`\cos\theta_j`      ``cosine``                      ``(B, I)``
:math:`m`, :math:`s`      ``margin``, ``scale``           scalars
========================  ==============================  ===========
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AMSoftmaxLoss"]


class AMSoftmaxLoss(nn.Module):
    r"""Cross-entropy in which the right class must win by a margin of cosine.

    .. math:: -\log \frac{e^{s (\cos\theta_y - m)}}
              {e^{s (\cos\theta_y - m)} + \sum_{j \ne y} e^{s \cos\theta_j}}

    Args:
        margin: m >= 0, in units of cosine; 0.3 in the spectral method.
        scale: s > 0; 15 in the spectral method.

    Raises:
        ValueError: If margin or scale is out of range.

    Example:
        >>> import torch
        >>> loss = AMSoftmaxLoss(margin=0.0, scale=1.0)
        >>> round(loss(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        0.6931
    """

    def __init__(self, margin: float = 0.3, scale: float = 15.0) -> None:
        super().__init__()
        if margin < 0:
            raise ValueError(f"margin must be >= 0, got {margin}.")
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}.")
        self.margin, self.scale = margin, scale

    def forward(
        self, cosine: Float[Tensor, "B I"], targets: Int[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """Compute the mean loss of a batch, in float32 at least.

        Args:
            cosine: Cosine of each image's feature with each identity's weight.
            targets: Identity of each image.

        Returns:
            The loss.
        """
        cosine = cosine if cosine.dtype.itemsize >= 4 else cosine.float()
        margin = F.one_hot(targets, cosine.shape[1]).to(cosine.dtype) * self.margin
        return F.cross_entropy(self.scale * (cosine - margin), targets)
