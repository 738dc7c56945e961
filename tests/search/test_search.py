"""Searches: FAISS finds what exact search finds, or says how much of it."""

import copy
import logging
import sys
from typing import Any

import numpy as np
import pytest
import torch

from tests.references.similarity import distance, nearest
from torchreid_spectral.errors import InputError
from torchreid_spectral.rerank import RERANKERS, build_reranker
from torchreid_spectral.search import SEARCHES, ExactSearch, build_search

METRICS = ("cosine", "euclidean", "squared_euclidean")
FAISS = [name for name in SEARCHES if name.startswith("faiss")]
every_metric = pytest.mark.parametrize("metric", METRICS)


@pytest.fixture
def faiss() -> Any:
    return pytest.importorskip("faiss")


def clusters(seed: int, count: int, width: int = 8) -> torch.Tensor:
    """Draw images around many identities."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(60, width))
    x = centres[rng.integers(60, size=count)] + 0.3 * rng.normal(size=(count, width))
    return torch.from_numpy(x.astype(np.float32))


@every_metric
@pytest.mark.parametrize("k", [1, 7, 40, 99])
def test_exact_matches_reference(metric: str, k: int) -> None:
    query, gallery = clusters(0, 6), clusters(1, 40)
    indices, distances = build_search("exact", metric=metric).fit(gallery).nearest(query, k)
    order, expected = nearest(distance(query.numpy(), gallery.numpy(), metric), k)
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(distances, expected, atol=2e-5, rtol=1e-5)


@every_metric
@pytest.mark.parametrize("k", [1, 7, 300])
@pytest.mark.parametrize("chunk_size", [1, 5, 4096])
def test_faiss_flat_is_exact(faiss: Any, metric: str, k: int, chunk_size: int) -> None:
    query, gallery = clusters(2, 12), clusters(3, 200)
    search = build_search("faiss_flat", metric=metric, chunk_size=chunk_size).fit(gallery)
    indices, distances = search.nearest(query, k)
    expected = ExactSearch(metric=metric).fit(gallery).nearest(query, k)
    assert search.exact
    assert search.recall() == 1
    torch.testing.assert_close(indices, expected[0])
    torch.testing.assert_close(distances, expected[1], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["exact", *FAISS])
def test_ties_go_to_the_lower_index(name: str) -> None:
    if name != "exact":
        pytest.importorskip("faiss")
    axes = torch.eye(4)
    search = build_search(name).fit(axes[torch.arange(12) % 4])
    indices, distances = search.nearest(axes, 12)
    for i, row in enumerate(indices.tolist()):
        assert row == [*range(i, 12, 4), *(j for j in range(12) if j % 4 != i)]
    torch.testing.assert_close(distances, torch.tensor([[0.0] * 3 + [1.0] * 9] * 4))


@pytest.mark.parametrize("name", FAISS)
@every_metric
def test_approximate_distances_are_right(faiss: Any, name: str, metric: str) -> None:
    """It may miss a neighbour and never reports a wrong distance or an image twice."""
    query, gallery = clusters(4, 20), clusters(5, 1500)
    options = {} if name == "faiss_flat" else WEAK[name]
    search = build_search(name, metric=metric, **options).fit(gallery)
    indices, distances = search.nearest(query, 9)
    full = distance(query.numpy()[:4], gallery.numpy(), metric)
    picked = np.take_along_axis(full, indices.numpy()[:4], axis=1)
    np.testing.assert_allclose(distances[:4], picked, atol=2e-5, rtol=1e-5)
    assert (distances.diff(dim=1) >= 0).all()
    assert all(len(set(row)) == 9 for row in indices.tolist())
    assert indices.min() >= 0


WEAK: dict[str, dict[str, int]] = {
    "faiss_ivf": {"num_lists": 30, "num_probes": 1},
    "faiss_hnsw": {"num_links": 4, "build_breadth": 4, "search_breadth": 4},
}
FULL: dict[str, dict[str, int]] = {
    "faiss_ivf": {"num_lists": 30, "num_probes": 30},
    "faiss_hnsw": {"build_breadth": 400, "search_breadth": 1500},
}


@pytest.mark.parametrize("name", sorted(WEAK))
def test_recall(faiss: Any, name: str, caplog: pytest.LogCaptureFixture) -> None:
    gallery = clusters(6, 1500)
    with caplog.at_level(logging.INFO, logger="torchreid_spectral"):
        weak = build_search(name, **WEAK[name]).fit(gallery)
    assert "recall@10 0." in caplog.text
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert weak.sampled_recall == weak.recall()
    assert not weak.exact
    assert 0.5 < weak.recall() < 1
    assert weak.recall(seed=1) != weak.recall(seed=2)
    assert build_search(name, **FULL[name]).fit(gallery).recall() == 1
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="torchreid_spectral"):
        assert build_search(name).fit(gallery).recall() > 0.95
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_exact_search_has_no_sampled_recall() -> None:
    gallery = clusters(6, 20)
    assert build_search("exact").fit(gallery).sampled_recall is None
    assert build_reranker("none").fit(gallery).search_recall is None


@pytest.mark.parametrize("name", sorted(WEAK))
def test_recall_counts_what_is_found(faiss: Any, name: str) -> None:
    gallery = clusters(7, 1500)
    search = build_search(name, **WEAK[name]).fit(gallery)
    found, _ = search.nearest(gallery, 11)
    exact, _ = ExactSearch().fit(gallery).nearest(gallery, 11)
    pairs = zip(found.tolist(), exact.tolist())
    share = np.mean([len(set(mine) & set(right[1:])) / 10 for mine, right in pairs])
    assert search.recall(sample=1500) == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize("name", FAISS)
def test_list_that_is_not_full_is_filled(faiss: Any, name: str) -> None:
    """One probed list holds fewer than k: the exact answer takes its place."""
    query, gallery = clusters(8, 6), clusters(9, 400)
    options = WEAK.get(name, {})
    indices, distances = build_search(name, **options).fit(gallery).nearest(query, 400)
    expected = ExactSearch().fit(gallery).nearest(query, 400)
    torch.testing.assert_close(indices, expected[0])
    torch.testing.assert_close(distances, expected[1], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["exact", "faiss_flat", "faiss_ivf", "faiss_hnsw"])
@every_metric
def test_added_is_fitted(name: str, metric: str) -> None:
    if name != "exact":
        pytest.importorskip("faiss")
    query, gallery = clusters(10, 9), clusters(11, 600)
    options = FULL.get(name, {})
    whole = build_search(name, metric=metric, **options).fit(gallery)
    grown = build_search(name, metric=metric, **options).fit(gallery[:500])
    grown.add(gallery[500:520]).add(gallery[520:])
    for mine, theirs in zip(grown.nearest(query, 20), whole.nearest(query, 20)):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)
    refitted = grown.fit(gallery[:50]).nearest(query, 5)
    expected = ExactSearch(metric=metric).fit(gallery[:50]).nearest(query, 5)
    torch.testing.assert_close(refitted[0], expected[0])


@pytest.mark.parametrize("count", [1, 2, 30])
@pytest.mark.parametrize("name", FAISS)
def test_few_features(faiss: Any, name: str, count: int) -> None:
    query, gallery = clusters(12, 3), clusters(13, count)
    indices, _ = build_search(name).fit(gallery).nearest(query, 50)
    expected, _ = ExactSearch().fit(gallery).nearest(query, 50)
    torch.testing.assert_close(indices, expected)


@pytest.mark.parametrize("name", sorted(set(RERANKERS)))
def test_reranker_on_faiss_flat_is_that_on_exact(faiss: Any, name: str) -> None:
    query, gallery = clusters(14, 9), clusters(15, 120)
    options = {"metric": "cosine"} if name == "k_reciprocal" else {}
    for inductive in (False, True):
        answers = []
        for search in ("exact", "faiss_flat"):
            reranker = build_reranker(name, search=search, **options).fit(gallery[:90])
            reranker.add(gallery[90:])
            answers.append(reranker.distance_matrix(query, inductive=inductive))
        torch.testing.assert_close(*answers, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(set(RERANKERS)))
@pytest.mark.parametrize("search", ["exact", *FAISS])
def test_a_copy_of_a_reranker_is_fitted_as_it_would_be(search: str, name: str) -> None:
    """As the engine makes one for each test set."""
    if search != "exact":
        pytest.importorskip("faiss")
    query, gallery = clusters(14, 9), clusters(15, 120)
    options = {"metric": "cosine"} if name == "k_reciprocal" else {}
    reranker = build_reranker(name, search=search, **options)
    answers = [each.fit(gallery).distance_matrix(query) for each in (copy.deepcopy(reranker),
                                                                   reranker)]  # fmt: skip
    torch.testing.assert_close(*answers)


def test_search_object_with_options_of_its_own(faiss: Any) -> None:
    query, gallery = clusters(16, 9), clusters(17, 900)
    full = build_search("faiss_ivf", num_lists=12, num_probes=12)
    indices, _ = build_reranker("graph_walk", search=full).fit(gallery).rank(query)
    expected, _ = build_reranker("graph_walk").fit(gallery).rank(query)
    torch.testing.assert_close(indices, expected)


def test_two_rerankers_share_a_search_object_but_no_gallery() -> None:
    query, first, second = clusters(16, 9), clusters(17, 60), clusters(18, 70)
    search = build_search("exact")
    reranker = build_reranker("none", search=search).fit(first)
    before, _ = reranker.rank(query)
    build_reranker("local_blurring", search=search).fit(second)
    torch.testing.assert_close(reranker.rank(query)[0], before)


@pytest.mark.parametrize("name", sorted(WEAK))
def test_recall_is_measured_again_after_much_was_added(faiss: Any, name: str) -> None:
    gallery = clusters(6, 1600)
    search = build_search(name, **WEAK[name]).fit(gallery[:700])
    fitted = search.sampled_recall
    index = search._index
    assert search.add(gallery[700:750]).sampled_recall == fitted  # too few to look again
    search.add(gallery[750:1300])
    assert search.sampled_recall == search.recall() != fitted and search._index is index
    search.add(gallery[1300:])  # twice as many: its structure is that of a new one
    assert search._index is not index
    whole = build_search(name, **WEAK[name]).fit(gallery)
    assert search.sampled_recall == whole.sampled_recall


def test_k_reciprocal_needs_cosine_on_faiss(faiss: Any) -> None:
    with pytest.raises(ValueError, match="needs metric='cosine'.*search='exact'"):
        build_reranker("k_reciprocal", search="faiss_flat").fit(clusters(18, 30))


@pytest.mark.parametrize("copies", [1, 2])
def test_k_reciprocal_on_faiss_where_no_gallery_image_is_far_from_another(
    faiss: Any, copies: int
) -> None:
    """Zero is the distance of the farthest from an image of the gallery, but not from a query."""
    query, gallery = clusters(20, 1), clusters(21, 1).repeat(copies, 1)
    exact, on_faiss = (
        build_reranker("k_reciprocal", metric="cosine", search=search)
        .fit(gallery)
        .distance_matrix(query, inductive=False)
        for search in ("exact", "faiss_flat")
    )
    assert bool((exact > 0).all())
    torch.testing.assert_close(on_faiss, exact, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["faiss_flat", "faiss_ivf"])
@pytest.mark.parametrize("gpus", [-1, 1000])
def test_refuses_gpus_that_are_not_there(faiss: Any, name: str, gpus: int) -> None:
    with pytest.raises(ValueError, match=rf"gpus must be in \[0, \d+\], .*got {gpus}"):
        build_search(name, gpus=gpus)


@pytest.mark.parametrize("name", FAISS)
def test_missing_faiss_names_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=r"pip install 'torchreid-spectral\[faiss\]'"):
        build_reranker("local_blurring", search=name)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("exakt", {}, "Unknown search 'exakt'. Did you mean exact"),
        ("faiss_iv", {}, "Did you mean faiss_ivf"),
        ("exact", {"metric": "cosin"}, "Unknown metric 'cosin'. Did you mean cosine"),
        ("exact", {"chunk_size": 0}, "chunk_size must be >= 1, got 0"),
        ("exact", {"num_probes": 3}, "Search exact has no option 'num_probes'"),
        ("faiss_ivf", {"num_probes": 0}, "num_probes >= 1, got 0 and 0"),
        ("faiss_ivf", {"num_lists": -1}, "num_lists must be >= 0"),
        ("faiss_hnsw", {"num_links": 0}, "num_links must be >= 2, .* got 0, 80 and 128"),
        ("faiss_hnsw", {"num_links": 1}, "num_links must be >= 2, .* got 1, 80 and 128"),
        ("faiss_hnsw", {"search_breadth": 0}, ">= 1, got 32, 80 and 0"),
        ("faiss_hnsw", {"build_breadth": -1}, ">= 1, got 32, -1 and 128"),
    ],
)
def test_rejects_options(name: str, wrong: dict[str, Any], message: str) -> None:
    if name.startswith("faiss"):
        pytest.importorskip("faiss")
    with pytest.raises(ValueError, match=message):
        build_search(name, **wrong)


def test_few_neighbours_are_gathered_at_once(faiss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchreid_spectral.search import faiss as module

    query, gallery = clusters(0, 30), clusters(1, 40)
    search = build_search("faiss_flat").fit(gallery)
    expected = search.nearest(query, 40)
    asked, gather = [], search.rows

    def counted(near: torch.Tensor) -> torch.Tensor:
        asked.append(near.numel() * 8)
        return gather(near)

    monkeypatch.setattr(search, "rows", counted)
    monkeypatch.setattr(module, "ENTRIES_AT_ONCE", 1000)
    actual = search.nearest(query, 40)
    assert max(asked) <= 1000 and len(asked) == 10
    for left, right in zip(actual, expected, strict=True):
        torch.testing.assert_close(left, right)


@every_metric
@pytest.mark.parametrize("name", ["exact", "faiss_flat"])
def test_queries_and_features_of_two_precisions(name: str, metric: str) -> None:
    if name.startswith("faiss"):
        pytest.importorskip("faiss")
    query, gallery = clusters(30, 5), clusters(31, 40)
    for kind in (torch.float64, torch.float16):
        search = build_search(name, metric=metric).fit(gallery.to(kind).float())
        expected = search.nearest(query.to(kind).float(), 4)
        torch.testing.assert_close(search.nearest(query.to(kind), 4), expected)
        search.add(gallery[:3].to(kind))
        assert len(search.features) == 43


@pytest.mark.parametrize("name", ["exact", "faiss_flat"])
def test_wrong_use_of_a_search_is_told(name: str) -> None:
    if name.startswith("faiss"):
        pytest.importorskip("faiss")
    search = build_search(name)
    for early in (lambda: search.nearest(clusters(32, 2), 1), lambda: search.add(clusters(32, 2))):
        with pytest.raises(InputError, match="has nothing to search in: call fit first"):
            early()
    search.fit(clusters(33, 9))
    with pytest.raises(InputError, match=r"must be \(N, 8\), .* got \(2, 7\)"):
        search.nearest(clusters(34, 2, 7), 1)
    with pytest.raises(InputError, match="k must be >= 1, got 0"):
        search.nearest(clusters(34, 2), 0)
