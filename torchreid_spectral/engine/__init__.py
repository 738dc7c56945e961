"""Engines: torchreid's training loop with the spectral method's losses and reporting."""

from torchreid_spectral.engine.base import ReportingMixin
from torchreid_spectral.engine.distillation import Distillation, load_teacher
from torchreid_spectral.engine.image import ImageMetricEngine, ImageSpectralEngine
from torchreid_spectral.engine.results import TestResult

__all__ = [
    "Distillation",
    "ImageMetricEngine",
    "ImageSpectralEngine",
    "ReportingMixin",
    "TestResult",
    "load_teacher",
]
