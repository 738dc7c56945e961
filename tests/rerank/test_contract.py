"""The contract that every re-ranker keeps."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.references.similarity import cosine, nearest
from torchreid_spectral.errors import InputError
from torchreid_spectral.rerank import RERANKERS, build_reranker


class Case(NamedTuple):
    """A re-ranker as the tests below build it; ``repairs``: it mends a wrong first place.

    k-NN voting (None) does not: by its formula the first place keeps 1 + 1/2 of all votes.
    """

    name: str
    options: dict[str, Any]
    repairs: bool | None = True


CASES = [
    Case("none", {}, repairs=False),
    Case("local_blurring", {"k": 8, "temperature": 0.1}),
    Case("local_blurring", {"k": 6, "temperature": 0.2, "steps": 3}),
    Case("k_reciprocal", {"k1": 3, "k2": 4, "metric": "cosine"}),
    Case("graph_walk", {"k": 3, "num_averaged": 4, "lambda_value": 0.1}),
    Case("graph_walk", {"k": 4, "walked": "features", "steps": 2, "lambda_value": 0.1}),
    Case("graph_walk", {"k": 4, "walked": "scores", "steps": 2, "restart": 0.3}),
    Case("group_shuffling", {"k": 8, "groups": 1}),
    Case("supervised_manifold", {"k": 8}),
    Case("knn_voting", {"k": 4, "depth": 4}, repairs=None),
]
JOINT = {"k_reciprocal", "graph_walk"}  # treat the queries of one call jointly, as their papers do
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} {case.options}")


def features(seed: int, *shape: int) -> np.ndarray:
    """Draw positive features, as those behind a ReLU: no cosine below zero."""
    return np.abs(np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


@pytest.fixture
def strict() -> Iterator[None]:
    """Raise on any warning, also on one that PyTorch gives only once in a process."""
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_warn_always(False)


def fitted(case: Case, gallery: Any, **kwargs: Any) -> Any:
    reranker = build_reranker(case.name, **case.options)
    reranker.fit(gallery, **kwargs)
    return reranker


@pytest.mark.parametrize("top_k", [1, 5, 20, 100])
def test_none_keeps_the_order(top_k: int) -> None:
    query, gallery = features(0, 4, 6), features(1, 20, 6)
    indices, distances = fitted(CASES[0], gallery).rank(query, top_k=top_k)
    expected_indices, expected = nearest(1.0 - cosine(query, gallery), top_k)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(distances, expected, rtol=1e-6, atol=2e-7)


def test_none_orders_ties_by_index() -> None:
    gallery = np.eye(4, dtype=np.float32)[np.arange(40) % 4]
    indices, _ = fitted(CASES[0], gallery).rank(np.eye(4, dtype=np.float32), top_k=12)
    for q in range(4):
        others = [j for j in range(40) if j % 4 != q]
        assert indices[q].tolist() == [*range(q, 40, 4), *others[:2]]


def corrupted_perfect_case() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two identities of four images; each query looks most like one image of the other.

    An image is its identity's axis plus something of its own; a query is its identity's axis plus
    much of what is one wrong image's own. All the rest of the wrong identity is at a right angle.
    """
    own = np.eye(10, dtype=np.float32)
    pids = np.repeat([0, 1], 4)
    gallery = own[pids] + 0.5 * own[2:]
    query = np.stack([own[0] + 2.2 * own[2 + 5], own[1] + 2.2 * own[2 + 1]])
    return query, gallery, np.array([0, 1]), pids


@every_case
def test_corrupted_perfect_case_is_repaired(case: Case) -> None:
    query, gallery, query_pids, pids = corrupted_perfect_case()
    plain, _ = fitted(CASES[0], gallery).rank(query)
    assert (pids[plain[:, 0]] != query_pids).all()
    indices, _ = fitted(case, gallery).rank(query)
    if case.repairs is None:
        return
    if case.repairs:
        np.testing.assert_array_equal(pids[indices], [[0] * 4 + [1] * 4, [1] * 4 + [0] * 4])
    else:
        np.testing.assert_array_equal(indices, plain)


@every_case
def test_perfect_case_stays_perfect(case: Case) -> None:
    _, gallery, query_pids, pids = corrupted_perfect_case()
    query = np.eye(2, 10, dtype=np.float32)
    indices, _ = fitted(case, gallery).rank(query)
    np.testing.assert_array_equal(pids[indices[:, :4]], query_pids[:, None].repeat(4, 1))


@every_case
@pytest.mark.parametrize("top_k", [1, 3, 8, 25, 400])
def test_shape_order_and_consistency(case: Case, top_k: int) -> None:
    query, gallery = features(2, 5, 6), features(3, 25, 6)
    reranker = fitted(case, gallery)
    indices, distances = reranker.rank(query, top_k=top_k)
    assert indices.shape == distances.shape == (5, min(top_k, 25))
    assert np.issubdtype(indices.dtype, np.integer)
    assert np.isfinite(distances).all()
    assert (np.diff(distances, axis=1) >= 0).all()
    assert all(len(set(row)) == len(row) for row in indices.tolist())
    whole = reranker.rank(query, top_k=25)
    np.testing.assert_array_equal(indices, whole[0][:, :top_k])
    np.testing.assert_allclose(distances, whole[1][:, :top_k], rtol=1e-6, atol=1e-7)
    matrix = reranker.distance_matrix(query)
    assert matrix.shape == (5, 25)
    picked = np.take_along_axis(matrix, indices, axis=1)
    np.testing.assert_allclose(picked, distances, rtol=1e-6, atol=1e-7)


@every_case
def test_sorting_the_matrix_gives_the_ranking(case: Case) -> None:
    query, gallery = features(4, 5, 6), features(5, 25, 6)
    reranker = fitted(case, gallery)
    order = np.argsort(reranker.distance_matrix(query), axis=1, kind="stable")
    np.testing.assert_array_equal(order, reranker.rank(query, top_k=25)[0])


@every_case
def test_default_is_a_hundred(case: Case) -> None:
    indices, distances = fitted(case, features(6, 130, 6)).rank(features(7, 2, 6))
    assert indices.shape == distances.shape == (2, 100)


@every_case
@pytest.mark.parametrize("size", [1, 2, 4])
def test_chunked_is_whole(case: Case, size: int) -> None:
    if case.name in JOINT:
        pytest.skip("its queries are nodes of one graph: see its own tests")
    query, gallery = features(8, 5, 6), features(9, 25, 6)
    reranker = fitted(case, gallery)
    whole = reranker.rank(query, top_k=25)
    parts = [reranker.rank(query[i : i + size], top_k=25) for i in range(0, 5, size)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), whole[0])
    np.testing.assert_allclose(np.concatenate([part[1] for part in parts]), whole[1], atol=2e-6)
    matrices = [reranker.distance_matrix(query[i : i + size]) for i in range(0, 5, size)]
    expected = reranker.distance_matrix(query)
    np.testing.assert_allclose(np.concatenate(matrices), expected, atol=2e-6)


@every_case
def test_order_of_the_gallery_does_not_matter(case: Case) -> None:
    query, gallery = features(10, 5, 6), features(11, 25, 6)
    perm = np.random.default_rng(0).permutation(25)
    indices, distances = fitted(case, gallery).rank(query, top_k=25)
    shuffled, shuffled_distances = fitted(case, gallery[perm]).rank(query, top_k=25)
    np.testing.assert_array_equal(perm[shuffled], indices)
    np.testing.assert_allclose(shuffled_distances, distances, atol=2e-6)


@every_case
def test_one_query(case: Case) -> None:
    query, gallery = features(12, 1, 6), features(13, 25, 6)
    reranker = fitted(case, gallery)
    indices, _ = reranker.rank(query, top_k=7)
    assert indices.shape == (1, 7)
    assert reranker.distance_matrix(query).shape == (1, 25)


@every_case
@pytest.mark.parametrize("size", [1, 2, 5])
def test_gallery_smaller_than_k(case: Case, size: int) -> None:
    query, gallery = features(14, 3, 6), features(15, size, 6)
    indices, distances = fitted(case, gallery).rank(query, top_k=10)
    assert np.sort(indices, axis=1).tolist() == [list(range(size))] * 3
    assert np.isfinite(distances).all()


@every_case
def test_inputs_are_left_alone(case: Case) -> None:
    query, gallery, camids = features(16, 3, 6), features(17, 25, 6), np.arange(25) % 3
    before = query.copy(), gallery.copy(), camids.copy()
    reranker = fitted(case, gallery, camids=camids)
    reranker.rank(query)
    reranker.distance_matrix(query)
    for array, copy in zip((query, gallery, camids), before):
        np.testing.assert_array_equal(array, copy)


@every_case
def test_answers_twice_and_fits_again(case: Case) -> None:
    query, gallery = features(18, 3, 6), features(19, 25, 6)
    reranker = fitted(case, gallery)
    first, second = reranker.rank(query), reranker.rank(query)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    reranker.fit(gallery[:9])
    expected = fitted(case, gallery[:9]).rank(query)
    np.testing.assert_array_equal(reranker.rank(query)[0], expected[0])


@every_case
@pytest.mark.parametrize("gallery_kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("query_kind", [np.asarray, torch.from_numpy])
def test_answer_is_of_the_query_s_kind(case: Case, query_kind: Any, gallery_kind: Any) -> None:
    query, gallery = features(20, 3, 6), features(21, 25, 6)
    reranker = fitted(case, gallery_kind(gallery))
    indices, distances = reranker.rank(query_kind(query), top_k=25)
    matrix = reranker.distance_matrix(query_kind(query))
    kind = torch.Tensor if query_kind is torch.from_numpy else np.ndarray
    for answer in (indices, distances, matrix):
        assert isinstance(answer, kind)
    expected = fitted(case, gallery).rank(query, top_k=25)
    np.testing.assert_array_equal(np.asarray(indices), expected[0])
    np.testing.assert_allclose(np.asarray(distances), expected[1], rtol=1e-6, atol=1e-7)


@every_case
def test_zero_vectors_and_duplicates(case: Case) -> None:
    query, gallery = features(22, 3, 6), features(23, 12, 6)
    gallery[4] = 0
    gallery[7] = gallery[2]
    query[1] = 0
    indices, distances = fitted(case, gallery).rank(query)
    assert np.sort(indices, axis=1).tolist() == [list(range(12))] * 3
    assert np.isfinite(distances).all()


@every_case
@pytest.mark.parametrize("copies", [2, 3, 5])
def test_copies_do_not_break_the_order(case: Case, copies: int) -> None:
    """Whatever place a method treats as its last, some copy of that image is just behind it."""
    query, gallery = features(24, 40, 6), features(25, 6, 6).repeat(copies, axis=0)
    reranker = fitted(case, gallery)
    indices, distances = reranker.rank(query)
    assert (np.diff(distances, axis=1) >= 0).all()
    assert np.sort(indices, axis=1).tolist() == [list(range(6 * copies))] * 40
    picked = np.take_along_axis(reranker.distance_matrix(query), indices, axis=1)
    np.testing.assert_allclose(picked, distances, rtol=1e-6, atol=1e-6)


@every_case
@pytest.mark.parametrize("view", ["read-only", "reversed", "float64", "strided"])
def test_any_array_will_do(case: Case, view: str, strict: None) -> None:
    query, gallery = features(26, 3, 6), features(27, 25, 6)
    expected = fitted(case, gallery).rank(query)
    if view == "read-only":
        query, gallery = query.copy(), gallery.copy()
        query.flags.writeable = gallery.flags.writeable = False
    elif view == "reversed":
        query, gallery = query[::-1].copy()[::-1], gallery[::-1].copy()[::-1]
    elif view == "float64":
        query, gallery = query.astype(np.float64), gallery.astype(np.float64)
    else:
        query, gallery = np.asfortranarray(query), np.repeat(gallery, 2, axis=0)[::2]
    actual = fitted(case, gallery).rank(query)
    np.testing.assert_array_equal(actual[0], expected[0])
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-6, atol=1e-6)


def test_rejects_name() -> None:
    with pytest.raises(ValueError, match="no_such_reranker"):
        build_reranker("no_such_reranker")


@every_case
def test_autocast_changes_nothing(case: Case) -> None:
    """Half-precision products would move a third of the places of some methods."""
    query, gallery = features(0, 6, 64), features(1, 60, 64)
    expected, distances = fitted(case, gallery).rank(query, top_k=60)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, shifted = fitted(case, gallery).rank(query, top_k=60)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(shifted, distances)


def test_every_reranker_keeps_the_contract_and_has_a_slow_twin() -> None:
    assert {case.name for case in CASES} == set(RERANKERS)
    twins = Path(__file__).parents[1] / "references"
    for name in set(RERANKERS) - {"none"}:
        assert (twins / f"{name}.py").is_file(), name


@every_case
def test_numbers_beyond_float32_are_not_finite(case: Case) -> None:
    gallery = features(1, 20, 6).astype(np.float64)
    gallery[3] *= 1e40
    with pytest.raises(InputError, match="must be finite"):
        fitted(case, gallery)


@every_case
def test_numbers_whose_squares_float32_cannot_hold_are_refused(case: Case) -> None:
    gallery = features(1, 20, 6)
    gallery[3] *= 1e20
    with pytest.raises(InputError, match=r"within ±1e\+16, got .*Scale the features"):
        fitted(case, gallery)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("graph_walk", {"k": 5}),
        ("graph_walk", {}),
        ("k_reciprocal", {"k1": 5, "k2": 2}),
        ("k_reciprocal", {"k1": 5, "k2": 2, "metric": "cosine"}),
        ("k_reciprocal", {"k1": 5, "k2": 2, "metric": "euclidean"}),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_copies_of_gallery_images_are_answered_alone_as_together(
    name: str, options: dict[str, Any], scale: float
) -> None:
    """A copy of someone's k-th neighbour is as near as that one, to the last bit or not."""
    for seed in range(5):
        gallery = features(seed, 120, 64) * np.float32(scale)
        query = gallery[:20].copy()
        reranker = build_reranker(name, **options).fit(gallery)
        together = reranker.distance_matrix(query, inductive=True)
        alone = [reranker.distance_matrix(query[i : i + 1], inductive=True) for i in range(20)]
        np.testing.assert_allclose(together, np.concatenate(alone), atol=5e-6)


@pytest.mark.parametrize("name", ["local_blurring", "group_shuffling", "supervised_manifold"])
def test_duplicates_of_the_kth_stay_behind_the_head(name: str) -> None:
    """In the matrix too, where a tie with the rest would be decided by the index."""
    rng = np.random.default_rng(4)
    gallery = np.repeat(np.abs(rng.normal(size=(6, 16))), 4, axis=0)[rng.permutation(24)]
    query = np.abs(rng.normal(size=(40, 16)))
    reranker = build_reranker(name, k=6).fit(gallery.astype(np.float32))
    matrix = reranker.distance_matrix(query.astype(np.float32))
    heads, _ = reranker.rank(query.astype(np.float32), top_k=6)
    found = np.argsort(matrix, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(heads, axis=1))


@every_case
@pytest.mark.parametrize("step", ["fit", "add", "restore"])
def test_what_is_interrupted_leaves_no_gallery(
    case: Case, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old lists beside new features would answer, and wrongly."""
    gallery, other, query = features(1, 25, 6), features(2, 25, 6), features(3, 3, 6)
    reranker = fitted(case, gallery)

    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        inner = {"fit": "_fitted", "add": "_added", "restore": "_restore"}[step]
        patch.setattr(reranker, inner, interrupted)
        with pytest.raises(KeyboardInterrupt):
            given = {"gallery": torch.from_numpy(other)} if step == "restore" else other
            getattr(reranker, step)(given)
    with pytest.raises(InputError, match="has no gallery yet: call fit"):
        reranker.rank(query)
    expected = fitted(case, other).rank(query)[0]
    np.testing.assert_array_equal(reranker.fit(other).rank(query)[0], expected)


@pytest.mark.parametrize("name", ["none", "k_reciprocal"])
def test_short_features_are_ranked_as_long_ones(name: str) -> None:
    """Euclidean distances below 1e-6 are no ties."""
    gallery = np.random.default_rng(2).normal(size=(40, 5)).astype(np.float32)
    expected = build_reranker(name, metric="euclidean").fit(gallery).rank(gallery[:9], 40)[0]
    small = gallery * np.float32(2.0**-30)
    found = build_reranker(name, metric="euclidean").fit(small).rank(small[:9], 40)[0]
    assert (found == expected).mean() > 0.99


@pytest.mark.parametrize("name", sorted(RERANKERS))
def test_features_that_are_too_small_to_square(name: str) -> None:
    gallery = np.full((4, 4), 1e-25, dtype=np.float32)
    with pytest.raises(InputError, match="must hold numbers of at least 1e-18, got 1e-25"):
        build_reranker(name).fit(gallery)
    build_reranker(name, **({"k": 2} if name not in ("none", "k_reciprocal") else {})).fit(
        np.zeros((4, 4), dtype=np.float32)
    )


def test_features_of_any_byte_order() -> None:
    gallery = np.random.default_rng(3).normal(size=(9, 4)).astype(np.float32)
    expected = build_reranker("none").fit(gallery).rank(gallery, 9)
    for kind in (">f4", "<f4", ">f8"):
        found = build_reranker("none").fit(gallery.astype(kind)).rank(gallery.astype(kind), 9)
        np.testing.assert_array_equal(found[0], expected[0])
    for wrong in (gallery.astype(np.longdouble), gallery.astype(object)):
        with pytest.raises(InputError, match="must be floating point"):
            build_reranker("none").fit(wrong)
