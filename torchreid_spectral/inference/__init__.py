"""From images to answers: open trained weights, index a gallery, search it, compare two images."""

from torchreid_spectral.inference.answers import Comparison, Hit
from torchreid_spectral.inference.calibration import Calibration, calibrate
from torchreid_spectral.inference.gallery import Gallery
from torchreid_spectral.inference.reid import SpectralReID
from torchreid_spectral.inference.weights import Settings, open_model

__all__ = [
    "Calibration",
    "Comparison",
    "Gallery",
    "Hit",
    "Settings",
    "SpectralReID",
    "calibrate",
    "open_model",
]
