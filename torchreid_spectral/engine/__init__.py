"""Engines: torchreid's training loop with the spectral method's losses and reporting."""

from torchreid_spectral.engine.base import ReportingMixin
from torchreid_spectral.engine.distillation import Distillation, load_teacher
from torchreid_spectral.engine.image import ImageMetricEngine, ImageSpectralEngine
from torchreid_spectral.engine.results import TestResult
from torchreid_spectral.engine.video import VideoSpectralEngine

__all__ = [
    "Distillation",
    "ImageMetricEngine",
    "ImageSpectralEngine",
    "ReportingMixin",
    "TestResult",
    "VideoSpectralEngine",
    "load_teacher",
]
