"""Tests of evaluation.diagnosis: which queries are dropped, and why."""

import numpy as np
import pytest

from tests.references import evaluation as reference
from torchreid_spectral.errors import InputError
from torchreid_spectral.evaluation import Diagnosis, diagnose, evaluate_queries

from .cases import case


def diagnosed(*ids: list[int]) -> Diagnosis:
    return diagnose(*(np.array(each) for each in ids))


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(seed, names):
    data = case(seed, queries=30, names=names)
    found, reasons = diagnose(*data[1:]), np.array(reference.dropped(*data[1:]))
    np.testing.assert_array_equal(found.absent, np.flatnonzero(reasons == "absent"))
    np.testing.assert_array_equal(found.same_camera, np.flatnonzero(reasons == "same camera"))
    assert len(found.absent)
    assert (found.num_queries, found.cameras) == (30, 3)
    assert found.num_valid == (reasons == "").sum()
    precision = evaluate_queries(*data).average_precision
    np.testing.assert_array_equal(np.isnan(precision), reasons != "")


def test_both_reasons_occur():
    found = [diagnose(*case(seed, queries=30)[1:]) for seed in range(4)]
    assert sum(len(each.same_camera) for each in found) > 2


def test_order_of_the_gallery_and_names_change_nothing():
    q_pids, g_pids, q_camids, g_camids = case(0, queries=30)[1:]
    order = np.random.default_rng(0).permutation(len(g_pids))
    expected = diagnose(q_pids, g_pids, q_camids, g_camids)
    other = diagnose(q_pids + 7, g_pids[order] + 7, 5 - q_camids, 5 - g_camids[order])
    assert str(other) == str(expected)
    np.testing.assert_array_equal(other.same_camera, expected.same_camera)


def test_explains_itself():
    q_pids, g_pids = [1, 2, 3, 3, 3, 3, 3, 3, 4], [1, 2, 4]
    found = diagnosed(q_pids, g_pids, [0] * 9, [0, 1, 0])
    assert str(found).splitlines() == [
        "8 of 9 queries are left out:",
        "  6: the identity is not in the gallery (queries 2, 3, 4, 5, 6, ...)",
        "  2: the identity is in the gallery from the query's own camera only (queries 0, 8)",
    ]
    assert str(diagnosed([1], [1], [0], [1])) == "All 1 queries can be evaluated."


def test_one_camera_is_explained():
    text = str(diagnosed([1, 2], [1, 2], [4, 4], [4, 4]))
    assert "2 of 2 queries are left out" in text
    assert "All images carry one camera id." in text
    assert "give each camera its own id" in text
    assert "one camera id" not in str(diagnosed([1, 2], [1, 2], [4, 4], [4, 5]))


def test_no_query_counts():
    nothing = np.empty(0, dtype=np.int64)
    assert Diagnosis(3, np.arange(3), nothing, 2).num_valid == 0


@pytest.mark.parametrize(
    ("position", "message"),
    [
        (0, r"q_camids must have shape \(16,\), one a query, got \(17,\)"),
        (1, r"g_camids must have shape \(59,\), one a gallery image, got \(60,\)"),
        (2, r"q_camids must have shape \(17,\), one a query, got \(16,\)"),
        (3, r"g_camids must have shape \(60,\), one a gallery image, got \(59,\)"),
    ],
)
def test_rejects_ids_of_another_length(position, message):
    data = list(case(0)[1:])
    data[position] = data[position][:-1]
    with pytest.raises(InputError, match=message):
        diagnose(*data)
