"""Tests of evaluation.features: metrics of chunks and of ranked lists."""

import numpy as np
import pytest
import torch

from tests.references import evaluation as reference
from torchreid_spectral.errors import InputError
from torchreid_spectral.evaluation import (
    QueryResults,
    evaluate_blocks,
    evaluate_indices,
    evaluate_queries,
    evaluate_rank,
)
from torchreid_spectral.rerank import build_reranker

from .cases import KINDS, blocks, case

FIGURES = ("average_precision", "trapezoidal", "inverse_penalty")


def same(found: QueryResults, expected: QueryResults) -> None:
    for name in (*FIGURES, "cmc"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def lists(data: tuple[np.ndarray, ...], length: int | None = None) -> np.ndarray:
    return np.argsort(data[0], axis=1, kind="stable")[:, :length]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 5, 17, 100])
def test_chunks_equal_the_whole_and_the_definition(kind, size):
    data = case(0, **KINDS[kind])
    found = evaluate_blocks(blocks(data[0], size), *data[1:], max_rank=12)
    expected = reference.mean(reference.evaluate(reference.full_lists(data[0]), *data[1:], 12))
    assert found.mAP == pytest.approx(expected["average_precision"], abs=1e-12)
    assert found.mINP == pytest.approx(expected["inverse_penalty"], abs=1e-12)
    assert found.mAP_trapezoidal == pytest.approx(expected["trapezoidal"], abs=1e-12)
    cmc, precision = evaluate_rank(*data, max_rank=12)
    np.testing.assert_array_equal(found.cmc, cmc)
    assert found.mAP == precision
    assert (found.num_queries, found.num_valid) == (len(data[1]), expected["valid"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_full_lists_equal_the_distances(kind, seed):
    data = case(seed, **KINDS[kind])
    same(evaluate_indices(lists(data), *data[1:]), evaluate_queries(*data))


@pytest.mark.parametrize("length", [1, 7, 30, 59])
@pytest.mark.parametrize("names", [False, True])
def test_short_lists_equal_the_definition(length, names):
    data = case(1, names=names)
    ranked = lists(data, length)
    found = evaluate_indices(ranked, *data[1:], max_rank=12)
    expected = reference.evaluate(ranked.tolist(), *data[1:], 12)
    whole = evaluate_queries(*data, max_rank=12)
    for row, each in enumerate(expected):
        for name in FIGURES:
            value = getattr(found, name)[row]
            assert np.isnan(value) if each is None else abs(value - each[name]) < 1e-12
            assert each is None or value <= getattr(whole, name)[row] + 1e-12  # a lower bound
        assert found.cmc[row].tolist() == ([0.0] * 12 if each is None else each["cmc"])


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_lists_of_any_integers(dtype):
    data = case(2)
    same(evaluate_indices(lists(data).astype(dtype), *data[1:]), evaluate_queries(*data))


def test_empty_places_are_passed_over():
    """Approximate searches give -1 where they found nothing."""
    data = case(2)
    ranked = lists(data, 20)
    holes = np.full((len(ranked), 40), -1)
    holes[:, ::2] = ranked
    same(evaluate_indices(holes, *data[1:]), evaluate_indices(ranked, *data[1:]))
    nothing = evaluate_indices(holes[:, :0], *data[1:])
    valid = ~np.isnan(nothing.average_precision)
    assert valid.any()
    for name in FIGURES:
        assert not getattr(nothing, name)[valid].any()
    assert not nothing.cmc.any()


@pytest.mark.parametrize("seed", range(3))
def test_relabelling_changes_nothing(seed):
    distances, *ids = case(seed)
    rng = np.random.default_rng(seed)
    pid, camid = rng.permutation(99), rng.permutation(99) - 50
    other = [pid[ids[0]], pid[ids[1]], camid[ids[2]], camid[ids[3]]]
    same(evaluate_queries(distances, *other), evaluate_queries(distances, *ids))
    ranked = lists((distances,), 25)
    same(evaluate_indices(ranked, *other), evaluate_indices(ranked, *ids))


@pytest.mark.parametrize("seed", range(3))
def test_order_of_the_gallery_changes_nothing(seed):
    distances, q_pids, g_pids, q_camids, g_camids = case(seed)
    order = np.random.default_rng(seed).permutation(len(g_pids))
    ids = (q_pids, g_pids[order], q_camids, g_camids[order])
    expected = evaluate_queries(distances, q_pids, g_pids, q_camids, g_camids)
    same(evaluate_queries(distances[:, order], *ids), expected)
    same(evaluate_indices(lists((distances[:, order],)), *ids), expected)


def test_a_monotone_change_of_distances_changes_nothing():
    distances, *ids = case(4)
    same(evaluate_queries(np.exp(3 * distances) - 7, *ids), evaluate_queries(distances, *ids))


@pytest.mark.parametrize("name", ["none", "k_reciprocal"])
def test_straight_from_features(name):
    _, *ids = case(5)
    rng = np.random.default_rng(5)
    query, gallery = (rng.normal(size=(n, 8)).astype(np.float32) for n in (17, 60))
    reranker = build_reranker(name, chunk_size=4).fit(gallery)
    found = evaluate_blocks(reranker.iter_distances(torch.from_numpy(query)), *ids)
    cmc, precision = evaluate_rank(reranker.distance_matrix(query), *ids)
    np.testing.assert_array_equal(found.cmc, cmc)
    assert found.mAP == precision
    of_lists = QueryResults.mean([evaluate_indices(reranker.rank(query, 60)[0], *ids)])
    assert of_lists.mAP == pytest.approx(precision, abs=1e-12)


@pytest.mark.parametrize("cuhk03", [False, True])
def test_chunks_equal_torchreids_evaluator(torchreid, monkeypatch, cuhk03):
    from torchreid_spectral import _compat

    monkeypatch.setattr(np, "bool", bool, raising=False)  # torchreid asks for it
    data = case(6)
    theirs = _compat.submodule("metrics.rank")
    np.random.seed(0)
    function = theirs.eval_cuhk03 if cuhk03 else theirs.eval_market1501
    expected = function(*data, 5)
    np.random.seed(0)
    found = evaluate_blocks(blocks(data[0], 3), *data[1:], 5, use_metric_cuhk03=cuhk03)
    np.testing.assert_allclose(found.cmc, expected[0], atol=1e-6 if cuhk03 else 1e-9)
    assert abs(found.mAP - expected[1]) < 1e-9


def test_one_shot_curve_of_few_identities(torchreid):
    """Torchreid drops rows shorter than max_rank; the curve goes on at its last value."""
    data = case(6)
    np.random.seed(0)
    short, _ = evaluate_rank(*data, max_rank=5, use_metric_cuhk03=True)
    np.random.seed(0)
    long, _ = evaluate_rank(*data, max_rank=30, use_metric_cuhk03=True)
    np.testing.assert_array_equal(long[:5], short)
    np.testing.assert_array_equal(long[10:], np.ones(20))  # 10 identities at most


def test_inputs_are_left_alone():
    data = (*case(7), lists(case(7)))
    copies = [array.copy() for array in data]
    evaluate_blocks(blocks(data[0], 4), *data[1:5])
    evaluate_indices(data[5], *data[1:5])
    for array, copy in zip(data, copies):
        np.testing.assert_array_equal(array, copy)


def test_rejects_chunks():
    distances, *ids = case(8)
    with pytest.raises(InputError, match=r"g_pids must have shape \(59,\)"):
        evaluate_blocks(blocks(distances[:, :59], 4), *ids)
    with pytest.raises(InputError, match=r"q_pids must have shape \(4,\).*got \(3,\)"):
        evaluate_blocks(blocks(distances, 4), ids[0][:3], *ids[1:])
    with pytest.raises(InputError, match="There are no queries"):
        evaluate_blocks(iter(()), *ids)
    with pytest.raises(InputError, match="The blocks are of 16 queries, q_pids of 17"):
        evaluate_blocks(list(blocks(distances, 4))[:-1], *ids)
    with pytest.raises(InputError, match="None of the 17 queries"):
        evaluate_blocks(blocks(distances, 4), ids[0] + 100, *ids[1:])


def test_rejects_a_positive_without_a_distance():
    distances, *ids = case(8)
    right = (ids[1] == ids[0][0]) & (ids[3] != ids[2][0])
    other = distances.copy()
    other[0, np.flatnonzero(right)[-1]] = np.nan
    with pytest.raises(InputError, match="distmat row 0 holds NaN"):
        evaluate_queries(other, *ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": np.zeros((17, 3))}, r"must be integers \(Q, top_k\), got float64 \(17, 3\)"),
        ({"indices": np.zeros(17, int)}, r"must be integers \(Q, top_k\), got int64 \(17,\)"),
        ({"indices": np.full((17, 3), 60)}, "indices go up to 60, but the gallery has 60 images"),
        ({"q_pids": np.zeros(16)}, r"q_pids must have shape \(17,\), got \(16,\)"),
        ({"q_camids": np.zeros(18)}, r"q_camids must have shape \(17,\), got \(18,\)"),
        ({"g_camids": np.zeros(59)}, r"g_camids must have shape \(60,\), got \(59,\)"),
        ({"g_pids": np.zeros((60, 1))}, r"g_pids must have shape \(60,\), got \(60, 1\)"),
    ],
)
def test_rejects_lists(change, message):
    data = case(9)
    names = ("indices", "q_pids", "g_pids", "q_camids", "g_camids")
    given = dict(zip(names, (lists(data), *data[1:])))
    with pytest.raises(InputError, match=message):
        evaluate_indices(**(given | change))
