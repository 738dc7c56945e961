"""Tests of evaluation.verification: genuine pairs accepted at a rate of false matches."""

from fractions import Fraction

import numpy as np
import pytest

from tests.references import evaluation as reference
from torchreid_spectral.errors import InputError
from torchreid_spectral.evaluation import PairDistances, tpr_at_fpr

from .cases import KINDS, blocks, case

FPRS = (0.0, 0.001, 0.01, 0.1, 0.25, 1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 4, 100])
def test_equals_all_thresholds_tried(kind, size):
    options = {"queries": 9, "gallery": 25} | KINDS[kind]
    data = case(1, **options)
    found = tpr_at_fpr(blocks(data[0], size), *data[1:], fprs=FPRS)
    for fpr in FPRS:
        expected = reference.tpr_at_fpr(*data, Fraction(str(fpr)))
        assert found[fpr] == pytest.approx(float(expected), abs=1e-12), fpr


@pytest.mark.parametrize("fpr", [0.1, 0.29, 0.57, 0.58, 0.7])
def test_rates_that_are_whole_counts(fpr):
    """At 0.29 of 100 impostor pairs 29 are allowed, though 0.29 * 100 is below in floats."""
    distances = np.linspace(0, 1, 200)[None]
    g_pids = np.tile([1, 2], 100)
    ids = (np.array([1]), g_pids, np.array([0]), np.ones(200))
    found = tpr_at_fpr([(slice(0, 1), distances)], *ids, fprs=[fpr])
    expected = reference.tpr_at_fpr(distances, *ids, Fraction(str(fpr)))
    assert found[fpr] == pytest.approx(float(expected))
    assert found[fpr] == pytest.approx(fpr + 0.01)


def test_only_a_part_of_the_impostors_is_held():
    data = case(2, queries=40, gallery=200)
    pairs = PairDistances(*data[1:], max_fpr=0.01)
    for rows, block in blocks(data[0], 3):
        pairs.add(rows, block)
    assert len(pairs._impostors) == np.ceil(0.01 * pairs.num_impostors) + 1
    rate, threshold = pairs.tpr_at(0.01)
    impostors = data[0][data[1][:, None] != data[2]]
    assert (impostors < threshold).mean() <= 0.01 < (impostors <= threshold).mean()
    genuine = (data[1][:, None] == data[2]) & (data[3][:, None] != data[4])
    assert rate == (data[0][genuine] < threshold).mean()


def test_more_false_matches_accept_more():
    data = case(3)
    found = tpr_at_fpr(blocks(data[0], 5), *data[1:], fprs=np.linspace(0, 1, 21).tolist())
    assert sorted(found.values()) == list(found.values())
    assert found[1.0] == 1.0
    scaled = tpr_at_fpr(blocks(5 * data[0] - 9, 5), *data[1:], fprs=list(found))
    assert scaled == found


def test_separated_identities_are_all_accepted():
    distances, *ids = case(4)
    apart = distances + 2.0 * (ids[0][:, None] != ids[1])
    assert tpr_at_fpr(blocks(apart, 5), *ids) == {1e-4: 1.0, 1e-3: 1.0, 1e-2: 1.0}
    assert tpr_at_fpr(blocks(-apart, 5), *ids) == {1e-4: 0.0, 1e-3: 0.0, 1e-2: 0.0}


def test_blocks_must_be_of_all_queries_and_hold_numbers():
    distances, *ids = case(4)
    with pytest.raises(InputError, match="but .* identities"):
        tpr_at_fpr(blocks(distances[:5], 5), *ids)
    distances[2, 3] = np.nan
    with pytest.raises(InputError, match="hold NaN"):
        tpr_at_fpr(blocks(distances, 5), *ids)


@pytest.mark.parametrize("max_fpr", [0, -0.1, 1.1, float("nan")])
def test_rejects_the_largest_rate(max_fpr):
    with pytest.raises(InputError, match=r"max_fpr must be in \(0, 1\], got"):
        PairDistances(*case(5)[1:], max_fpr=max_fpr)


@pytest.mark.parametrize("fpr", [-0.1, 0.02, float("nan")])
def test_rejects_a_rate(fpr):
    data = case(5)
    pairs = PairDistances(*data[1:], max_fpr=0.01)
    pairs.add(slice(0, 17), data[0])
    with pytest.raises(InputError, match=r"fpr must be in \[0, 0.01\], got"):
        pairs.tpr_at(fpr)


def test_rejects_what_has_no_pairs():
    one, two = np.array([1]), np.array([2])
    nothing = "no genuine or no impostor pairs"
    for q_pids, g_camids in ((two, one), (one, one), (one, two)):
        with pytest.raises(InputError, match=nothing):
            tpr_at_fpr([(slice(0, 1), np.ones((1, 1)))], q_pids, one, one, g_camids)
    with pytest.raises(InputError, match=nothing):
        PairDistances(*case(5)[1:]).tpr_at(0.0)


@pytest.mark.parametrize("position", range(4))
def test_rejects_ids_of_another_length(position):
    data = list(case(5)[1:])
    data[position] = data[position][:-1]
    with pytest.raises(InputError, match="camids must have shape"):
        PairDistances(*data)


def test_rejects_distances_of_another_shape():
    data = case(5)
    pairs = PairDistances(*data[1:])
    with pytest.raises(InputError, match=r"distances must have shape \(4, 60\), got \(4, 59\)"):
        pairs.add(slice(3, 7), data[0][3:7, :-1])


def test_no_rate_asked_for_is_no_rate():
    ids = [np.array(x) for x in ([1], [1, 2], [0], [1, 1])]
    assert tpr_at_fpr([(slice(0, 1), np.array([[0.1, 0.2]]))], *ids, fprs=[]) == {}
