"""The re-ranker of the last search: kept, grown by what was added, or fitted anew."""

import numpy as np
import pytest
import torch

from torchreid_spectral.errors import InputError
from torchreid_spectral.inference import Gallery
from torchreid_spectral.inference.prepared import PreparedReranker
from torchreid_spectral.rerank import RERANKERS, Reranker, build_reranker

CAMERAS = ["left", "door", "left", "roof"] * 12
COUNT = 30


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(48, 16)).astype(np.float32)


@pytest.fixture
def gallery(features):
    return Gallery(features[:COUNT], [f"{n}.jpg" for n in range(COUNT)], None, CAMERAS[:COUNT])


@pytest.fixture
def fits(monkeypatch):
    """Sizes of the galleries that were fitted, and below zero of what was added."""
    calls, fit, add = [], Reranker.fit, Reranker.add
    monkeypatch.setattr(
        Reranker, "fit", lambda self, *args: calls.append(len(args[0])) or fit(self, *args)
    )
    monkeypatch.setattr(
        Reranker, "add", lambda self, *args: calls.append(-len(args[0])) or add(self, *args)
    )
    return calls


def grow(gallery, features, count, cameras=CAMERAS):
    first = len(gallery)
    paths = [f"{n}.jpg" for n in range(first, count)]
    gallery.extend(Gallery(features[first:count], paths, None, list(cameras[first:count])))


def numbers(count):
    return np.array([["left", "door", "roof"].index(name) for name in CAMERAS[:count]])


@pytest.mark.parametrize("search", ["exact", "faiss_flat", "faiss_hnsw"])
@pytest.mark.parametrize("name", sorted(RERANKERS))
def test_what_has_grown_answers_as_if_fitted_with_all(name, search, features, gallery, fits):
    if search != "exact":
        pytest.importorskip("faiss")
    options = {"search": search}
    prepared = PreparedReranker()
    early = prepared.fitted(gallery, name, options)
    before = early.rank(features[:5], 10)
    for count in (40, 48):
        grow(gallery, features, count)
        grown = prepared.fitted(gallery, name, options)
        assert prepared.fitted(gallery, name, options) is grown
    assert fits == [COUNT, -10, -8]
    everything = Gallery(features, gallery.paths, None, CAMERAS)
    anew = PreparedReranker().fitted(everything, name, options)
    for found, expected in zip(grown.rank(features[:5], 20), anew.rank(features[:5], 20)):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    torch.testing.assert_close(grown._camids, anew._camids)
    for found, expected in zip(early.rank(features[:5], 10), before):  # it knows of no addition
        np.testing.assert_array_equal(found, expected)
    assert len(early.gallery) == COUNT


def test_cameras_statistics_are_of_the_whole_gallery(features, gallery, fits):
    options = {"camera_normalization": "standardize"}
    prepared = PreparedReranker()
    prepared.fitted(gallery, "none", options)
    grow(gallery, features, 48)
    grown = prepared.fitted(gallery, "none", options)
    assert fits == [COUNT, 48]
    anew = build_reranker("none", **options).fit(features, numbers(48))
    np.testing.assert_array_equal(grown.gallery, anew.gallery)


def test_other_features_cameras_or_options_are_fitted_anew(features, gallery, fits):
    prepared = PreparedReranker()
    prepared.fitted(gallery, "local_blurring", {"k": 5})
    prepared.fitted(gallery, "local_blurring", {"k": 6})
    grow(gallery, features, 40)
    gallery.features[3] = 1  # not what was fitted
    prepared.fitted(gallery, "local_blurring", {"k": 6})
    grow(gallery, features, 44)
    gallery.camids[0] = "roof"
    prepared.fitted(gallery, "local_blurring", {"k": 6})
    gallery.camids = None
    prepared.fitted(gallery, "local_blurring", {"k": 6})
    gallery.features = gallery.features[:9]
    gallery.paths = gallery.paths[:9]
    prepared.fitted(gallery, "local_blurring", {"k": 6})
    gallery.metric = "euclidean"
    assert prepared.fitted(gallery, "none", {}).metric == "euclidean"
    gallery.metric = "cosine"
    assert prepared.fitted(gallery, "none", {}).metric == "cosine"
    assert fits == [COUNT, COUNT, 40, 44, 44, 9, 9, 9]


def test_without_memory_for_a_copy_the_whole_is_fitted_in_its_place(
    features, gallery, fits, monkeypatch
):
    prepared = PreparedReranker()
    early = prepared.fitted(gallery, "graph_walk", {"k": 4})

    def refuse(self, *args):
        raise InputError("no memory")

    monkeypatch.setattr(Reranker, "add", refuse)
    grow(gallery, features, 48)
    grown = prepared.fitted(gallery, "graph_walk", {"k": 4})
    assert fits == [COUNT, 48]
    assert (len(early.gallery), len(grown.gallery)) == (COUNT, 48)
