"""Tests of torchreid_spectral.functional.whitening."""

import math

import pytest
import torch

from tests.references import whitening as reference
from torchreid_spectral.functional import whiten, whitening_matrix


def features(n: int = 60, d: int = 5, seed: int = 0) -> torch.Tensor:
    """Correlated features with very different variances."""
    g = torch.Generator().manual_seed(seed)
    mixed = torch.randn(d, d, dtype=torch.float64, generator=g) * 2.0 ** torch.arange(d)
    return torch.randn(n, d, dtype=torch.float64, generator=g) @ mixed + 7


def of_whitened(x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    """Covariance of the whitened features, by loops."""
    y = whiten(x, *whitening_matrix(x, *args, **kwargs))
    mean, covariance = reference.covariance(y.numpy())
    assert abs(mean).max() < 1e-9
    return torch.from_numpy(covariance)


@pytest.mark.parametrize("method", ["pca", "zca"])
def test_covariance_of_the_whitened_is_the_identity(method):
    torch.testing.assert_close(of_whitened(features(), method), torch.eye(5).double())


def test_iterative_reaches_the_identity():
    whole = of_whitened(features(), "iterative", iterations=40)
    torch.testing.assert_close(whole, torch.eye(5).double())


@pytest.mark.parametrize("iterations", [0, 1, 3, 5])
def test_iterative_matches_reference(iterations):
    x = features()
    mean, matrix = whitening_matrix(x, "iterative", iterations=iterations)
    expected = reference.newton(x.numpy(), iterations)
    torch.testing.assert_close(matrix, torch.from_numpy(expected))
    torch.testing.assert_close(mean, torch.from_numpy(reference.covariance(x.numpy())[0]))


def test_many_iterations_stay_with_the_limit():
    x = features()
    limit = whitening_matrix(x, "zca")[1]
    torch.testing.assert_close(whitening_matrix(x, "iterative", iterations=200)[1], limit)


def test_definitions():
    """PCA decorrelates by falling variance, ZCA is the symmetric root, the iteration's limit."""
    x = features()
    covariance = torch.from_numpy(reference.covariance(x.numpy())[1])
    _, zca = whitening_matrix(x, "zca")
    torch.testing.assert_close(zca, zca.mT)
    torch.testing.assert_close(zca @ zca @ covariance, torch.eye(5).double())
    torch.testing.assert_close(zca, whitening_matrix(x, "iterative", iterations=40)[1])
    _, pca = whitening_matrix(x, "pca")
    variances = 1 / pca.square().sum(1)  # rows are eigenvectors over the roots of their values
    assert (variances[:-1] >= variances[1:]).all()
    rows = pca * variances.sqrt()[:, None]
    torch.testing.assert_close(rows @ covariance @ rows.mT, torch.diag(variances))


@pytest.mark.parametrize("method", ["pca", "zca", "iterative"])
def test_with_labels_the_covariance_within_them_becomes_the_identity(method):
    x = features()
    labels = torch.arange(60) // 4 % 7 * 10
    mean, matrix = whitening_matrix(x, method, labels=labels, iterations=40)
    torch.testing.assert_close(mean, torch.from_numpy(reference.covariance(x.numpy())[0]))
    whitened = reference.within(whiten(x, mean, matrix).numpy(), labels.tolist())
    torch.testing.assert_close(torch.from_numpy(whitened), torch.eye(5).double())
    whole = whitening_matrix(x, method, labels=torch.zeros(60, dtype=torch.long), iterations=40)
    torch.testing.assert_close(whole[1], whitening_matrix(x, method, iterations=40)[1])


def test_eps_counts_in_shares_of_the_variance_within():
    x = features()
    labels = torch.arange(60) % 6
    s = torch.from_numpy(reference.within(x.numpy(), labels.tolist()))
    _, matrix = whitening_matrix(x, "zca", labels=labels, eps=0.5)
    expected = s + 0.5 * s.diagonal().mean() * torch.eye(5)
    torch.testing.assert_close(torch.linalg.inv(matrix @ matrix), expected)


def test_rotations_of_each_other():
    x = features()
    pca, zca = (whiten(x, *whitening_matrix(x, method)) for method in ("pca", "zca"))
    torch.testing.assert_close(torch.cdist(pca, pca), torch.cdist(zca, zca))


def test_deterministic():
    x = features()
    _, pca = whitening_matrix(x, "pca")
    assert (pca.gather(1, pca.abs().argmax(1, keepdim=True)) > 0).all()
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(whitening_matrix(x[perm], "pca")[1], pca)
    torch.testing.assert_close(whitening_matrix(-x, "pca")[1], pca)
    assert all(torch.equal(whitening_matrix(x, "pca")[1], pca) for _ in range(3))


@pytest.mark.parametrize("method", ["pca", "zca", "iterative"])
def test_eps_goes_to_a_mere_scaling(method):
    x = features()
    variance = torch.from_numpy(reference.covariance(x.numpy())[1]).diagonal().mean()
    _, matrix = whitening_matrix(x, method, eps=1e9, iterations=60)
    expected = torch.eye(5).double() / (variance * 1e9).sqrt()
    torch.testing.assert_close((matrix.mT @ matrix), expected @ expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", ["pca", "zca", "iterative"])
def test_fewer_samples_than_dimensions(method):
    x = features(4, 6)
    mean, matrix = whitening_matrix(x, method, eps=1e-3)
    assert matrix.isfinite().all()
    if method == "iterative":
        assert whitening_matrix(x, method)[1].isfinite().all()
    else:
        with pytest.raises(ValueError, match="of 4 features of width 6 is singular.*positive eps"):
            whitening_matrix(x, method)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_kept_and_the_work_is_done_in_float64(dtype):
    x = features().to(dtype)
    mean, matrix = whitening_matrix(x, "zca")
    assert mean.dtype == matrix.dtype == torch.float64
    y = whiten(x, mean, matrix)
    assert y.dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(whiten(x, *whitening_matrix(x, "zca")), y)


def test_input_is_left_alone():
    x = features()
    before = x.clone()
    whiten(x, *whitening_matrix(x, "pca"))
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (features(), {"method": "lda"}, "method must be one of.*'lda'"),
        (features(), {"eps": -1.0}, "eps must be >= 0, got -1.0"),
        (features(), {"iterations": -1}, "iterations must be >= 0, got -1"),
        (features(1), {}, "needs two samples at least, got 1"),
        (torch.ones(4, 3), {}, "All features are the same"),
        (torch.full((4, 3), math.nan), {}, "finite features"),
        (features(4), {"labels": torch.arange(4)}, "No label has two features that differ"),
        (features(4), {"labels": torch.arange(3)}, r"a label a feature: \(3,\) labels for .*4, 5"),
    ],
)
def test_rejects(x, options, message):
    with pytest.raises(ValueError, match=message):
        whitening_matrix(x, **options)
