"""Tests of evaluation.results: one query's figures, and their means."""

from fractions import Fraction

import numpy as np
import pytest

from tests.references import evaluation as reference
from torchreid_spectral.errors import InputError
from torchreid_spectral.evaluation import QueryResults, RankingMetrics, evaluate_queries

from .cases import KINDS, case

FIGURES = ("average_precision", "trapezoidal", "inverse_penalty")


def filled(right: list[bool], num_positives: int, max_rank: int = 6) -> QueryResults:
    results = QueryResults.empty(1, max_rank)
    results.fill(0, np.flatnonzero(right) + 1, num_positives)
    return results


@pytest.mark.parametrize("missing", [0, 1, 4])
def test_every_short_list_equals_the_definition(missing):
    for code in range(2**7):
        right = [bool(code >> place & 1) for place in range(7)]
        num_positives = sum(right) + missing
        if not num_positives:
            continue
        results = filled(right, num_positives)
        for name in FIGURES:
            expected = getattr(reference, name)(right, num_positives)
            assert getattr(results, name)[0] == pytest.approx(float(expected), abs=1e-15), right
        assert results.cmc[0].tolist() == [float(any(right[:k])) for k in range(1, 7)]


@pytest.mark.parametrize(
    ("right", "precision", "trapezoidal", "penalty"),
    [
        ([1, 1, 0], 1, 1, 1),  # perfect
        ([0, 1], Fraction(1, 2), Fraction(1, 4), Fraction(1, 2)),
        ([1, 0, 1], Fraction(5, 6), Fraction(19, 24), Fraction(2, 3)),
    ],
)
def test_by_hand(right, precision, trapezoidal, penalty):
    results = filled(right, sum(right))
    found = [getattr(results, name)[0] for name in FIGURES]
    assert found == pytest.approx([float(x) for x in (precision, trapezoidal, penalty)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_queries_equal_the_definition(kind, seed):
    data = case(seed, **KINDS[kind])
    found = evaluate_queries(*data, max_rank=12)
    expected = reference.evaluate(reference.full_lists(data[0]), *data[1:], 12)
    for row, each in enumerate(expected):
        for name in FIGURES:
            value = getattr(found, name)[row]
            assert np.isnan(value) if each is None else abs(value - each[name]) < 1e-12
        assert found.cmc[row].tolist() == ([0.0] * 12 if each is None else each["cmc"])


@pytest.mark.parametrize("kind", KINDS)
def test_means_equal_the_definition(kind):
    data = case(3, **KINDS[kind])
    found = QueryResults.mean([evaluate_queries(*data, max_rank=12)])
    expected = reference.evaluate(reference.full_lists(data[0]), *data[1:], 12)
    means = reference.mean(expected)
    assert found.mAP == pytest.approx(means["average_precision"], abs=1e-12)
    assert found.mAP_trapezoidal == pytest.approx(means["trapezoidal"], abs=1e-12)
    assert found.mINP == pytest.approx(means["inverse_penalty"], abs=1e-12)
    np.testing.assert_allclose(found.cmc, means["cmc"], atol=1e-7)
    assert (found.num_queries, found.num_valid) == (len(data[1]), means["valid"])


def test_cmc_at_a_rank():
    metrics = RankingMetrics(np.array([0.25, 0.5, 1], dtype=np.float32), 0.5, 4, 4)
    assert [metrics.rank(k) for k in (1, 2, 3, 4, 99)] == [0.25, 0.5, 1, 1, 1]
    with pytest.raises(InputError, match="rank must be >= 1, got 0"):
        metrics.rank(0)


def test_queries_that_do_not_count_change_no_mean():
    counting, dropped = filled([0, 1], 1), QueryResults.empty(3, 6)
    alone, both = QueryResults.mean([counting]), QueryResults.mean([dropped, counting])
    assert (both.mAP, both.mINP, both.mAP_trapezoidal) == (0.5, 0.5, 0.25)
    np.testing.assert_array_equal(both.cmc, alone.cmc)
    assert (both.num_queries, both.num_valid) == (4, 1)


def test_nothing_to_average():
    with pytest.raises(InputError, match=r"None of the 3 queries .*diagnose\(...\) says"):
        QueryResults.mean([QueryResults.empty(2, 5), QueryResults.empty(1, 5)])
    with pytest.raises(InputError, match="There are no queries"):
        QueryResults.mean([])
