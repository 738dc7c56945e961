"""Engines: torchreid's training loop with the spectral method's losses and reporting."""

from torchreid_spectral.engine.base import ReportingMixin
from torchreid_spectral.engine.image import ImageSpectralEngine
from torchreid_spectral.engine.results import TestResult

__all__ = ["ImageSpectralEngine", "ReportingMixin", "TestResult"]
