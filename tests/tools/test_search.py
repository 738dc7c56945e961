"""Tests of tools/extract.py, search.py and compare_images.py."""

import io
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from PIL import Image

from ..inference.conftest import pictures, run_folder, weights  # noqa: F401 (fixtures)
from .test_main import load_tool

extract, search, compare = (load_tool(n) for n in ("extract", "search", "compare_images"))


def test_extract_search_compare(weights, pictures, data_root, tmp_path, capsys):  # noqa: F811
    out, folder = tmp_path / "gallery", data_root / "synthetic_pedestrians" / "query"
    given = [str(weights), str(folder), "--out", str(out), "--shard-size", "7", "--device", "cpu"]
    assert extract.main(given) == 0
    shards = sorted(out.glob("*.safetensors"))
    written = {path: path.stat().st_mtime_ns for path in shards}
    (out / "index.json").unlink()
    shards[1].with_suffix(".json").unlink()
    assert extract.main(given) == 0
    assert f"in {len(shards)} shards ({len(shards) - 1} kept)" in capsys.readouterr().out
    again = {path: path.stat().st_mtime_ns for path in shards}
    assert [path for path in shards if again[path] != written[path]] == [shards[1]]

    assert extract.main([*given, "--amp", "bf16"]) == 0  # features of one gallery are of one
    assert f"in {len(shards)} shards (0 kept)" in capsys.readouterr().out
    assert extract.main(given) == 0
    assert f"in {len(shards)} shards (0 kept)" in capsys.readouterr().out

    query = pictures[0][0]
    arguments = [str(weights), str(out), query, "--top-k", "3", "--device", "cpu"]
    assert search.main([*arguments, "--json", "--rerank", "local_blurring"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in answer[query]] == [1, 2, 3]
    assert search.main([arguments[0], str(folder), *arguments[2:]]) == 0
    assert capsys.readouterr().out.count(".jpg") == 4
    assert search.main([*arguments, "--rerank", "local_blur"]) == 2
    assert "Did you mean local_blurring" in capsys.readouterr().err


def test_broken_shards_and_unfinished_galleries(weights, pictures, tmp_path, capsys):  # noqa: F811
    folder, out = tmp_path / "crops", tmp_path / "gallery"
    folder.mkdir()
    shutil.copy(pictures[0][0], folder / "a.jpg")
    (folder / "b.jpg").write_bytes(b"no picture")
    (folder / "c.jpg").write_bytes(b"no picture")
    given = [str(weights), str(folder), "--out", str(out), "--device", "cpu"]
    for size in ("1", "2"):  # the last shards hold nothing but what is broken
        assert extract.main([*given, "--shard-size", size]) == 0
        shown = capsys.readouterr()
        assert "1 images in 1 shards" in shown.out and "2 could not be read" in shown.out
        assert "warning: None of the 1 images could be read" in shown.err
    (out / "index.json").unlink()
    query = [str(weights), str(out), str(folder / "a.jpg"), "--device", "cpu"]
    assert search.main(query) == 2
    assert "is not finished: run tools/extract.py once more" in capsys.readouterr().err
    (folder / "a.jpg").write_bytes(b"no picture")
    assert extract.main([*given[:3], str(tmp_path / "none"), *given[4:]]) == 2
    assert "None of the 3 images could be read" in capsys.readouterr().err


def test_changed_and_mended_images_are_read_again(weights, pictures, tmp_path, capsys):  # noqa: F811
    folder, out = tmp_path / "images", tmp_path / "gallery"
    folder.mkdir()
    for number in range(3):
        shutil.copy(pictures[number][0], folder / f"{number}.jpg")
    (folder / "3.jpg").write_text("no image")
    command = [str(weights), str(folder), "--out", str(out), "--shard-size", "2"]
    assert extract.main(command) == 0 and extract.main(command) == 0
    assert "3 images in 2 shards (2 kept)" in capsys.readouterr().out
    shutil.copy(pictures[3][0], folder / "3.jpg")
    later = time.time() + 5
    os.utime(folder / "3.jpg", (later, later))
    assert extract.main(command) == 0
    assert "4 images in 2 shards (1 kept)" in capsys.readouterr().out


def test_an_older_picture_in_the_place_of_another_is_read(
    weights, pictures, tmp_path, capsys  # noqa: F811
):  # fmt: skip
    """What copies or moves a file may keep its time, of before the shard was written."""
    folder, out = tmp_path / "images", tmp_path / "gallery"
    folder.mkdir()
    shutil.copy(pictures[0][0], folder / "0.jpg")
    command = [str(weights), str(folder), "--out", str(out)]
    assert extract.main(command) == 0
    capsys.readouterr()
    shutil.copy(pictures[3][0], folder / "0.jpg")
    os.utime(folder / "0.jpg", (1e9, 1e9))
    assert extract.main(command) == 0
    assert "1 images in 1 shards (0 kept)" in capsys.readouterr().out


def test_a_shard_that_is_cut_off_is_written_anew(
    weights, pictures, tmp_path, capsys  # noqa: F811
):  # fmt: skip
    folder, out = tmp_path / "images", tmp_path / "gallery"
    folder.mkdir()
    for number in range(3):
        shutil.copy(pictures[number][0], folder / f"{number}.jpg")
    command = [str(weights), str(folder), "--out", str(out), "--shard-size", "1"]
    assert extract.main(command) == 0
    shard = out / "features-00001.safetensors"
    whole = shard.read_bytes()
    for left in (0, 5, len(whole) - 4):
        shard.write_bytes(whole[:left])
        assert extract.main(command) == 0
        assert "3 images in 3 shards (2 kept)" in capsys.readouterr().out
        assert shard.read_bytes() == whole


def test_what_fails_leaves_the_gallery_that_was_there(
    weights, pictures, tmp_path, capsys  # noqa: F811
):  # fmt: skip
    out, broken = tmp_path / "gallery", tmp_path / "broken"
    broken.mkdir()
    (broken / "a.jpg").write_text("no image")
    (tmp_path / "good").mkdir()
    shutil.copy(pictures[0][0], tmp_path / "good" / "a.jpg")
    command = [str(weights), str(tmp_path / "good"), "--out", str(out)]
    assert extract.main(command) == 0
    assert extract.main([str(weights), str(broken), "--out", str(out)]) == 2
    assert extract.main([*command, "--batch-size", "0", "--amp", "bf16"]) == 2
    assert "batch_size must be >= 1, got 0" in capsys.readouterr().err
    assert search.main([str(weights), str(out), pictures[0][0]]) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--device", "cuda:77"], "The device cuda:77 cannot be used"),
        (["--device", "abacus"], "The device abacus cannot be used"),
        (["--height", "0"], "height must be >= 1, got 0"),
        (["--out", "{file}/gallery"], "cannot be read or written"),
    ],
)
def test_what_cannot_be_is_said(weights, pictures, tmp_path, capsys, given, message):  # noqa: F811
    (tmp_path / "file").write_text("")
    shutil.copy(pictures[0][0], tmp_path / "a.jpg")
    given = [text.format(file=tmp_path / "file") for text in given]
    command = [str(weights), str(tmp_path), "--out", str(tmp_path / "gallery"), *given]
    assert extract.main(command) == 2
    assert message in capsys.readouterr().err


def test_stopped_it_says_how_to_go_on(monkeypatch, capsys):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(extract, "run", stop)
    assert extract.main(["weights", "folder", "--out", "gallery"]) == 130
    assert "stopped; the same command goes on" in capsys.readouterr().err


def test_messages_do_not_get_into_json(weights, pictures, tmp_path):  # noqa: F811
    (tmp_path / "bad.jpg").write_text("no image")
    shutil.copy(pictures[0][0], tmp_path / "0.jpg")
    command = [sys.executable, "tools/search.py", weights, tmp_path, pictures[0][0], "--json",
               "--device", "cpu"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (hits,) = json.loads(done.stdout).values()
    assert len(hits) == 1 and "1 of 2 images could not be read" in done.stderr


def test_dataset_calibrates(weights, data_root, tmp_path, capsys):  # noqa: F811
    out = str(tmp_path / "gallery")
    given = ["--dataset", "synthetic_pedestrians", "--root", str(data_root), "--out", out]
    assert extract.main([str(weights), *given, "--device", "cpu"]) == 0
    capsys.readouterr()
    image = str(next((data_root / "synthetic_pedestrians" / "query").glob("*.jpg")))
    pair = [str(weights), image, image, "--device", "cpu"]
    assert compare.main(pair) == 0
    assert "not calibrated" in capsys.readouterr().out
    try:
        assert compare.main([*pair, "--calibrate", out, "--false-match-rate", "0.05"]) == 0
        assert "same person" in capsys.readouterr().out
        assert compare.main([*pair, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["same"] is True
    finally:
        weights.with_name("calibration.json").unlink()


def test_other_labels_are_written_anew(weights, data_root, tmp_path, capsys):  # noqa: F811
    out, root = tmp_path / "gallery", data_root / "synthetic_pedestrians"
    folder = [str(weights), str(root / "bounding_box_test"), "--out", str(out)]
    assert extract.main(folder) == 0  # the same images without labels
    given = [str(weights), "--dataset", "synthetic_pedestrians", "--root", str(data_root),
             "--out", str(out)]  # fmt: skip
    assert extract.main(given) == 0
    assert "(0 kept)" in capsys.readouterr().out
    assert extract.main(given) == 0
    assert "(1 kept)" in capsys.readouterr().out
    shard = out / "features-00000.json"
    content = json.loads(shard.read_text())
    shard.write_text(json.dumps(content | {"ids": [7, *content["ids"][1:]]}))
    later = time.time() + 5
    os.utime(shard, (later, later))
    assert extract.main(given) == 0
    assert "(0 kept)" in capsys.readouterr().out
    assert json.loads(shard.read_text())["ids"] == content["ids"]


@pytest.mark.parametrize("split", ["train", "gallery"])
def test_nobody_is_in_no_training_set(weights, tmp_path, capsys, split):  # noqa: F811
    for name in (
        "train/0001_c1s1_000001_00.jpg",
        "query/0002_c1s1_000001_00.jpg",
        "gallery/0002_c2s1_000001_00.jpg",
        "gallery/0000_c2s1_000001_00.jpg",
    ):
        path = tmp_path / "own" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (8, 16)).save(path)  # fmt: skip
    out = tmp_path / "out"
    given = ["--dataset", "folder", "--root", str(tmp_path / "own"), "--split", split]
    assert extract.main([str(weights), *given, "--out", str(out)]) == 0
    ids = json.loads((out / "features-00000.json").read_text())["ids"]
    assert ids == ([1] if split == "train" else [-1, 2])


def test_a_dataset_is_read_as_the_run_read_it(run_folder, data_root, tmp_path):  # noqa: F811
    """Who was trained on is in no gallery, unless it is asked for."""
    from ..data.test_folder import make_tree

    run, root = tmp_path / "run", make_tree(data_root, tmp_path / "own")
    shutil.copytree(run_folder, run)
    content = json.loads((run / "metrics.json").read_text())
    content["config"]["folder"] = {"train_share": 0.9}
    (run / "metrics.json").write_text(json.dumps(content))
    people = []
    for more in ([], ["--set", "folder.train_share", "0.5"]):
        out = tmp_path / f"out{len(people)}"
        given = [str(run), "--dataset", "folder", "--root", str(root), "--out", str(out), *more]
        assert extract.main(given) == 0
        people.append(len(set(json.loads((out / "features-00000.json").read_text())["ids"])))
    everybody = len(list(root.iterdir()))
    assert people == [everybody - round(0.9 * everybody), everybody - round(0.5 * everybody)]


def test_people_keep_their_names(weights, tmp_path, capsys):  # noqa: F811
    for name in (
        "query/anna/1_a.jpg",
        "gallery/anna/2_a.jpg",
        "gallery/ben/2_a.jpg",
        "train/cleo/1_a.jpg",
        "gallery/0000_c2s1_000001_00.jpg",
    ):
        path = tmp_path / "own" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (8, 16)).save(path)  # fmt: skip
    for split, expected in (("gallery", [None, "anna", "ben"]), ("train", ["cleo"])):
        out = tmp_path / split
        given = ["--dataset", "folder", "--root", str(tmp_path / "own"), "--split", split]
        assert extract.main([str(weights), *given, "--out", str(out)]) == 0
        ids = json.loads((out / "features-00000.json").read_text())["ids"]
        assert sorted(ids, key=str) == sorted(expected, key=str)
    query = str(tmp_path / "own" / "query" / "anna" / "1_a.jpg")
    assert search.main([str(weights), str(tmp_path / "gallery"), query]) == 0
    assert "id anna" in capsys.readouterr().out


def test_queries_of_one_command_may_be_alone(weights, pictures, tmp_path, capsys):  # noqa: F811
    rows = [row[0] for row in pictures]
    for path in rows[:12]:
        shutil.copy(path, tmp_path)
    given = [str(weights), str(tmp_path), "--rerank", "graph_walk", "--json", "--device", "cpu"]
    found = []
    for queries in (rows[:1], rows[:4]):
        assert search.main([*given[:2], *queries, *given[2:], "--inductive"]) == 0
        found.append(json.loads(capsys.readouterr().out)[rows[0]])
    alone, among = ([(hit["path"], hit["distance"]) for hit in hits] for hits in found)
    assert [path for path, _ in alone] == [path for path, _ in among]
    assert [near for _, near in alone] == pytest.approx([near for _, near in among], abs=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["w", "--out", "o"], "a folder of images or --dataset"),
        (["w", "nowhere", "--out", "o"], "There is no folder 'nowhere'"),
        (["w", "--dataset", "market1502", "--out", "o"], "Did you mean market1501"),
        (["w", "--dataset", "folder", "--root", ".", "--out", "o"], "There are no weights 'w'"),
    ],
)
def test_rejects(torchreid, given, message, capsys):
    assert extract.main(given) == 2
    assert message in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error(weights, pictures, tmp_path):  # noqa: F811
    for number in range(3):
        shutil.copy(pictures[number][0], tmp_path / f"{number}.jpg")
    command = [sys.executable, "tools/search.py", weights, tmp_path, pictures[0][0]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as run:
        run.stdout.close()
        assert run.wait(timeout=300) == 0
        said = run.stderr.read()
    assert "Traceback" not in said and "BrokenPipe" not in said


def test_a_failing_network_is_no_broken_image(
    weights, pictures, tmp_path, capsys, monkeypatch  # noqa: F811
):  # fmt: skip
    from torchreid_spectral import SpectralReID
    from torchreid_spectral.errors import InputError

    def fails(self, *given, **more):
        raise InputError("The network's features hold NaN or infinity.")

    folder, out = tmp_path / "images", tmp_path / "gallery"
    folder.mkdir()
    shutil.copy(pictures[0][0], folder / "0.jpg")
    monkeypatch.setattr(SpectralReID, "index", fails)
    assert extract.main([str(weights), str(folder), "--out", str(out)]) == 2
    assert "error: The network's features hold NaN" in capsys.readouterr().err
    assert not (out / "index.json").exists()


def test_a_file_that_is_completed_meanwhile_is_read_again(
    weights, pictures, tmp_path, capsys, monkeypatch  # noqa: F811
):  # fmt: skip
    from torchreid_spectral import SpectralReID

    folder, out = tmp_path / "images", tmp_path / "gallery"
    folder.mkdir()
    shutil.copy(pictures[0][0], folder / "0.jpg")
    (folder / "1.jpg").write_bytes(b"half an image")
    original = SpectralReID.index

    def index(self, *given, **more):
        found = original(self, *given, **more)
        shutil.copy(pictures[1][0], folder / "1.jpg")  # it has come in, after it was read
        return found

    command = [str(weights), str(folder), "--out", str(out)]
    monkeypatch.setattr(SpectralReID, "index", index)
    assert extract.main(command) == 0
    assert "1 images in 1 shards (0 kept)" in capsys.readouterr().out
    monkeypatch.setattr(SpectralReID, "index", original)
    for kept in (0, 1):
        assert extract.main(command) == 0
        assert f"2 images in 1 shards ({kept} kept)" in capsys.readouterr().out


def test_what_is_of_a_dataset_is_not_of_a_folder(weights, tmp_path, capsys):  # noqa: F811
    given = [str(weights), str(tmp_path), "--out", str(tmp_path / "g")]
    assert extract.main([*given, "--split", "query", "--set", "foo.bar", "1"]) == 2
    assert "--split, --set: of a --dataset only, not of a folder" in capsys.readouterr().err


def test_fewer_shards_leave_none_of_the_earlier(weights, pictures, tmp_path, capsys):  # noqa: F811
    folder, out = tmp_path / "crops", tmp_path / "gallery"
    folder.mkdir()
    for number in range(3):
        shutil.copy(pictures[0][0], folder / f"{number}.jpg")
    given = [str(weights), str(folder), "--out", str(out), "--device", "cpu"]
    assert extract.main([*given, "--shard-size", "1"]) == 0
    assert len([*out.glob("features-*")]) == 6
    (out / "features-of-mine.json").touch()
    assert extract.main(given) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "features-00000.json", "features-00000.safetensors", "features-of-mine.json", "index.json",
    ]  # fmt: skip
    assert len({path.stat().st_mode for path in out.glob("features-0*")}) == 1


def test_a_gallery_that_is_not_there(weights, pictures, capsys):  # noqa: F811
    assert search.main([str(weights), "galery", pictures[0][0], "--device", "cpu"]) == 2
    assert "There is no gallery or folder of images 'galery'" in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["search", "compare_images"])
def test_what_may_not_be_read_is_said(tool, monkeypatch, capsys):
    def locked(*_, **__):
        raise PermissionError(13, "Permission denied", "metrics.json")

    module = {"search": search, "compare_images": compare}[tool]
    monkeypatch.setattr(module, "open_reid", locked)
    assert module.main(["run", "a", "b"]) == 2
    assert "cannot be read or written" in capsys.readouterr().err


def test_the_answer_is_given_where_a_calibration_cannot_be_kept(
    weights, data_root, pictures, tmp_path, monkeypatch, capsys,  # noqa: F811
):  # fmt: skip
    out = str(tmp_path / "gallery")
    dataset = ["--dataset", "synthetic_pedestrians", "--root", str(data_root)]
    assert extract.main([str(weights), *dataset, "--out", out, "--device", "cpu"]) == 0

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchreid_spectral.inference.calibration.Calibration.save", full)
    capsys.readouterr()
    given = [
        str(weights),
        pictures[0][0],
        pictures[1][0],
        "--device",
        "cpu",
        "--false-match-rate",
        "0.1",
    ]
    assert compare.main([*given, "--calibrate", out]) == 2
    shown = capsys.readouterr()
    assert "distance" in shown.out and "No space left" in shown.err


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_any_name_is_shown(tmp_path, encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)

    def shows(args):
        sys.stdout.write("caf\udce9.png 张.png\n")

    monkeypatch.setattr(search, "run", shows)
    assert search.main([str(tmp_path), str(tmp_path), "query.jpg"]) == 0
    shown = stream.buffer.getvalue().decode(encoding)
    assert shown.startswith("caf\\udce9.png ") and shown.rstrip().endswith(".png")


def test_options_of_a_reranker(weights, pictures, tmp_path, capsys):  # noqa: F811
    for number in range(4):
        shutil.copy(pictures[number][0], tmp_path / f"{number}.jpg")
    given = [str(weights), str(tmp_path), pictures[0][0], "--device", "cpu", "--json"]
    given += ["--rerank", "local_blurring", "--option"]
    assert search.main([*given, "k=2", "temperature=0.5"]) == 0
    capsys.readouterr()
    assert search.main([*given, "k=0"]) == 2
    assert "k must be >= 1, got 0" in capsys.readouterr().err
    assert search.main([*given, "k"]) == 2
    assert "NAME=VALUE, got 'k'" in capsys.readouterr().err


def test_a_dataset_lies_where_the_run_s_was(run_folder, data_root, tmp_path):  # noqa: F811
    copy = shutil.copytree(run_folder, tmp_path / "run")
    content = json.loads((copy / "metrics.json").read_text())
    content["config"]["data"]["root"] = str(data_root)
    (copy / "metrics.json").write_text(json.dumps(content))
    given = [str(copy), "--dataset", "synthetic_pedestrians", "--device", "cpu"]
    assert extract.main([*given, "--out", str(tmp_path / "g")]) == 0
    index = json.loads((tmp_path / "g" / "features-00000.json").read_text())
    assert all(path.startswith(str(data_root)) for path in index["paths"])
