"""A fitted gallery is saved, opened and extended; every answer stays the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from torchreid_spectral.errors import InputError
from torchreid_spectral.rerank import (
    RERANKERS,
    Reranker,
    _memory,
    _store,
    build_reranker,
    load_reranker,
)

CASES: list[tuple[str, dict[str, Any]]] = [
    ("none", {"metric": "euclidean"}),
    ("local_blurring", {"k": 8, "temperature": 0.2, "steps": 2}),
    ("k_reciprocal", {"k1": 6, "k2": 3}),
    ("k_reciprocal", {"k1": 6, "k2": 3, "metric": "cosine", "square_distances": False}),
    ("graph_walk", {"k": 5}),
    ("graph_walk", {"k": 5, "cross_camera": 0.5, "graph": "knn"}),
    ("graph_walk", {"walked": "scores", "steps": float("inf"), "restart": 0.2}),
    ("group_shuffling", {"k": 8, "groups": 3}),
    ("supervised_manifold", {"k": 8}),
    ("knn_voting", {"k": 4, "depth": 9}),
]
every_case = pytest.mark.parametrize(("name", "options"), CASES)
QUERIES = np.arange(4) % 3


def features(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def camids(gallery: np.ndarray) -> np.ndarray:
    return np.arange(len(gallery)) % 3


def fitted(name: str, options: dict[str, Any], gallery: np.ndarray) -> Reranker:
    return build_reranker(name, **options).fit(gallery, camids=camids(gallery))


def same(left: Reranker, right: Reranker, query: np.ndarray, atol: float = 0) -> None:
    for inductive in (False, True):
        answers = [
            reranker.rank(query, 20, camids=QUERIES, inductive=inductive)
            for reranker in (left, right)
        ]
        np.testing.assert_array_equal(answers[0][0], answers[1][0])
        np.testing.assert_allclose(answers[0][1], answers[1][1], atol=atol, rtol=atol)


def test_every_reranker_is_here() -> None:
    assert {name for name, _ in CASES} == set(RERANKERS)


@every_case
@pytest.mark.parametrize("sizes", [(30,), (1, 29), (3, 8, 19), (29, 1)])
def test_added_is_fitted(name: str, options: dict[str, Any], sizes: tuple[int, ...]) -> None:
    query, gallery = features(0, 4, 6), features(1, 30, 6)
    whole = fitted(name, options, gallery)
    grown, start = fitted(name, options, gallery[: sizes[0]]), sizes[0]
    for size in sizes[1:]:
        part = slice(start, start + size)
        grown.rank(query, camids=QUERIES, inductive=True)  # what it derives must not stay
        assert grown.add(gallery[part], camids=camids(gallery)[part]) is grown
        start += size
    same(grown, whole, query, atol=2e-6)


@pytest.mark.parametrize("name", ["k_reciprocal", "graph_walk", "knn_voting"])
def test_added_duplicates_are_fitted_duplicates(name: str) -> None:
    """Ties between old and new images go to the lower index either way."""
    gallery = np.eye(4, dtype=np.float32)[np.random.default_rng(2).integers(4, size=24)]
    query = np.eye(4, dtype=np.float32)
    whole = build_reranker(name).fit(gallery)
    grown = build_reranker(name).fit(gallery[:9]).add(gallery[9:])
    same(grown, whole, query, atol=1e-6)


@every_case
def test_saved_is_opened(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    query, gallery = features(3, 4, 6), features(4, 30, 6)
    reranker = fitted(name, options, gallery)
    reranker.save(tmp_path / "g.safetensors")
    opened = load_reranker(tmp_path / "g.safetensors")
    assert type(opened) is type(reranker)
    assert opened.options() == reranker.options()
    # What is mapped from a file does not begin at 64 bytes, and matrix products of some processors
    # then round otherwise; the same values, copied into memory, give the same to the last bit.
    same(opened, reranker, query, atol=2e-7)
    copied = build_reranker(name, **options)
    tensors, _ = _store.read(tmp_path / "g.safetensors")
    copied.restore({key: value.clone() for key, value in tensors.items()})
    same(copied, reranker, query)
    more = features(5, 7, 6)
    opened.add(more, camids=camids(more))
    same(opened, reranker.add(more, camids=camids(more)), query)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.json", "g.safetensors"]


def test_identities_are_saved_and_extended(tmp_path: Path) -> None:
    query, gallery = features(6, 4, 6), features(7, 30, 6)
    identities = np.arange(30) % 4
    reranker = build_reranker("supervised_manifold").fit(gallery, identities=identities)
    reranker.save(tmp_path / "g.safetensors")
    opened = load_reranker(str(tmp_path / "g.safetensors"))
    same(opened, reranker, query)
    unknown = build_reranker("supervised_manifold").fit(gallery)
    assert (opened.rank(query)[0] != unknown.rank(query)[0]).any()
    more = features(8, 5, 6)
    known = np.concatenate([identities, np.full(5, -1)])
    whole = np.concatenate([gallery, more])
    expected = build_reranker("supervised_manifold").fit(whole, identities=known)
    same(opened.add(more), expected, query, atol=2e-6)


@pytest.mark.parametrize("search", ["faiss_flat", "faiss_ivf", "faiss_hnsw"])
def test_index_is_built_anew(search: str, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    query, gallery = features(9, 4, 6), features(10, 60, 6)
    reranker = build_reranker("graph_walk", search=search, k=5).fit(gallery)
    reranker.save(tmp_path / "g.safetensors")
    same(load_reranker(tmp_path / "g.safetensors"), reranker, query)


def test_tensors_and_half_precision_are_saved(tmp_path: Path) -> None:
    gallery = torch.from_numpy(features(11, 12, 6)).half()[::2].T.contiguous().T
    reranker = build_reranker("none", metric="euclidean").fit(gallery)
    reranker.save(tmp_path / "g.safetensors")
    opened = load_reranker(tmp_path / "g.safetensors", device="cpu")
    torch.testing.assert_close(opened.gallery, gallery.float(), rtol=0, atol=0)


def test_saving_again_replaces(tmp_path: Path) -> None:
    path, gallery = tmp_path / "g.safetensors", features(12, 30, 6)
    fitted("graph_walk", {}, gallery).save(path)
    fitted("knn_voting", {}, gallery[:9]).save(path)
    opened = load_reranker(path)
    assert (opened.name, len(opened.gallery)) == ("knn_voting", 9)


def test_numbers_of_numpy_are_saved_as_numbers(tmp_path: Path) -> None:
    path, gallery = tmp_path / "g.safetensors", features(14, 30, 6)
    reranker: Any = build_reranker("local_blurring").fit(gallery)
    reranker.k, reranker.temperature = np.int64(6), np.float32(0.5)
    reranker.save(path)
    options = load_reranker(path).options()
    assert (options["k"], options["temperature"]) == (6, 0.5)


def test_a_failed_save_leaves_the_earlier_one(saved: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        _store.write(saved, {"gallery": torch.zeros(2, 6)}, {"options": {"k": object()}})
    assert len(load_reranker(saved).gallery) == 30


def test_opened_features_are_those_of_the_file(tmp_path: Path, monkeypatch: Any) -> None:
    """Prepared as they are compared, they are not copied; what has no room is refused."""
    path, gallery = tmp_path / "g.safetensors", 3 * features(15, 30, 6)
    build_reranker("local_blurring").fit(gallery).save(path)
    opened = load_reranker(path)
    assert opened.gallery.data_ptr() == opened._search.features.data_ptr()
    np.testing.assert_allclose(opened.gallery.norm(dim=1), 1, atol=1e-6)
    monkeypatch.setattr(_memory, "available_memory", lambda device: -1)
    with pytest.raises(InputError, match=r"LocalBlurring.load needs about"):
        load_reranker(path)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "g.safetensors"
    fitted("graph_walk", {"k": 5}, features(13, 30, 6)).save(path)
    return path


def rewrite(path: Path, **changes: Any) -> None:
    about = json.loads(path.with_suffix(".json").read_text())
    about |= changes
    about = {key: value for key, value in about.items() if value is not None}
    path.with_suffix(".json").write_text(json.dumps(about))


def test_rejects_names(saved: Path) -> None:
    reranker = load_reranker(saved)
    for name in ("g.npz", "g", "g.json"):
        for call in (reranker.save, load_reranker):
            with pytest.raises(InputError, match=rf"must end in .safetensors, got '{name}'"):
                call(saved.parent / name)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_rejects_a_missing_file(saved: Path, suffix: str) -> None:
    saved.with_suffix(suffix).unlink()
    with pytest.raises(InputError, match=rf"g.json beside it; missing: .*g\{suffix}"):
        load_reranker(saved)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("left", [0, 5, 100, -1])
def test_rejects_a_cut_file(saved: Path, suffix: str, left: int) -> None:
    path = saved.with_suffix(suffix)
    path.write_bytes(path.read_bytes().rstrip()[:left])
    with pytest.raises(InputError, match="damaged"):
        load_reranker(saved)


def test_rejects_a_json_that_is_none(saved: Path) -> None:
    for text in ("[]", "null", '"g"', "{}"):
        saved.with_suffix(".json").write_text(text)
        with pytest.raises(InputError, match="do not belong together"):
            load_reranker(saved)


def test_rejects_another_pair(saved: Path) -> None:
    other = saved.with_name("h.safetensors")
    fitted("graph_walk", {"k": 5}, features(14, 30, 6)).save(other)
    other.with_suffix(".json").replace(saved.with_suffix(".json"))
    with pytest.raises(InputError, match="do not belong together: save them anew"):
        load_reranker(saved)


def test_who_is_killed_between_the_two_files_keeps_a_gallery(saved: Path) -> None:
    """The tensors are new, the description is the one of before: the new gallery opens."""
    earlier = saved.with_suffix(".json").read_text()
    gallery = features(14, 20, 6)
    new = fitted("graph_walk", {"k": 7}, gallery)
    new.save(saved)
    saved.with_suffix(".json").write_text(earlier)
    opened = load_reranker(saved)
    assert opened.options() == new.options()
    same(opened, new, features(15, 4, 6), atol=2e-7)
    for k in (8, 9):  # what stood there at the last writing is another one
        fitted("graph_walk", {"k": k}, gallery).save(saved)
    saved.with_suffix(".json").write_text(earlier)
    with pytest.raises(InputError, match="do not belong together"):
        load_reranker(saved)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gallery", lambda rows: rows[:20], "camids must have shape|not of 20 images"),
        ("gallery", lambda rows: rows * torch.nan, "gallery must be finite"),
        ("gallery", lambda rows: rows[:0], "gallery must be"),
        ("gallery", lambda rows: rows.long(), "gallery must be floating point"),
        ("camids", lambda values: values[:9], "camids must have shape"),
        ("near_indices", lambda rows: rows + 29, "not of 30 images"),
        ("near_indices", lambda rows: rows - 1, "not of 30 images"),
        ("near_indices", lambda rows: rows[:, :3], "not of 30 images with 6 neighbours"),
        ("near_indices", lambda rows: rows.float(), "not of 30 images"),
        ("near_distances", lambda rows: rows * torch.inf, "not of 30 images"),
        ("near_farthest", lambda rows: rows[:9], "not of 30 images"),
    ],
)
def test_rejects_tensors_that_do_not_fit(
    saved: Path, name: str, change: Any, message: str
) -> None:
    tensors = load_file(saved)
    tensors[name] = change(tensors[name]).contiguous()
    label = json.loads(saved.with_suffix(".json").read_text())["label"]
    save_file(tensors, saved, metadata={"label": label})
    with pytest.raises(InputError, match=message):
        load_reranker(saved)


def test_rejects_an_option_that_wants_other_lists(saved: Path) -> None:
    options = json.loads(saved.with_suffix(".json").read_text())["options"]
    rewrite(saved, options=options | {"k": 12})
    with pytest.raises(InputError, match="with 13 neighbours each, as the options want"):
        load_reranker(saved)


@pytest.mark.parametrize("version", [2, 99, "1", None])
def test_rejects_another_format(saved: Path, version: Any) -> None:
    rewrite(saved, format=version)
    with pytest.raises(InputError, match="this version reads up to 1. Update torchreid_spectral"):
        load_reranker(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reranker": "graph_wolk"}, "Did you mean graph_walk"),
        ({"options": {"k": 5, "speed": 3}}, "has no option 'speed'"),
        ({"options": {"k": 0}}, "k must be >= 1, got 0"),
        ({"options": {"k": "many"}}, "must be int, got 'many'"),
        ({"options": [5]}, "is no saved gallery"),
        ({"options": None}, "is no saved gallery.*options"),
        ({"reranker": None}, "is no saved gallery.*reranker"),
        ({"reranker": ["none"]}, "is no saved gallery"),
    ],
)
def test_rejects_another_description(saved: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(saved, **changes)
    with pytest.raises(InputError, match=message):
        load_reranker(saved)


@pytest.mark.parametrize("missing", ["gallery", "near_indices", "near_distances"])
def test_rejects_missing_tensors(saved: Path, missing: str) -> None:
    tensors = load_file(saved)
    del tensors[missing]
    label = json.loads(saved.with_suffix(".json").read_text())["label"]
    save_file(tensors, saved, metadata={"label": label})
    with pytest.raises(InputError, match=f"is no saved gallery.*{missing}"):
        load_reranker(saved)


def test_a_newer_format_of_other_tensors_is_told_so(saved: Path) -> None:
    save_file({"x": torch.zeros(1)}, saved, metadata={"label": "new"})
    rewrite(saved, format=2, label="new")
    with pytest.raises(InputError, match="has format 2"):
        load_reranker(saved)


def test_nothing_to_save(tmp_path: Path) -> None:
    for name in sorted(RERANKERS):
        with pytest.raises(InputError, match=r"no gallery yet: call fit\(gallery\) first"):
            build_reranker(name).save(tmp_path / "g.safetensors")
        with pytest.raises(InputError, match=r"no gallery yet: call fit\(gallery\) first"):
            build_reranker(name).add(features(15, 3, 6))
    assert not list(tmp_path.iterdir())


def test_who_reads_other_files_reads_these(saved: Path) -> None:
    (saved.parent / "other").touch()
    mode = (saved.parent / "other").stat().st_mode
    assert {saved.stat().st_mode, saved.with_suffix(".json").stat().st_mode} == {mode}


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        build_reranker("none").fit(features(40, 5, 3)).save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_home_is_home(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    build_reranker("none").fit(features(41, 5, 3)).save("~/a.safetensors")
    assert (tmp_path / "a.safetensors").is_file()
    assert len(load_reranker("~/a.safetensors").gallery) == 5
