"""Whitening of the test features by those of the training set, inside an engine."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from torchreid_spectral.errors import InputError
from torchreid_spectral.evaluation import Whitening

if TYPE_CHECKING:  # they import this module
    from torchreid_spectral.engine.testing import TestMixin

__all__ = ["fit_whitening", "training_loader"]

logger = logging.getLogger(__name__)


@torch.no_grad()
def fit_whitening(engine: TestMixin, whitening: Whitening) -> None:
    """Fit on the features of the training images, transformed as test images are.

    Random numbers are left as they were, so that a run trains alike with and without it.

    Args:
        engine: With :class:`~torchreid_spectral.engine.testing.TestMixin`.
        whitening: Fitted in place.

    Raises:
        InputError: If the features cannot be whitened.
    """
    engine.set_model_mode("eval")
    with torch.random.fork_rng(devices=[]):
        features, identities, *_ = engine._extract(training_loader(engine), "whitening")
    try:
        whitening.fit(features, torch.as_tensor(identities, device=features.device))
    except ValueError as error:
        raise InputError(f"test.whitening {whitening.method}: {error}") from error
    logger.info(
        "Whitening (%s, %s covariance) fitted on %d training features",
        whitening.method, whitening.covariance, len(features),
    )  # fmt: skip


def training_loader(engine: TestMixin) -> Any:  # noqa: ANN401
    """Give the training set with the test's transform, in its order and to its end.

    Args:
        engine: With :class:`~torchreid_spectral.engine.base.ReportingMixin`.

    Returns:
        A loader as the engine's test loaders.
    """
    data, trained = engine.datamanager, engine.train_loader
    dataset = copy.copy(trained.dataset.dataset)
    dataset.transform, dataset.k_tfm = data.transform_te, 1
    if hasattr(dataset, "sample_method"):
        dataset.sample_method = "evenly"
    test = next(iter(next(iter(engine.test_loader.values())).values()))
    return engine._loader(
        DataLoader(dataset, batch_size=test.batch_size, num_workers=test.workers)
    )
