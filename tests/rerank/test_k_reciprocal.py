"""k-reciprocal re-ranking equals its twin and torchreid's ``re_ranking``."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.references.k_reciprocal import k_reciprocal
from torchreid_spectral import _compat
from torchreid_spectral.evaluation import evaluate_rank
from torchreid_spectral.functional import ranking
from torchreid_spectral.functional.distance import METRICS, PREPARED_METRICS
from torchreid_spectral.rerank import KReciprocal, _neighbours, build_reranker
from torchreid_spectral.rerank import k_reciprocal as module

PAPER = (20, 6, 0.3)
CUHK03 = (7, 3, 0.85)
SETTINGS = [PAPER, CUHK03, (6, 1, 0.3), (5, 2, 0.0), (1, 4, 0.5), (13, 9, 1.0)]
every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=str)


def clusters(
    seed: int, num_query: int = 12, num_gallery: int = 70, width: int = 8, spread: float = 0.6
) -> tuple[np.ndarray, np.ndarray]:
    """Draw images around a few identities, of unit length, without duplicates."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(9, width))
    pids = rng.integers(9, size=num_query + num_gallery)
    x = centres[pids] + spread * rng.normal(size=(len(pids), width))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return x[:num_query], x[num_query:]


def options(setting: tuple[int, int, float], **others: Any) -> dict[str, Any]:
    return dict(zip(("k1", "k2", "lambda_value"), setting)) | others


def matrix(query: Any, gallery: Any, **kwargs: Any) -> Any:
    return KReciprocal(**kwargs).fit(gallery).distance_matrix(query)


def torchreid_s(
    query: np.ndarray, gallery: np.ndarray, setting: tuple[int, int, float], metric: str
) -> np.ndarray:
    """Do what torchreid's engine does."""
    root = _compat.load()
    q, g = torch.from_numpy(query), torch.from_numpy(gallery)
    blocks = [
        root.metrics.compute_distance_matrix(left, right, metric).numpy()
        for left, right in ((q, g), (q, q), (g, g))
    ]
    return root.utils.re_ranking(*blocks, *setting)


@every_setting
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_equals_torchreid(setting: tuple[int, int, float], metric: str) -> None:
    query, gallery = clusters(0, 30, 150)
    expected = torchreid_s(query, gallery, setting, metric)
    ours = "squared_euclidean" if metric == "euclidean" else metric
    actual = matrix(query, gallery, **options(setting, metric=ours))
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("spread", [0.1, 2.0])
def test_equals_torchreid_at_any_scale(spread: float, scale: float) -> None:
    query, gallery = (scale * x for x in clusters(1, 30, 150, 32, spread))
    expected = torchreid_s(query, gallery, PAPER, "euclidean")
    np.testing.assert_allclose(matrix(query, gallery), expected, atol=1e-5, rtol=0)


@every_setting
@pytest.mark.parametrize("square_distances", [True, False])
@pytest.mark.parametrize("metric", sorted(METRICS))
def test_equals_the_loops(
    setting: tuple[int, int, float], metric: str, square_distances: bool
) -> None:
    query, gallery = clusters(2, 6, 40)
    expected = k_reciprocal(query, gallery, *setting, metric, square_distances)
    kwargs = options(setting, metric=metric, square_distances=square_distances)
    np.testing.assert_allclose(matrix(query, gallery, **kwargs), expected, atol=5e-6, rtol=0)


def test_the_paper_s_distance_has_two_names() -> None:
    query, gallery = clusters(3)
    root = matrix(query, gallery, metric="euclidean")
    squared = matrix(query, gallery, square_distances=False)
    np.testing.assert_allclose(root, squared, atol=5e-6, rtol=0)
    assert np.abs(squared - matrix(query, gallery)).max() > 0.01


@pytest.mark.parametrize(("num_query", "num_gallery"), [(1, 1), (1, 2), (3, 1), (1, 30), (5, 6)])
@pytest.mark.parametrize("setting", [*SETTINGS, (11, 11, 0.3), (500, 400, 0.3)], ids=str)
def test_few_images(num_query: int, num_gallery: int, setting: tuple[int, int, float]) -> None:
    """One query, one gallery image, and k1 or k2 beyond the number of nodes."""
    query, gallery = clusters(4, num_query, num_gallery)
    actual = matrix(query, gallery, **options(setting))
    np.testing.assert_allclose(actual, k_reciprocal(query, gallery, *setting), atol=5e-6, rtol=0)
    expected = torchreid_s(query, gallery, setting, "euclidean")
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk_size", [1, 5, 11, 12, 1000])
def test_does_not_depend_on_the_chunks(chunk_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = clusters(5)
    whole = KReciprocal().fit(gallery)
    monkeypatch.setattr(ranking, "TILE_SIZE", 9)
    monkeypatch.setattr(_neighbours, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 40)
    chunked = KReciprocal(chunk_size=chunk_size).fit(gallery)
    distances = chunked.distance_matrix(query)
    monkeypatch.undo()
    np.testing.assert_allclose(distances, whole.distance_matrix(query), atol=2e-6, rtol=0)
    positions = [rows for rows, _ in chunked.iter_distances(query)]
    assert [i for rows in positions for i in range(rows.start, rows.stop)] == list(range(12))
    np.testing.assert_array_equal(chunked.rank(query)[0], whole.rank(query)[0])


def test_no_block_is_larger_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, original = [], PREPARED_METRICS["squared_euclidean"]

    def spy(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        result = original(x, y)
        sizes.append(result.numel())
        return result

    monkeypatch.setitem(PREPARED_METRICS, "squared_euclidean", spy)
    monkeypatch.setattr(_neighbours, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 256)
    query, gallery = clusters(6, 40, 300)
    matrix(query, gallery, chunk_size=4)
    assert max(sizes) == 4 * 300


def test_queries_are_nodes_too() -> None:
    """What a query is given with may change its distances, as in the paper."""
    query, gallery = clusters(7)
    alone, together = matrix(query[:1], gallery), matrix(query, gallery)[:1]
    assert np.abs(alone - together).max() > 1e-3
    np.testing.assert_allclose(alone, k_reciprocal(query[:1], gallery, *PAPER), atol=5e-6, rtol=0)


def test_order_of_queries_and_gallery_does_not_matter() -> None:
    query, gallery = clusters(8)
    rows, columns = (np.random.default_rng(0).permutation(len(x)) for x in (query, gallery))
    actual = matrix(query[rows], gallery[columns])
    expected = matrix(query, gallery)[rows][:, columns]
    np.testing.assert_allclose(actual, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("top_k", [1, 7, 70, 500])
def test_ranking_sorts_the_matrix(top_k: int) -> None:
    query, gallery = clusters(9)
    reranker = KReciprocal().fit(gallery)
    indices, distances = reranker.rank(query, top_k=top_k)
    expected = reranker.distance_matrix(query)
    order = np.argsort(expected, axis=1, kind="stable")[:, :top_k]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(distances, np.take_along_axis(expected, order, axis=1))
    assert distances.min() >= 0
    assert distances.max() <= 1


def test_lambda_one_is_the_plain_order() -> None:
    query, gallery = clusters(10)
    indices, _ = KReciprocal(lambda_value=1.0).fit(gallery).rank(query)
    plain, _ = build_reranker("none", metric="euclidean").fit(gallery).rank(query)
    np.testing.assert_array_equal(indices, plain)


def test_helps_on_noisy_identities() -> None:
    rng = np.random.default_rng(11)
    pids = np.repeat(np.arange(30), 12)
    x = rng.normal(size=(30, 64))[pids] + 2.0 * rng.normal(size=(360, 64))
    is_query = np.arange(360) % 12 == 0
    args = (pids[is_query], pids[~is_query], np.zeros(30), np.ones(330))
    precision = {
        name: evaluate_rank(
            build_reranker(name, **kwargs).fit(x[~is_query]).distance_matrix(x[is_query]), *args
        )[1]
        for name, kwargs in (("none", {}), ("k_reciprocal", {"metric": "cosine"}))
    }
    assert precision["k_reciprocal"] > precision["none"] + 0.1


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("x", [np.zeros((40, 4)), np.ones((40, 4)), np.full((40, 4), 1e9)])
def test_all_images_the_same(x: np.ndarray, metric: str) -> None:
    distances = matrix(x[:5], x[5:], metric=metric)
    assert np.isfinite(distances).all()
    assert (distances >= 0).all()
    assert (distances <= 1).all()


@pytest.mark.parametrize("copies", [2, 10])
def test_duplicates(copies: int) -> None:
    """Also with more copies than neighbours an image finds its copies before all others."""
    gallery = np.eye(8, dtype=np.float32).repeat(copies, axis=0)
    indices, distances = KReciprocal(k1=4, k2=3).fit(gallery).rank(np.eye(8), top_k=copies)
    np.testing.assert_array_equal(
        np.sort(indices) // copies, np.arange(8)[:, None].repeat(copies, 1)
    )
    assert np.isfinite(distances).all()


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_answers_in_kind_and_leaves_inputs_alone(kind: Any, dtype: type) -> None:
    query, gallery = (x.astype(dtype) for x in clusters(12))
    before = query.copy(), gallery.copy()
    reranker = KReciprocal().fit(kind(gallery))
    for answer in (*reranker.rank(kind(query)), reranker.distance_matrix(kind(query))):
        assert isinstance(answer, type(kind(query)))
    assert "float32" in str(reranker.distance_matrix(kind(query)).dtype)
    np.testing.assert_array_equal(query, before[0])
    np.testing.assert_array_equal(gallery, before[1])
    np.testing.assert_array_equal(np.asarray(reranker.gallery), gallery.astype(np.float32))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k1": 0}, "k1 must be >= 1, got 0"),
        ({"k2": 0}, "k2 must be >= 1, got 0"),
        ({"lambda_value": 1.5}, "lambda_value must be in"),
        ({"lambda_value": float("nan")}, "lambda_value must be in"),
        ({"metric": "euclidian"}, "Did you mean euclidean"),
        ({"chunk_size": 0}, "chunk_size must be >= 1"),
        ({"k": 5}, "no option 'k'"),
    ],
)
def test_rejects_options(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_reranker("k_reciprocal", **wrong)


def test_rejects_inputs() -> None:
    query, gallery = clusters(13)
    with pytest.raises(ValueError, match="no gallery yet"):
        KReciprocal().rank(query)
    reranker = KReciprocal().fit(gallery)
    with pytest.raises(ValueError, match="top_k must be >= 1"):
        reranker.rank(query, top_k=0)
    for call in (reranker.rank, reranker.distance_matrix):
        with pytest.raises(ValueError, match="same width"):
            call(query[:, :3])
        with pytest.raises(ValueError, match="must be finite"):
            call(np.full_like(query, np.nan))
