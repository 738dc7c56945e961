"""Spectral models: any torchreid backbone with the spectral head."""

from torchreid_spectral.models.heads import SpectralHead
from torchreid_spectral.models.options import SpectralOptions
from torchreid_spectral.models.spectral_net import SpectralNet, make_spectral

__all__ = ["SpectralHead", "SpectralNet", "SpectralOptions", "make_spectral"]
