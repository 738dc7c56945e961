"""Tests of torchreid_spectral.evaluation.whitening, alone and in an engine."""

import numpy as np
import pytest
import torch

from tests.references.whitening import covariance, within
from torchreid_spectral.evaluation import Whitening


def test_others_are_whitened_by_the_fit():
    g = torch.Generator().manual_seed(0)
    train, test = (torch.randn(40, 3, generator=g) * torch.tensor([1.0, 5.0, 9.0]) for _ in "ab")
    fitted = Whitening("zca", eps=0.0).fit(train)
    _, whitened = covariance(fitted.transform(train).double().numpy())
    np.testing.assert_allclose(whitened, np.eye(3), atol=1e-5)
    first, second = fitted.transform(test), fitted.transform(test[:1])
    torch.testing.assert_close(first[:1], second)
    assert np.abs(covariance(first.double().numpy())[1] - np.eye(3)).max() > 0.01


def test_within_identities():
    g = torch.Generator().manual_seed(0)
    train = torch.randn(40, 3, generator=g) * torch.tensor([1.0, 5.0, 9.0])
    labels = torch.arange(40) % 8
    fitted = Whitening("zca", eps=0.0, covariance="within").fit(train, labels)
    whitened = within(fitted.transform(train).double().numpy(), labels.tolist())
    np.testing.assert_allclose(whitened, np.eye(3), atol=1e-5)
    total = Whitening("zca").fit(train, labels).fitted  # where they do not count
    torch.testing.assert_close(total, Whitening("zca").fit(train).fitted)
    with pytest.raises(ValueError, match="needs the labels of the features"):
        Whitening(covariance="within").fit(train)


def test_rejects():
    with pytest.raises(ValueError, match="covariance must be one of .* got 'between'"):
        Whitening(covariance="between")
    with pytest.raises(RuntimeError, match=r"call fit\(\) first"):
        _ = Whitening().fitted
    with pytest.raises(RuntimeError, match=r"call fit\(\) first"):
        Whitening().transform(torch.ones(2, 3))
    with pytest.raises(ValueError, match="method must be one of"):
        Whitening("lda")
    with pytest.raises(ValueError, match="must be >= 0, got 0.001 and -1"):
        Whitening(iterations=-1)
