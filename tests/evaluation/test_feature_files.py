"""Tests of evaluation.feature_files: every kind of file, and files that are damaged or foreign."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from torchreid_spectral.errors import InputError
from torchreid_spectral.evaluation.feature_files import FeatureSet, load_features
from torchreid_spectral.inference import gallery as galleries
from torchreid_spectral.inference import shards as shard_files

FEATURES = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
PIDS, CAMIDS = np.array([1, 1, 2, 3, 3, 9, 2]), np.array([0, 1, 0, 1, 2, 2, 0])
NAMES = np.array(["anna", "anna", "bo", "cy", "cy", "di", "bo"])


def write_csv(path: Path, pids: Any, camids: Any, header: tuple[str, ...] = ("pid", "camid")):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *zip(pids, camids)])


def npz(folder: Path, pids: Any) -> Path:
    np.savez(folder / "x.npz", features=FEATURES, pids=pids, camids=CAMIDS)
    return folder / "x.npz"


def npz_compressed(folder: Path, pids: Any) -> Path:
    np.savez_compressed(folder / "x.npz", features=FEATURES, pids=pids, camids=CAMIDS)
    return folder / "x.npz"


def npz_ids(folder: Path, pids: Any) -> Path:
    np.savez(folder / "x.npz", query_features=FEATURES, ids=pids, camids=CAMIDS)
    return folder / "x.npz"


def npy_csv(folder: Path, pids: Any) -> Path:
    np.save(folder / "x.npy", FEATURES)
    write_csv(folder / "x.csv", pids, CAMIDS)
    return folder / "x.npy"


def safetensors_json(folder: Path, pids: Any) -> Path:
    save_file({"features": FEATURES}, folder / "x.safetensors")
    ids = {"pids": pids.tolist(), "camids": CAMIDS.tolist()}
    (folder / "x.json").write_text(json.dumps(ids))
    return folder / "x.safetensors"


def gallery_folder(folder: Path, pids: Any) -> Path:
    """As tools/extract.py writes it: shards, then the manifest."""
    names = []
    for number, rows in enumerate((slice(0, 3), slice(3, 6), slice(6, 7))):
        part = galleries.Gallery(
            FEATURES[rows], [f"{i}.jpg" for i in range(7)][rows], pids[rows].tolist(),
            CAMIDS[rows].tolist(),
        )  # fmt: skip
        names.append(shard_files.write_shard(folder, number, part))
    shard_files.write_manifest(folder, names, "", "cosine")
    return folder


def saved_gallery(folder: Path, pids: Any) -> Path:
    paths = [str(number) for number in range(7)]
    galleries.Gallery(FEATURES, paths, pids.tolist(), CAMIDS.tolist()).save(folder)
    return folder


WRITERS = (
    npz, npz_compressed, npz_ids, npy_csv, safetensors_json, gallery_folder, saved_gallery,
)  # fmt: skip


def equal(found: FeatureSet, features: Any, pids: Any, camids: Any) -> None:
    np.testing.assert_array_equal(found.features, features)
    np.testing.assert_array_equal(found.pids, pids)
    np.testing.assert_array_equal(found.camids, camids)


@pytest.mark.parametrize("pids", [PIDS, NAMES], ids=["numbers", "names"])
@pytest.mark.parametrize("write", WRITERS)
def test_reads(write, pids, tmp_path):
    path = write(tmp_path, pids)
    for given in (path, str(path)):
        equal(load_features(given, "query"), FEATURES, pids, CAMIDS)


def test_safetensors_with_tensors(tmp_path):
    tensors = {"features": FEATURES.astype(np.float16), "pids": PIDS, "camids": CAMIDS}
    save_file(tensors, tmp_path / "x.safetensors")
    found = load_features(tmp_path / "x.safetensors", "gallery")
    equal(found, FEATURES.astype(np.float16), PIDS, CAMIDS)
    assert found.features.dtype == np.float16


def test_npz_of_both(tmp_path):
    np.savez(
        tmp_path / "x.npz", qf=FEATURES[:3], q_pids=PIDS[:3], q_camids=CAMIDS[:3], gf=FEATURES,
        g_pids=NAMES, g_camids=CAMIDS, q_names=np.array([{}, {}, {}]),
    )  # fmt: skip
    equal(load_features(tmp_path / "x.npz", "query"), FEATURES[:3], PIDS[:3], CAMIDS[:3])
    equal(load_features(tmp_path / "x.npz", "gallery"), FEATURES, NAMES, CAMIDS)


def test_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    npz(tmp_path, PIDS)
    equal(load_features("~/x.npz", "query"), FEATURES, PIDS, CAMIDS)


def test_ids_may_be_missing(tmp_path):
    np.save(tmp_path / "a.npy", FEATURES)
    np.savez(tmp_path / "b.npz", features=FEATURES, pids=PIDS)
    save_file({"features": FEATURES}, tmp_path / "c.safetensors")
    galleries.Gallery(FEATURES, [str(n) for n in range(7)]).save(tmp_path / "d")
    for name in ("a.npy", "c.safetensors", "d"):
        found = load_features(tmp_path / name, "gallery")
        np.testing.assert_array_equal(found.features, FEATURES)
        assert found.pids is None and found.camids is None
    assert load_features(tmp_path / "b.npz", "query").camids is None


def test_ids_of_a_part_of_the_shards_are_none(tmp_path):
    gallery_folder(tmp_path, PIDS)
    shard = tmp_path / "features-00001.json"
    shard.write_text(json.dumps(json.loads(shard.read_text()) | {"ids": None}))
    found = load_features(tmp_path, "gallery")
    assert found.pids is None
    np.testing.assert_array_equal(found.camids, CAMIDS)


def test_columns_of_a_table_are_numbers_or_names(tmp_path):
    np.save(tmp_path / "x.npy", FEATURES)
    write_csv(tmp_path / "x.csv", ["0001", "0002", "-1", "3", "4", "5", "6"], list("abcdefg"))
    found = load_features(tmp_path / "x.npy", "query")
    assert found.pids.tolist() == [1, 2, -1, 3, 4, 5, 6]
    assert found.camids.tolist() == list("abcdefg")
    write_csv(tmp_path / "x.csv", ["0001", "2", "c", "3", "4", "5", "6"], CAMIDS)
    assert load_features(tmp_path / "x.npy", "query").pids.tolist()[0] == "0001"
    for odd in (["1_11", "11_1"], ["1" * 20, "2"]):  # no numbers of Python's, no overflow
        write_csv(tmp_path / "x.csv", [*odd, "3", "4", "5", "6", "7"], CAMIDS)
        assert load_features(tmp_path / "x.npy", "query").pids.tolist()[:2] == odd
    write_csv(tmp_path / "x.csv", ["0001", "2", "c", "3", "4", "5", "6"], CAMIDS)
    text = (tmp_path / "x.csv").read_text()
    (tmp_path / "x.csv").write_text(text, encoding="utf-8-sig")  # as Excel does
    assert load_features(tmp_path / "x.npy", "query").pids.tolist()[0] == "0001"


def refused(path: Path, message: str, role: str = "query") -> str:
    with pytest.raises(InputError, match=message) as caught:
        load_features(path, role)
    return str(caught.value)


@pytest.mark.parametrize("role", ["query", "gallery"])
@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.safetensors"])
def test_missing_file(tmp_path, name, role):
    text = refused(tmp_path / name, f"The {role} file .* does not exist", role)
    assert name in text


def test_missing_parts_of_a_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"query file .*index\.json does not exist")
    gallery_folder(tmp_path, PIDS)
    (tmp_path / "features-00001.safetensors").unlink()
    refused(tmp_path, "features-00001|No such file")


@pytest.mark.parametrize("name", ["x.pt", "x.csv", "x", "x.json", "x.NPY.gz"])
def test_foreign_file(tmp_path, name):
    (tmp_path / name).write_text("pid,camid\n1,2\n")
    refused(tmp_path / name, r"is no feature file: take .npz, .npy, .safetensors or a folder")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"\0", b"PK\3\4 not a zip", b"hello", b"\x93NUMPY\1\0"])
def test_damaged_content(tmp_path, suffix, content):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    refused(path, f"The query file {re.escape(str(path))} cannot be read: .")


@pytest.mark.parametrize("write", [npz, npz_compressed, npy_csv, safetensors_json])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_off(tmp_path, write, share):
    path = write(tmp_path, PIDS)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "cannot be read: .")


@pytest.mark.parametrize("write", [npz, npz_compressed])
def test_flipped_bytes(tmp_path, write):
    """The checksums of a zip file, or its decompression, tell."""
    path = write(tmp_path, PIDS)
    content = bytearray(path.read_bytes())
    for place in range(150, 190):
        content[place] ^= 255
    path.write_bytes(content)
    refused(path, "cannot be read: .")


def test_npy_in_the_guise_of_npz(tmp_path):
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, FEATURES)
    refused(tmp_path / "x.npz", "cannot be read: .")


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["features", "pids", "camids"])
def test_nothing_is_unpickled(tmp_path, name):
    trap = np.array([Trap(tmp_path / "sprung")] * 7, dtype=object)
    content = {"features": FEATURES, "pids": PIDS, "camids": CAMIDS, name: trap}
    np.savez(tmp_path / "x.npz", allow_pickle=True, **content)
    np.save(tmp_path / "x.npy", trap, allow_pickle=True)
    refused(tmp_path / "x.npz", "cannot be read: .*allow_pickle")
    refused(tmp_path / "x.npy", "cannot be read: .*allow_pickle")
    assert not (tmp_path / "sprung").exists()


def test_no_features(tmp_path):
    np.savez(tmp_path / "x.npz", qf=FEATURES, other=PIDS)
    expected = r"no features: expected one of \('features', 'gf', 'gallery_features'\), got "
    refused(tmp_path / "x.npz", expected + r"\['other', 'qf'\]", "gallery")
    save_file({"weight": FEATURES}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", r"has no features: .*got \['weight'\]")


@pytest.mark.parametrize("kind", ["pids", "camids"])
@pytest.mark.parametrize("values", [PIDS[:-1], np.arange(8), PIDS[:, None], np.array(3)])
def test_ids_of_another_length(tmp_path, kind, values):
    content = {"features": FEATURES, "pids": PIDS, "camids": CAMIDS, kind: values}
    np.savez(tmp_path / "x.npz", **content)
    shape = re.escape(f"{kind} must have one entry a feature, got {values.shape} for (7, 4)")
    refused(tmp_path / "x.npz", shape)
    save_file(content, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", shape)


def test_wrong_tables(tmp_path):
    np.save(tmp_path / "x.npy", FEATURES)
    write_csv(tmp_path / "x.csv", PIDS, CAMIDS, ("id", "camera"))
    refused(tmp_path / "x.npy", r"x\.csv needs the columns pid and camid, got \['id', 'camera'\]")
    write_csv(tmp_path / "x.csv", PIDS[:5], CAMIDS)
    refused(tmp_path / "x.npy", r"pids must have one entry a feature, got \(5,\) for \(7, 4\)")
    (tmp_path / "x.csv").write_text("pid,camid\n")
    refused(tmp_path / "x.npy", r"pids must have one entry a feature, got \(0,\)")
    (tmp_path / "x.csv").write_text("pid,camid\n" + 7 * "1\n")
    refused(tmp_path / "x.npy", "cannot be read: .")
    (tmp_path / "x.csv").write_bytes(b"pid,camid\n\xff\xfe,1\n")
    refused(tmp_path / "x.npy", "cannot be read: UnicodeDecodeError")


@pytest.mark.parametrize(
    "text", ["", "{", "[1, 2]", "3", '{"pids": [[1], [2, 3]]}', '{"pids": {"a": 1}}']
)
def test_wrong_json(tmp_path, text):
    save_file({"features": FEATURES}, tmp_path / "x.safetensors")
    (tmp_path / "x.json").write_text(text)
    refused(tmp_path / "x.safetensors", "cannot be read: .|must have one entry a feature")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"shards": 3}', '{"shards": []}', "null"])
def test_wrong_manifest(tmp_path, text):
    gallery_folder(tmp_path, PIDS)
    (tmp_path / "index.json").write_text(text)
    refused(tmp_path, "cannot be read: .")


def test_shards_of_other_widths(tmp_path):
    gallery_folder(tmp_path, PIDS)
    save_file({"features": FEATURES[:3, :2]}, tmp_path / "features-00001.safetensors")
    refused(tmp_path, "cannot be read: .")


@pytest.mark.parametrize("ids", [[1, None, 2], ["anna", None, "bo"]])
def test_people_who_are_not_known_match_nobody(tmp_path, ids):
    rows = galleries.Gallery(FEATURES[:3], ["a", "b", "c"], ids, [0, 1, 1])
    rows.save(tmp_path)
    query, gallery = (load_features(tmp_path, role).pids for role in ("query", "gallery"))
    assert query.dtype != object and query.dtype.kind == gallery.dtype.kind
    assert (query == gallery).tolist() == [True, False, True]
    assert not set(query) - set(gallery) <= {1, 2, "anna", "bo"}


def test_a_table_that_does_not_fit_is_named(tmp_path):
    np.save(tmp_path / "x.npy", FEATURES)
    table = tmp_path / "x.csv"
    write_csv(table, PIDS, CAMIDS)
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:3], lines[3].split(",")[0], *lines[4:]]) + "\n")
    refused(tmp_path / "x.npy", r"x\.csv cannot be read: row 3 ends before camid")
    table.write_text("")
    refused(tmp_path / "x.npy", r"x\.csv needs the columns pid and camid, got \[\]")
