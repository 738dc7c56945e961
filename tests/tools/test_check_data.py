"""Tests of tools/check_data.py: sound collections pass, each way of being broken is named."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from torchreid_spectral.data.folder import scan

from ..data.test_folder import make_names, make_table, make_tree
from .test_main import load_tool

main = load_tool("check_data").main


@pytest.fixture
def tree(data_root, tmp_path):
    return make_tree(data_root, tmp_path / "own", split=True)


def run(capsys, root, *options):
    status = main([str(root), "--json", "--batch-size", "16", *map(str, options)])
    report = json.loads(capsys.readouterr().out)
    assert report["exit_code"] == status
    return status, report, {f["code"]: f for f in report.get("findings", [])}


def test_sound_tree(capsys, tree, tmp_path):
    picture = tmp_path / "out" / "distribution.png"
    status, report, findings = run(capsys, tree, "--picture", picture)
    assert status == 0 and findings == {}
    assert report["counts"] == {
        "train": {"items": 64, "files": 64, "identities": 8, "cameras": 3},
        "query": {"items": 18, "files": 18, "identities": 6, "cameras": 3},
        "gallery": {"items": 30, "files": 30, "identities": 6, "cameras": 3},
    }
    assert report["per_identity"]["0001"] == {"train": 8}
    assert sum(sum(row.values()) for row in report["per_camera"].values()) == 112
    with Image.open(picture) as image:
        assert image.size == (1200, 480) and len(image.getcolors(1 << 20)) > 3


def test_text(capsys, tree):
    assert main([str(tree), "--batch-size", "16"]) == 0
    shown = capsys.readouterr().out
    assert "train              64           8        3" in shown and shown.endswith("ok\n")


def test_text_says_how_many_more(capsys, tree):
    shutil.rmtree(tree / "gallery")
    (tree / "gallery").mkdir()
    queries = sorted((tree / "query").rglob("*.jpg"))
    (tree / "gallery" / "other").mkdir()
    shutil.copy(queries[0], tree / "gallery" / "other" / "c9_a.jpg")
    assert main([str(tree), "--batch-size", "16"]) == 1
    assert f"    ... and {len(queries) - 5} more" in capsys.readouterr().out


@pytest.mark.parametrize("make", [make_tree, make_names, make_table])
def test_proposal_is_written_and_sound(capsys, data_root, tmp_path, make):
    root, split = make(data_root, tmp_path / "own"), tmp_path / "split.csv"
    status, report, findings = run(capsys, root, "--write-split", split)
    assert status == 0 and list(findings) == ["no_splits"]
    assert sum(row["items"] for row in report["proposal"].values()) == 112
    again, report, findings = run(capsys, split)
    assert again == 0 and findings == {} and report["proposal"] is None
    assert scan(split).has_split


def first(tree, part):
    return sorted((tree / part).rglob("*.jpg"))[0]


def truncate(tree):
    path = first(tree, "train")
    path.write_bytes(path.read_bytes()[:200])
    (first(tree, "query").parent / "c1_empty.jpg").touch()
    return 2


def leak(tree):
    shutil.copy(first(tree, "train"), first(tree, "gallery").parent / "c3_copied.jpg")
    return 1


def mislabel(tree):
    people = sorted((tree / "train").iterdir())
    shutil.copy(first(people[0], "."), people[1] / "c1_copied.jpg")
    return 1


def number_each_split_anew(tree):
    first(tree, "query")
    for part in ("query", "gallery"):
        person = sorted((tree / part).iterdir())[0]
        person.rename(person.with_name("0001"))
    return 1


def one_camera_for_all(tree):
    for part in ("query", "gallery"):
        for number, path in enumerate(sorted((tree / part).rglob("*.jpg"))):
            path.rename(path.with_name(f"c1_{number}.jpg"))
    return 18


def person_not_in_gallery(tree):
    shutil.rmtree(sorted((tree / "gallery").iterdir())[0])
    return 3


def too_few_people(tree):
    for person in sorted((tree / "train").iterdir())[3:]:
        shutil.rmtree(person)
    return 3


BROKEN = {
    "unreadable": truncate,
    "duplicate_across_splits": leak,
    "duplicate_identities": mislabel,
    "identities_in_train_and_test": number_each_split_anew,
    "query_same_camera": one_camera_for_all,
    "query_absent": person_not_in_gallery,
    "few_identities": too_few_people,
}


@pytest.mark.parametrize("code", BROKEN)
def test_broken_trees(capsys, tree, code):
    count = BROKEN[code](tree)
    status, _, findings = run(capsys, tree)
    assert status == 1
    assert findings[code]["severity"] == "error" and findings[code]["count"] == count
    assert findings[code]["examples"] or code == "few_identities"
    others = {c for c, f in findings.items() if f["severity"] == "error"} - {code}
    assert others <= ({"duplicate_identities"} if code == "duplicate_across_splits" else set())


def ignored(tree):
    (tree / "train" / "0001" / "nocamera.jpg").touch()
    return 1


def seen_once(tree):
    for path in sorted((tree / "train" / "0001").glob("c[23]_*")):
        path.unlink()
    return 1


def repeated(tree):
    path = first(tree, "train")
    shutil.copy(path, path.with_name("c1_again.jpg"))
    return 1


def thin(tree):
    for path in sorted((tree / "train" / "0001").glob("*"))[2:]:
        path.unlink()
    return 1


WARNED = {"ignored": ignored, "one_camera": seen_once, "duplicate": repeated, "few_images": thin}


@pytest.mark.parametrize("code", WARNED)
def test_warnings(capsys, tree, code):
    count = WARNED[code](tree)
    status, _, findings = run(capsys, tree)
    assert status == 0
    assert findings[code]["severity"] == "warning" and findings[code]["count"] == count


def test_broken_tables(capsys, data_root, tmp_path):
    table = make_table(data_root, tmp_path / "own", split=True) / "labels.csv"
    lines = table.read_text().splitlines()
    lines[1] = lines[1].replace(",train", ",trian")
    lines[2] = lines[2].split(",")[0] + ",,c1,train"
    lines[3] = "nowhere.jpg," + lines[3].split(",", 1)[1]
    table.write_text("\n".join(lines))
    status, _, findings = run(capsys, table)
    assert status == 1 and findings["missing"]["count"] == 1
    assert findings["ignored"]["examples"] == [
        "labels.csv line 2: split must be train, query or gallery, got 'trian'",
        "labels.csv line 3: a value is missing",
    ]


def test_partial_split(capsys, tree):
    loose = tree / "loose.csv"
    loose.write_text("path,pid,camid,split\n" + "".join(
        f"{path},{path.parent.name},{path.name[:2]},{'train' if n % 2 else ''}\n"
        for n, path in enumerate(sorted(tree.rglob("*.jpg")))))  # fmt: skip
    status, report, findings = run(capsys, loose)
    assert status == 1 and findings["partial_split"]["count"] == 56 and report["proposal"]


def test_one_camera_is_advised_and_taken(capsys, tree):
    one_camera_for_all(tree)
    _, _, findings = run(capsys, tree)
    assert "All carry" not in findings["query_same_camera"]["message"]  # training has others
    shutil.rmtree(tree / "train")
    _, _, findings = run(capsys, tree)
    assert "check_data.py --one-camera" in findings["query_same_camera"]["message"]
    status, _, findings = run(capsys, tree, "--one-camera")
    assert status == 0 and "no_train" in findings


def test_text_of_one_camera(capsys, tree):
    """What is no count has no number before it, and what does not hold is not said."""
    for path in tree.rglob("*.jpg"):
        path.rename(path.with_name("c1_" + path.stem + ".jpg"))
    (tree / "all").mkdir()
    for part in ("train", "query", "gallery"):
        for person in (tree / part).iterdir():
            person.rename(tree / "all" / f"{part}{person.name}")
    assert main([str(tree / "all"), "--batch-size", "16"]) == 1
    shown = capsys.readouterr().out
    assert "error: No split can be proposed" in shown and "one is proposed" not in shown
    assert "identities are seen by one camera: a query of theirs has no match" in shown
    assert main([str(tree / "all"), "--batch-size", "16", "--one-camera"]) == 0
    shown = capsys.readouterr().out
    assert "warning: no splits are given: one is proposed" in shown
    assert "seen by one camera" not in shown


def test_folders_beside_the_splits_are_told(capsys, tree):
    (tree / "query").rename(tree / "Query")
    shutil.copytree(tree / "train", tree / "val")
    (tree / "notes").mkdir()  # holds no picture
    lost = tree / "0009_c1s1_000001_00.jpg"
    shutil.copy(next((tree / "train").rglob("*.jpg")), lost)
    status, report, findings = run(capsys, tree)
    assert status == 0 and report["counts"]["query"]["items"] == 18
    assert findings["ignored"]["examples"] == [
        f"{lost}: beside the folders of the splits",
        f"{tree / 'val'}: beside the folders of the splits",
    ]


def test_a_split_is_written_through_a_link(capsys, data_root, tmp_path):
    root = make_tree(data_root, tmp_path / "own")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    table = tmp_path / "link" / "split.csv"
    assert main([str(root), "--batch-size", "16", "--write-split", str(table)]) in (0, 1)
    capsys.readouterr()
    assert all(Path(item.path).is_file() for item in scan(table).items)


def test_names_that_are_not_utf8(capsys, data_root, tmp_path):
    root = make_tree(data_root, tmp_path / "own")
    picture = next(root.rglob("*.jpg"))
    shutil.copy(picture, os.fsdecode(os.fsencode(picture.parent) + b"/1_caf\xe9.jpg"))
    table = tmp_path / "split.csv"
    assert main([str(root), "--batch-size", "16", "--write-split", str(table)]) == 2
    assert "is not UTF-8, as a CSV must be: rename the file" in capsys.readouterr().err
    assert not table.exists()


def test_table_of_another_encoding(capsys, tmp_path):
    (tmp_path / "labels.csv").write_bytes("path,pid,camid\né.jpg,1,2\n".encode("latin-1"))
    status, report, _ = run(capsys, tmp_path)
    assert status == 2 and "cannot be read as a CSV in UTF-8" in report["error"]


def test_nothing_there(capsys, tmp_path):
    status, report, _ = run(capsys, tmp_path / "nowhere")
    assert status == 2 and "does not exist" in report["error"]
    assert main([str(tmp_path)]) == 2
    assert "No image in" in capsys.readouterr().err
    assert main([str(tmp_path), "--batch-size", "0"]) == 2


def test_write_split_needs_a_proposal(capsys, tree, tmp_path):
    status = main([str(tree)])
    report = capsys.readouterr().out
    assert main([str(tree), "--write-split", str(tmp_path / "x.csv")]) == status
    shown = capsys.readouterr()
    assert "there is no proposal" in shown.err and shown.out == report
    assert not (tmp_path / "x.csv").exists()


def test_without_reading(capsys, tree):
    truncate(tree)
    assert run(capsys, tree, "--no-read")[0] == 0


@pytest.mark.parametrize("option", ["--write-split", "--picture"])
def test_what_is_read_is_not_written_over(capsys, data_root, tmp_path, option):
    table = make_table(data_root, tmp_path / "own") / "labels.csv"
    image = next(Path(item.path) for item in scan(table, "image").items)
    copy = shutil.copy(image, tmp_path / "own.png")
    table.write_text(f"path,pid,camid\n{copy},1,1\n")
    targets = [copy] if option == "--picture" else [copy, table]
    for target in targets:
        before = Path(target).read_bytes()
        assert main([str(table), option, str(target)]) == 2
        assert f"{option} {target} is read here and would be lost" in capsys.readouterr().err
        assert Path(target).read_bytes() == before


def test_a_quote_that_is_not_closed(capsys, tmp_path):
    table = tmp_path / "labels.csv"
    rows = "".join(f"images/{number:040d}.jpg,{number},1\n" for number in range(4000))
    table.write_text('path,pid,camid\n"images/a.jpg,1,1\n' + rows)
    status, report, _ = run(capsys, table)
    assert status == 2 and "Is there a quote that is not closed?" in report["error"]


@pytest.mark.parametrize("workers", [0, -3])
def test_somebody_must_read(capsys, tree, workers):
    status, report, _ = run(capsys, tree, "--workers", workers)
    assert status == 2 and f"--workers must be >= 1, got {workers}" in report["error"]


def test_a_batch_of_uneven_identities(capsys, tree):
    status, _, findings = run(capsys, tree, "--batch-size", "10")
    assert status == 1
    assert "no multiple of the 4 of an identity" in findings["uneven_batch"]["message"]


def test_pictures_that_are_not_read_are_told(capsys, tree):
    image = next((tree / "train").rglob("*.jpg"))
    image.rename(image.with_suffix(".GIF"))
    status, _, findings = run(capsys, tree)
    assert status == 0 and findings["ignored"]["count"] == 1
    assert ".GIF is not read; convert it" in findings["ignored"]["examples"][0]


def test_links_that_lead_nowhere_and_pictures_that_lie(capsys, tree):
    first, second = sorted((tree / "train").rglob("*.jpg"))[:2]
    with Image.open(first) as image:
        pixels = image.copy()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pixels.save(first, exif=exif)
    second.unlink()
    second.symlink_to(tree / "gone.jpg")
    status, _, findings = run(capsys, tree)
    counts = {code: (each["severity"], each["count"]) for code, each in findings.items()}
    assert status == 1
    assert counts["missing"] == ("error", 1) and counts["turned"] == ("warning", 1)
    assert "unreadable" not in counts
