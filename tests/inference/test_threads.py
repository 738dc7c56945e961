"""Threads that search, add and save at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from torchreid_spectral import SpectralReID
from torchreid_spectral.inference import Gallery
from torchreid_spectral.rerank import RERANKERS, Reranker


class Watched(list):
    """A list that calls back when it has been extended."""

    def __init__(self, values, seen):
        super().__init__(values)
        self.seen = seen

    def extend(self, values):
        super().extend(values)
        self.seen()


def test_a_gallery_is_whole_at_every_moment_of_an_addition(tmp_path):
    seen = []

    def look():
        now = gallery.consistent()
        seen.append((len(now), now.ids, now.camids, now.features.tolist()))
        gallery.save(tmp_path / str(len(seen)))

    features = np.eye(4, dtype=np.float32)
    gallery = Gallery(features[:2], Watched(["a", "b"], look), Watched([1, 2], look),
                      Watched([0, 1], look))  # fmt: skip
    assert gallery.extend(Gallery(features[1:], ["b", "c", "d"], [2, 3, 4], [1, 0, 1])) == 2
    assert seen == [(2, [1, 2], [0, 1], features[:2].tolist())] * 3
    assert [len(Gallery.open(tmp_path / name)) for name in ("1", "2", "3")] == [2, 2, 2]
    look()
    assert seen[3] == (4, [1, 2, 3, 4], [0, 1, 0, 1], features.tolist())
    earlier = gallery.consistent()
    gallery.extend(Gallery(features[:1], ["e"], [5], [0]))
    assert (len(earlier), len(earlier.ids)) == (4, 4)


def test_threads_that_search_wait_for_one_fit(weights, pictures, monkeypatch):
    reid = SpectralReID(weights, device="cpu")
    paths = [row[0] for row in pictures[:8]]
    reid.index(paths, progress=False)
    fit, at_once, most = Reranker.fit, [], []

    def slow(self, *args, **kwargs):
        at_once.append(self)
        most.append(len(at_once))
        threading.Event().wait(0.1)
        try:
            return fit(self, *args, **kwargs)
        finally:
            at_once.pop()

    monkeypatch.setattr(Reranker, "fit", slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda path: reid.search(path, 3, "local_blurring"), paths[:4]))
    assert most == [1]
    assert found == [reid.search(path, 3, "local_blurring") for path in paths[:4]]


@pytest.mark.parametrize("name", sorted(RERANKERS))
def test_searches_beside_an_addition_answer_as_alone(name, weights, pictures):
    reid = SpectralReID(weights, device="cpu")
    paths = [row[0] for row in pictures[:24]]
    reid.index(paths[:8], progress=False)
    options = {"inductive": True}
    answers: list[tuple[int, list[str]]] = []
    ready = threading.Event()

    def answer(path):
        return [hit.path for hit in reid.search(path, 4, name, **options)]

    def search(row):
        for _ in range(6):
            ready.wait()
            answers.append((row, answer(paths[row])))

    before = [answer(path) for path in paths[:3]]
    threads = [threading.Thread(target=search, args=(row,)) for row in range(3)]
    for thread in threads:
        thread.start()
    ready.set()
    states = [before]
    for first in (8, 16):
        assert reid.add(paths[first : first + 8]) == 8
    for thread in threads:
        thread.join()
    for count in (16, 24):
        reid.index(paths[:count], progress=False)
        states.append([answer(path) for path in paths[:3]])
    assert len(answers) == 18
    for row, found in answers:
        assert found in [state[row] for state in states]


def test_galleries_saved_at_once_are_one_of_them(tmp_path):
    """A shard goes only when its manifest has, and comes under no number that was just there."""
    galleries = [
        Gallery(np.full((3, 4), n, np.float32), [f"{n}{letter}" for letter in "abc"])
        for n in range(3)
    ]
    stop, seen, failed = threading.Event(), set(), []

    def save(gallery):
        for _ in range(15):
            gallery.save(tmp_path)

    def read():
        while not stop.is_set():
            try:
                found = Gallery.open(tmp_path)
                seen.add((found.paths[0][0], int(found.features[0, 0])))
            except Exception as error:
                failed.append(error)

    galleries[0].save(tmp_path)
    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(save, galleries))
    stop.set()
    reader.join()
    assert not failed
    assert seen <= {("0", 0), ("1", 1), ("2", 2)}
    assert len(list(tmp_path.iterdir())) == 3


def test_two_additions_at_once_are_one_after_the_other(weights, pictures, monkeypatch):
    reid = SpectralReID(weights, device="cpu")
    paths = [row[0] for row in pictures[:20]]
    reid.index(paths[:2], progress=False)
    extracted, sizes = reid._extracted, []

    def slow(*args, **kwargs):  # time for another to look at the same gallery
        more = extracted(*args, **kwargs)
        sizes.append(len(more))
        threading.Event().wait(0.1)
        return more

    monkeypatch.setattr(reid, "_extracted", slow)
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(reid.add, [paths[:12], paths[8:], paths[:12], paths[8:]]))
    assert sum(counts) == 18 and len(reid.gallery) == len(reid.gallery.features) == 20
    assert sum(sizes) == 18  # nothing is extracted twice
    expected = reid.features(reid.gallery.paths)
    np.testing.assert_allclose(reid.gallery.features, expected, atol=1e-5)
