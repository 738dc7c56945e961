"""Tests of torchreid_spectral.evaluation.ranking."""

import numpy as np
import pytest
import torch

from torchreid_spectral.errors import InputError
from torchreid_spectral.evaluation import (
    QueryResults,
    evaluate_blocks,
    evaluate_queries,
    evaluate_rank,
)


def case(seed, queries=40, gallery=300, identities=30, cameras=4, levels=None):
    rng = np.random.default_rng(seed)
    distances = rng.random((queries, gallery)).astype(np.float32)
    if levels:  # many equal distances
        distances = np.floor(distances * levels) / levels
    return (
        distances,
        rng.integers(0, identities, queries),
        rng.integers(0, identities, gallery),
        rng.integers(0, cameras, queries),
        rng.integers(0, cameras, gallery),
    )


def reference(distances, q_pids, g_pids, q_camids, g_camids, max_rank):
    """From the definition, one query and one rank at a time; ties by the lower index."""
    cmcs, precisions = [], []
    for q, row in enumerate(distances):
        order = sorted(range(len(row)), key=lambda g: (row[g], g))
        kept = [g for g in order if not (g_pids[g] == q_pids[q] and g_camids[g] == q_camids[q])]
        right = [g_pids[g] == q_pids[q] for g in kept]
        if not any(right):
            continue
        cmcs.append([float(any(right[: k + 1])) for k in range(max_rank)])
        hits = [sum(right[: k + 1]) / (k + 1) for k in range(len(right)) if right[k]]
        precisions.append(sum(hits) / len(hits))
    return np.mean(cmcs, axis=0), np.mean(precisions)


@pytest.mark.parametrize("levels", [None, 5, 1])
@pytest.mark.parametrize("seed", range(3))
def test_matches_the_definition(seed, levels):
    data = case(seed, levels=levels)
    cmc, mean = evaluate_rank(*data, max_rank=20)
    expected_cmc, expected_mean = reference(*data, 20)
    np.testing.assert_allclose(cmc, expected_cmc, atol=1e-6)
    assert abs(mean - expected_mean) < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_matches_torchreids_python_evaluator(torchreid, seed):
    from torchreid_spectral import _compat

    data = case(seed)
    theirs = _compat.submodule("metrics.rank").eval_market1501(*data, 50)
    ours = evaluate_rank(*data)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-9)
    assert abs(ours[1] - theirs[1]) < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_cuhk03_metric_with_the_same_draws(torchreid, monkeypatch, seed):
    """Torchreid's own function fails since NumPy 1.24: it asks for np.bool."""
    from torchreid_spectral import _compat

    monkeypatch.setattr(np, "bool", bool, raising=False)
    data = case(seed)
    np.random.seed(seed)
    theirs = _compat.submodule("metrics.rank").eval_cuhk03(*data, 20)
    np.random.seed(seed)
    ours = evaluate_rank(*data, max_rank=20, use_metric_cuhk03=True)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)
    assert abs(ours[1] - theirs[1]) < 1e-9


def test_torchreid_uses_it(torchreid):
    ids = np.array([7]), np.array([1, 7, 7]), np.array([0]), np.array([1, 1, 2])
    distances = np.array([[0.1, 0.2, 0.3]])
    cmc, mean = torchreid.metrics.evaluate_rank(distances, *ids, 50, False, False)
    assert cmc.tolist() == [0.0] + [1.0] * 49  # torchreid's engines show ranks up to 20
    assert (cmc[:3].tolist(), mean) == (lambda own: (own[0].tolist(), own[1]))(
        evaluate_rank(distances, *ids)
    )


def test_chunks_join_to_the_whole():
    data = case(0)
    whole = evaluate_rank(*data)
    parts = [
        evaluate_queries(data[0][rows], data[1][rows], data[2], data[3][rows], data[4])
        for rows in (slice(0, 7), slice(7, 40))
    ]
    joined = QueryResults.mean(parts)
    np.testing.assert_allclose(joined.cmc, whole[0], rtol=1e-6)
    assert joined.mAP == pytest.approx(whole[1], rel=1e-12)
    assert joined.num_queries == 40


def test_inputs_are_left_alone():
    data = case(0)
    before = [array.copy() for array in data]
    evaluate_rank(*data)
    for array, copy in zip(data, before):
        np.testing.assert_array_equal(array, copy)


def test_one_camera_is_explained():
    data = list(case(0))
    data[3][:] = data[4][:] = 0
    with pytest.raises(InputError, match="None of the 40 queries .* one camera id"):
        evaluate_rank(*data)


@pytest.mark.parametrize(("position", "name"), [(1, "q_pids"), (2, "g_pids"), (4, "g_camids")])
def test_rejects_lengths(position, name):
    data = list(case(0))
    data[position] = data[position][:-1]
    with pytest.raises(InputError, match=f"{name} must have shape"):
        evaluate_rank(*data)


def test_numbers_never_match_names():
    ids = [np.array([1, 2]), np.array(["1", "2", "junk"]), np.zeros(2), np.ones(3)]
    with pytest.raises(InputError, match=r"q_pids are int64 and g_pids <U4: numbers and names"):
        evaluate_rank(np.zeros((2, 3)), *ids)


def test_rejects_empty():
    with pytest.raises(InputError, match=r"distmat must be \(Q, G\)"):
        evaluate_rank(np.zeros((0, 3)), *[np.zeros(0)] * 4)


def test_names_in_object_arrays_match_text():
    """As a table of pandas gives them."""
    distances = np.array([[0.1, 0.4, 0.2]])
    names = np.array(["ann"], dtype=object), np.array(["ann", "ann", "bob"])
    cameras = np.array([0]), np.array([1, 1, 1])
    for given in ((*names, *cameras), (names[0], names[1].astype(object), *cameras)):
        assert evaluate_rank(distances, *given)[1] == pytest.approx((1 + 2 / 3) / 2)
    with pytest.raises(InputError, match="nor do names and bytes"):
        evaluate_rank(distances, names[0], names[1].astype(bytes), *cameras)


def test_distances_of_any_precision_and_with_a_graph():
    ids = [np.array(x) for x in ([1], [1, 2], [0], [1, 1])]
    for distances in (torch.tensor([[0.5, 0.25]], dtype=torch.bfloat16),
                      torch.tensor([[0.5, 0.25]], requires_grad=True)):  # fmt: skip
        assert evaluate_blocks([(slice(0, 1), distances)], *ids).mAP == 0.5
