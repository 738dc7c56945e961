"""Modules: parameters and hyper-parameters around torchreid_spectral.functional."""

from torchreid_spectral.layers.frame_pooling import FramePooling
from torchreid_spectral.layers.memory import NodeMemory
from torchreid_spectral.layers.spectral_attention import SpectralAttention

__all__ = ["FramePooling", "NodeMemory", "SpectralAttention"]
