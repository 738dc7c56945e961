"""The engine of the spectral method for tracklets.

Sources: C. Luo, Y. Chen, N. Wang, Z. Zhang, *Spectral Feature Transformation for Person
Re-identification*, ICCV 2019; Z. Zhang's talk, 2018 (attention between frames).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from torchreid_spectral.engine.image import ImageSpectralEngine
from torchreid_spectral.errors import InputError

__all__ = ["VideoSpectralEngine"]


class VideoSpectralEngine(ImageSpectralEngine):
    """Train a spectral model on tracklets: the graph has a node a tracklet, not a frame.

    A batch ``(B, F, 3, H, W)`` goes to the model as it is: each frame through the backbone, the
    frames of a tracklet pooled as the model's ``pooling_method`` says, then walk, heads and losses
    as in :class:`~torchreid_spectral.engine.image.ImageSpectralEngine`. torchreid's video engines
    train on single frames instead, and pool in the test only.

    Args:
        datamanager: ``torchreid.data.VideoDataManager``.
        *args: Of :class:`~torchreid_spectral.engine.image.ImageSpectralEngine`.
        **kwargs: Of :class:`~torchreid_spectral.engine.image.ImageSpectralEngine`.

    Raises:
        InputError: If the data are not tracklets, or the model is not a spectral one built with
            ``loss="spectral"``.
    """

    def __init__(
        self,
        datamanager: Any,  # noqa: ANN401
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        if getattr(datamanager, "data_type", "video") != "video":
            raise InputError(
                "VideoSpectralEngine trains on tracklets of a VideoDataManager, got "
                f"{type(datamanager).__name__}. Use ImageSpectralEngine, or data.type video."
            )
        super().__init__(datamanager, *args, **kwargs)

    def extract_features(self, input: Tensor) -> Tensor:  # noqa: A002 (torchreid's name)
        """Give the test features of tracklets.

        Args:
            input: ``(B, F, 3, H, W)``.

        Returns:
            ``(B, D)``.

        Raises:
            InputError: If the batch holds no tracklets.
        """
        if input.dim() != 5:
            raise InputError(
                f"A batch of tracklets must be (B, F, 3, H, W), got {tuple(input.shape)}: load "
                "it with a VideoDataManager."
            )
        features: Tensor = super().extract_features(input)
        return features
