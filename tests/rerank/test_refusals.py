"""What re-rankers refuse: options out of range, wrong cameras, more memory than there is."""

import logging
from typing import Any

import numpy as np
import pytest
import torch

from torchreid_spectral.errors import InputError
from torchreid_spectral.rerank import RERANKERS, NoReranking, _head, _memory, build_reranker
from torchreid_spectral.search import build_search

NAN = float("nan")
every_name = pytest.mark.parametrize("name", sorted(RERANKERS))


def features(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 0}, "k must be >= 1, got 0"),
        ({"num_averaged": 0}, "num_averaged must be >= 1, got 0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0"),
        ({"temperature": NAN}, "temperature must be positive, got nan"),
        ({"cross_camera": 0.0}, "cross_camera must be positive, got 0"),
        ({"cross_camera": NAN}, "cross_camera must be positive, got nan"),
        ({"lambda_value": 1.1}, r"lambda_value must be in \[0, 1\], got 1.1"),
        ({"lambda_value": NAN}, r"lambda_value must be in \[0, 1\], got nan"),
        ({"steps": -1}, "steps must be a whole number >= 0 or inf, got -1"),
        ({"steps": 1.5}, "steps must be a whole number >= 0 or inf, got 1.5"),
        ({"steps": NAN}, "steps must be a whole number >= 0 or inf, got nan"),
        ({"restart": -0.1}, r"restart must be in \[0, 1\], got -0.1"),
        ({"restart": NAN}, r"restart must be in \[0, 1\], got nan"),
        ({"steps": float("inf"), "walked": "features"}, "steps=inf needs restart > 0"),
        ({"steps": float("inf"), "restart": 0.5}, "walked='features' or 'scores'"),
        ({"walked": "feature"}, "Unknown walked 'feature'. Did you mean features"),
        ({"graph": "mutal"}, "Unknown graph 'mutal'. Did you mean mutual"),
        ({"normalization": "row_s"}, "Unknown normalization 'row_s'. Did you mean rows"),
        ({"weights": "jacard"}, "Unknown weights 'jacard'. Did you mean jaccard"),
        ({"search": "faiss_flt"}, "Unknown search 'faiss_flt'. Did you mean faiss_flat"),
        ({"chunk_size": 0}, "chunk_size must be >= 1, got 0"),
        ({"kk": 3}, "Re-ranker graph_walk has no option 'kk'"),
    ],
)
def test_graph_walk_rejects_options(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_reranker("graph_walk", **wrong)


def test_one_reversed_row_is_a_query() -> None:
    """NumPy calls it contiguous whatever its stride."""
    gallery = features(0, 9, 4)
    found = build_reranker("none").fit(gallery).rank(gallery[::-1][:1], 1)
    assert found[0].tolist() == [[8]]


def test_names_are_suggested() -> None:
    with pytest.raises(InputError, match="Unknown re-ranker 'graph_wal'. Did you mean graph_walk"):
        build_reranker("graph_wal")


@every_name
def test_search_must_have_the_metric(name: str) -> None:
    other = "cosine" if name == "k_reciprocal" else "squared_euclidean"
    with pytest.raises(InputError, match=f"The search has the metric {other}, this re-ranker"):
        build_reranker(name, search=build_search("exact", metric=other))


@every_name
def test_cameras_of_another_length(name: str) -> None:
    query, gallery = features(0, 3, 6), features(1, 20, 6)
    reranker = build_reranker(name)
    for wrong in (np.zeros(19), np.zeros((20, 1)), np.int64(3)):
        with pytest.raises(InputError, match=r"camids must have shape \(20,\)"):
            reranker.fit(gallery, camids=wrong)
    reranker.fit(gallery, camids=np.zeros(20))
    for call in (reranker.rank, reranker.distance_matrix):
        with pytest.raises(InputError, match=r"camids must have shape \(3,\)"):
            call(query, camids=np.zeros(20))
    with pytest.raises(InputError, match=r"camids must have shape \(3,\)"):
        reranker.add(query, camids=np.zeros(4))


def test_cameras_with_names() -> None:
    with pytest.raises(InputError, match="camids must be numbers, got <U2: number the cameras"):
        build_reranker("none").fit(features(0, 2, 6), camids=np.array(["c1", "c2"]))


@every_name
def test_cameras_of_a_part(name: str) -> None:
    gallery = features(2, 20, 6)
    both = "Give camids in fit and in add, or in neither"
    with pytest.raises(InputError, match=both):
        build_reranker(name).fit(gallery).add(gallery, camids=np.zeros(20))
    reranker = build_reranker(name).fit(gallery, camids=np.zeros(20))
    with pytest.raises(InputError, match=both):
        reranker.add(gallery)
    assert len(reranker.gallery) == 20


@pytest.mark.parametrize("walked", ["distributions", "features"])
@pytest.mark.parametrize("inductive", [False, True])
def test_cross_camera_needs_cameras(walked: str, inductive: bool) -> None:
    query, gallery = features(3, 3, 6), features(4, 20, 6)
    needs = r"cross_camera=0.5 needs cameras: fit\(gallery, camids\) and rank\(query, camids"
    reranker = build_reranker("graph_walk", cross_camera=0.5, walked=walked)
    with pytest.raises(InputError, match=needs):
        reranker.fit(gallery).rank(query, camids=np.zeros(3), inductive=inductive)
    with pytest.raises(InputError, match=needs):
        reranker.fit(gallery, camids=np.zeros(20)).rank(query, inductive=inductive)


@every_name
def test_cameras_of_any_kind(name: str) -> None:
    query, gallery = features(5, 3, 6), features(6, 20, 6)
    options = {"cross_camera": 0.5} if name == "graph_walk" else {}
    cameras = np.arange(20) % 3
    answers = []
    for kind in (np.asarray, torch.from_numpy, list, lambda x: x.astype(np.int16)):
        reranker = build_reranker(name, **options).fit(gallery, camids=kind(cameras))
        answers.append(reranker.distance_matrix(query, camids=kind(cameras[:3])))
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])


@every_name
def test_rejects_features(name: str) -> None:
    gallery = features(7, 20, 6)
    reranker = build_reranker(name).fit(gallery)
    bad = gallery.copy()
    bad[[3, 11], 2] = np.inf, np.nan
    for call in (reranker.fit, reranker.add, reranker.rank, reranker.distance_matrix):
        with pytest.raises(InputError, match=r"2 rows hold NaN or infinity.*\[3, 11\]"):
            call(bad)
        with pytest.raises(InputError, match=r"must be \(N, D\) with N, D >= 1, got \(0, 6\)"):
            call(gallery[:0])
        with pytest.raises(InputError, match=r"must be \(N, D\)"):
            call(gallery[0])
        with pytest.raises(InputError, match="must be floating point"):
            call(gallery.astype(int))
    for call in (reranker.add, reranker.rank, reranker.distance_matrix):
        with pytest.raises(InputError, match="same width, got 4 and 6"):
            call(gallery[:, :4])
    np.testing.assert_array_equal(reranker.gallery, gallery)  # what was refused left no trace


@every_name
def test_refuses_what_does_not_fit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = features(8, 3, 6), features(9, 20, 6)
    reranker = build_reranker(name).fit(gallery)
    expected = reranker.rank(query)
    monkeypatch.setattr(_memory, "available_memory", lambda device: 100)
    label = type(reranker).__name__
    advice = "needs about .* MB, but 0.0 MB are free. Take a smaller chunk_size.*local_blurring"
    for inductive in (False, True):
        with pytest.raises(InputError, match=f"{label}.rank {advice}"):
            reranker.rank(query, inductive=inductive)
        with pytest.raises(InputError, match=r"distance_matrix needs.*iter_distances\(query\)"):
            reranker.distance_matrix(query, inductive=inductive)
        with pytest.raises(InputError, match=f"{label}.iter_distances {advice}"):
            next(reranker.iter_distances(query, inductive=inductive))
    with pytest.raises(InputError, match=f"{label}.fit {advice}"):
        build_reranker(name).fit(gallery)
    monkeypatch.setattr(_memory, "available_memory", lambda device: None)
    np.testing.assert_array_equal(reranker.rank(query)[0], expected[0])


@every_name
def test_refuses_to_add_what_does_not_fit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = build_reranker(name).fit(features(9, 20, 6))
    monkeypatch.setattr(_memory, "available_memory", lambda device: 100)
    with pytest.raises(InputError, match=r"\.add needs about .* MB, but 0.0 MB are free"):
        reranker.add(features(10, 20, 6))
    assert len(reranker.gallery) == 20


@every_name
def test_larger_calls_need_more(name: str) -> None:
    reranker = build_reranker(name).fit(features(10, 200, 6))
    small = reranker.estimate_memory(10, top_k=10)
    assert 0 < small < reranker.estimate_memory(1000, top_k=10)
    assert small < reranker.estimate_memory(10, top_k=100)
    larger = build_reranker(name).fit(features(11, 2000, 6))
    assert small < larger.estimate_memory(10, top_k=10)


@every_name
def test_whole_rankings_need_room_for_their_lists(name: str) -> None:
    """As found, merged and sorted, beside the answer."""
    reranker = build_reranker(name).fit(features(12, 900, 6))
    rows = min(100, reranker.chunk_size)
    few, all_of_them = (reranker.estimate_memory(100, top_k=k) for k in (50, 900))
    assert all_of_them - few >= (12 * 100 + 36 * rows) * (900 - 50)


@pytest.mark.parametrize("name", ["local_blurring", "group_shuffling"])
def test_long_lists_are_of_few_queries(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = features(13, 30, 6), features(14, 200, 6)
    whole = build_reranker(name, k=20).fit(gallery).rank(query, 200)
    monkeypatch.setattr(_head, "LIST_ENTRIES", 1000)
    reranker = build_reranker(name, k=20).fit(gallery)
    rows, search = [], reranker._search.nearest

    def watched(some: Any, k: int) -> Any:
        rows.append(len(some))
        return search(some, k)

    monkeypatch.setattr(reranker._search, "nearest", watched)
    parts = reranker.rank(query, 200)
    assert rows == [5] * 6
    np.testing.assert_array_equal(parts[0], whole[0])


def test_the_need_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(_memory, "available_memory", lambda device: 10**12)
    device = torch.device("cpu")
    with caplog.at_level(logging.DEBUG, logger="torchreid_spectral"):
        _memory.check_memory("This", 3 * 10**9, device, "advice")
        _memory.check_memory("That", 10**5, device, "advice")
    levels = {record.getMessage(): record.levelname for record in caplog.records}
    assert levels["This needs about 3.0 GB; free: 1000.0 GB"] == "INFO"
    assert levels["That needs about 0.1 MB; free: 1000.0 GB"] == "DEBUG"


def test_memory_of_this_machine_is_known() -> None:
    free = _memory.available_memory(torch.device("cpu"))
    assert free is None or free > 2**20


def write_cgroup(folder: Any, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "8000\n", "memory.current": "7900\n",
          "memory.stat": "anon 900\ninactive_file 6800\nslab_reclaimable 100\n"}, 7000),
        ({"memory.max": "max\n", "memory.current": "7900\n", "memory.stat": ""}, None),
        ({"memory/memory.limit_in_bytes": "8000\n", "memory/memory.usage_in_bytes": "7900\n",
          "memory/memory.stat": "total_inactive_file 6800\n"}, 6900),
        ({}, None),
    ],
    ids=["version 2", "no limit", "version 1", "no container"],
)  # fmt: skip
def test_a_containers_file_cache_is_free(
    files: dict[str, str], free: int | None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a dataset that was just read, little of the limit seems to be left."""
    write_cgroup(tmp_path, files)
    monkeypatch.setattr(_memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(_memory, "_OF_PROCESS", tmp_path / "none")
    assert _memory._container() == free


@pytest.mark.parametrize(("line", "top", "names"), [
    ("0::/slurm/job_7\n", "", ("memory.max", "memory.current")),
    ("3:cpu:/\n9:hugetlb,memory:/slurm/job_7\n", "memory",
     ("memory.limit_in_bytes", "memory.usage_in_bytes")),
])  # fmt: skip
def test_limits_of_the_groups_that_a_process_lies_in(
    line: str, top: str, names: tuple[str, str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(_memory, "_OF_PROCESS", tmp_path / "of_process")
    (tmp_path / "of_process").write_text(line)
    for folder, bound in (("", 10**6), ("slurm", 9000), ("slurm/job_7", 8000)):
        where = f"{top}/{folder}/".lstrip("/")
        write_cgroup(tmp_path, {where + names[0]: f"{bound}\n", where + names[1]: "1000\n",
                                where + "memory.stat": "anon 900\n"})  # fmt: skip
    assert _memory._container() == 7000
    monkeypatch.setattr(_memory, "_machine", lambda: 10**7)
    assert _memory.available_memory(torch.device("cpu")) == 7000
    (tmp_path / top / "slurm" / names[1]).write_text("6000\n")
    assert _memory._container() == 3000
    (tmp_path / "of_process").write_text(line.replace("slurm", "gone"))  # as containers show it
    assert _memory._container() == 999_000


@pytest.mark.parametrize(
    ("name", "options"),
    [("supervised_manifold", {"k": 10**6}), ("local_blurring", {"k": 10**6}),
     ("group_shuffling", {"k": 10**6}), ("k_reciprocal", {"k1": 10**8}),
     ("graph_walk", {"k": 10**8})],
)  # fmt: skip
def test_more_neighbours_than_images_need_no_more_memory(name: str, options: Any) -> None:
    query, gallery = features(8, 2, 6), features(9, 50, 6)
    all_of_them = {key: 51 for key in options}
    expected = build_reranker(name, **all_of_them).fit(gallery).rank(query)
    actual = build_reranker(name, **options).fit(gallery).rank(query)
    np.testing.assert_array_equal(actual[0], expected[0])


def test_a_walk_that_reaches_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many images some steps reach is known of the graph, and refused then."""
    query, gallery = features(8, 3, 6), features(9, 300, 6)
    reranker = build_reranker("graph_walk", steps=4, k=20).fit(gallery)
    short = build_reranker("graph_walk", steps=1, k=20).fit(gallery)
    free = reranker.estimate_memory(3) + 10_000
    monkeypatch.setattr(_memory, "available_memory", lambda device: free)
    for inductive in (False, True):
        with pytest.raises(InputError, match=r"GraphWalk.rank needs about"):
            reranker.rank(query, inductive=inductive)
    assert len(short.rank(query)[0]) == 3


def test_plain_order_is_that_of_its_distances() -> None:
    query, gallery = features(8, 40, 64), features(9, 400, 64)
    reranker = build_reranker("none").fit(gallery)
    distances = reranker.distance_matrix(query)
    expected = np.argsort(distances, axis=1, kind="stable")
    np.testing.assert_array_equal(reranker.rank(query, 400)[0], expected)
    reranker._gallery = torch.zeros(400, 64)  # what was prepared once is looked at, and no more
    np.testing.assert_array_equal(reranker.distance_matrix(query), distances)


def test_a_reranker_of_ones_own_ranks_and_is_not_saved(tmp_path):
    class Mine(NoReranking):
        """Registered nowhere."""

    x = np.eye(4, dtype=np.float32)
    mine = Mine().fit(x)
    assert mine.rank(x)[0][:, 0].tolist() == [0, 1, 2, 3] and mine.name == "Mine"
    with pytest.raises(InputError, match="Mine is not in RERANKERS"):
        mine.save(tmp_path / "g.safetensors")
    assert not list(tmp_path.iterdir())
