"""The synthetic dataset: its layout, protocol, determinism and atomicity."""

import hashlib
import json
import os
import re
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from torchreid_spectral.data import synthetic
from torchreid_spectral.data.synthetic import SyntheticSpec, generate, list_images

SPEC = SyntheticSpec(
    num_train_ids=3, num_test_ids=4, num_cameras=3, images_per_id=7, height=32, width=16
)
OTHER = replace(SPEC, seed=1)
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


def _digest(folder: Path) -> dict[str, str]:
    """Return the hash of every file by its path in the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _leftovers(root: Path) -> list[Path]:
    return list(root.rglob(".synthetic_pedestrians-*"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("root"), SPEC, progress=False)


@pytest.fixture
def dying_writer(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let the process die after five pictures."""
    write, calls = synthetic._write_image, []

    def die(*args: object) -> None:
        calls.append(args)
        if len(calls) > 5:
            raise KeyboardInterrupt
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(synthetic, "_write_image", die)
    return monkeypatch


def test_default_spec() -> None:
    assert SyntheticSpec().num_images == 3200


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_cameras": 1}, "num_cameras must be at least 2, got 1"),
        ({"num_cameras": 7}, "num_cameras must be 2 to 6, got 7: .*one camera digit"),
        ({"num_train_ids": 1}, "num_train_ids must be at least 2, got 1"),
        ({"num_test_ids": 0}, "num_test_ids must be at least 2, got 0"),
        ({"images_per_id": 3, "num_cameras": 2}, "images_per_id must be at least 4, got 3"),
        ({"images_per_id": 5, "num_cameras": 6}, "at least num_cameras, got 5 pictures for 6"),
        ({"num_train_ids": 1500}, "at most 1501, .* got 1500 \\+ 100; use fewer"),
        ({"height": 8}, "height must be at least 16, got 8"),
        ({"width": -64}, "width must be at least 16, got -64"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"version": 0}, "version must be at least 1, got 0"),
    ],
)
def test_spec_refuses_values_out_of_range(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticSpec(**values)


@pytest.mark.parametrize("value", [True, 16.0, "16"])
def test_spec_refuses_other_types(value: object) -> None:
    # the type checker of the tests refuses first where it is installed; the package alone does too
    with pytest.raises(Exception, match="images_per_id"):
        SyntheticSpec(images_per_id=value)  # type: ignore[arg-type]


def test_layout(dataset: Path) -> None:
    assert dataset.name == "synthetic_pedestrians"
    assert sorted(path.name for path in dataset.iterdir()) == sorted([*FOLDERS, "spec.json"])
    assert json.loads((dataset / "spec.json").read_text())["num_images"] == 49
    lengths = [len(list_images(dataset / folder)) for folder in FOLDERS]
    assert lengths == [21, 12, 16]
    assert not _leftovers(dataset.parent)


def test_names_parse_as_market1501(dataset: Path) -> None:
    for folder in FOLDERS:
        listed = list_images(dataset / folder)
        assert listed == sorted(listed)
        for path, pid, camid in listed:
            found = re.search(r"([-\d]+)_c(\d)", os.path.basename(path))
            assert found is not None
            assert (int(found[1]), int(found[2]) - 1) == (pid, camid)
            assert 1 <= int(found[2]) <= SPEC.num_cameras


def test_pictures_can_be_read(dataset: Path) -> None:
    for path, _, _ in list_images(dataset / "query"):
        assert cv2.imread(path).shape == (32, 16, 3)


def test_train_and_test_identities_are_disjoint(dataset: Path) -> None:
    train, query, gallery = (
        {pid for _, pid, _ in list_images(dataset / folder)} for folder in FOLDERS
    )
    assert train == {1, 2, 3}
    assert query == gallery == {4, 5, 6, 7}


@pytest.mark.parametrize("num_cameras", range(2, 7))
@pytest.mark.parametrize("images_per_id", [4, 5, 6, 7, 8, 13])
def test_every_query_has_a_match_in_another_camera(num_cameras: int, images_per_id: int) -> None:
    if images_per_id < num_cameras:
        pytest.skip("refused by the spec")
    spec = SyntheticSpec(2, 9, num_cameras, images_per_id)
    shots = list(synthetic._shots(spec))
    assert len({shot.path for shot in shots}) == len(shots) == spec.num_images
    cameras: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for shot in shots:
        cameras[shot.subset][shot.pid].append(shot.camera)
    assert list(cameras["query"]) == list(range(3, 12))
    for pid, query in cameras["query"].items():
        gallery = set(cameras["bounding_box_test"][pid])
        assert len(set(query)) == len(query) and gallery <= set(query)
        assert all(gallery - {camera} for camera in query)
        if images_per_id >= num_cameras + 2:
            assert len(query) == num_cameras
    used = {shot.camera for shot in shots}
    assert used == set(range(1, num_cameras + 1))


def test_pictures_of_an_identity_spread_evenly(dataset: Path) -> None:
    counts: dict[tuple[int, int], int] = defaultdict(int)
    for _, pid, camid in list_images(dataset / "bounding_box_train"):
        counts[pid, camid] += 1
    assert len(counts) == 9 and set(counts.values()) == {2, 3}


def test_generation_is_byte_identical(dataset: Path, tmp_path: Path) -> None:
    assert _digest(generate(tmp_path, SPEC, progress=False)) == _digest(dataset)


def test_pictures_do_not_depend_on_the_other_identities(dataset: Path, tmp_path: Path) -> None:
    more = generate(tmp_path, replace(SPEC, num_test_ids=2), progress=False)
    mine, theirs = _digest(more), _digest(dataset)
    pictures = [name for name in mine if name.endswith(".jpg")]
    assert len(pictures) == 35
    assert all(mine[name] == theirs[name] for name in pictures)


def test_seed_changes_the_pictures(dataset: Path, tmp_path: Path) -> None:
    mine, theirs = _digest(generate(tmp_path, OTHER, progress=False)), _digest(dataset)
    assert mine.keys() == theirs.keys()
    assert not set(mine.values()) & set(theirs.values())


def test_second_call_writes_nothing(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "_write_dataset", pytest.fail)
    assert generate(str(dataset.parent), SPEC) == dataset


def test_other_spec_lives_beside(tmp_path: Path) -> None:
    first = generate(tmp_path, SPEC, progress=False)
    before = _digest(first)
    second = generate(tmp_path, OTHER, progress=False)
    assert second.parent == first
    assert re.fullmatch("[0-9a-f]{8}", second.name)
    assert all(_digest(first)[name] == digest for name, digest in before.items())
    assert generate(tmp_path, SPEC) == first
    assert generate(tmp_path, OTHER) == second
    assert not _leftovers(tmp_path)


def test_interruption_leaves_nothing_behind(
    tmp_path: Path, dataset: Path, dying_writer: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, SPEC, progress=False)
    assert list(tmp_path.iterdir()) == []
    dying_writer.undo()
    assert _digest(generate(tmp_path, SPEC, progress=False)) == _digest(dataset)


def _without_spec(folder: Path) -> None:
    (folder / "spec.json").unlink()


def _with_a_torn_spec(folder: Path) -> None:
    (folder / "spec.json").write_text('{"seed": 0, ')


def _with_an_impossible_spec(folder: Path) -> None:
    stored = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps({**stored, "num_cameras": 9}))


def _with_a_picture_missing(folder: Path) -> None:
    next((folder / "query").iterdir()).unlink()


@pytest.mark.parametrize(
    "damage",
    [_without_spec, _with_a_torn_spec, _with_an_impossible_spec, _with_a_picture_missing],
)
def test_unfinished_dataset_is_redone(tmp_path: Path, dataset: Path, damage) -> None:
    folder = generate(tmp_path, SPEC, progress=False)
    damage(folder)
    assert generate(tmp_path, SPEC, progress=False) == folder
    assert _digest(folder) == _digest(dataset)


def test_unfinished_dataset_with_variants_spares_them(tmp_path: Path) -> None:
    base = generate(tmp_path, SPEC, progress=False)
    variant = generate(tmp_path, OTHER, progress=False)
    before = _digest(variant)
    _without_spec(base)
    again = generate(tmp_path, SPEC, progress=False)
    assert again.parent == base and again != variant
    assert _digest(variant) == before
    assert generate(tmp_path, OTHER) == variant


def test_foreign_files_are_never_removed(tmp_path: Path) -> None:
    mine = tmp_path / "synthetic_pedestrians" / "thesis.tex"
    mine.parent.mkdir()
    mine.write_text("years of work")
    with pytest.raises(FileExistsError, match="holds \\['thesis.tex'\\]; move it away"):
        generate(tmp_path, SPEC, progress=False)
    assert mine.read_text() == "years of work"


def test_killed_writers_leftovers_are_swept_but_not_a_live_ones(tmp_path: Path) -> None:
    killed, live = (tmp_path / f".synthetic_pedestrians-{name}" for name in ("killed", "live"))
    for folder in (killed, live):
        (folder / "data" / "query").mkdir(parents=True)
    long_ago = time.time() - 3600
    for path in (killed / "data" / "query", killed / "data", killed):
        os.utime(path, (long_ago, long_ago))
    os.utime(live, (long_ago, long_ago))
    generate(tmp_path, SPEC, progress=False)
    assert _leftovers(tmp_path) == [live]


def test_slower_of_two_processes_uses_the_faster_ones_result(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = synthetic._write_dataset

    def overtaken(folder: Path, spec: SyntheticSpec, *, progress: bool) -> None:
        monkeypatch.setattr(synthetic, "_write_dataset", write)
        generate(tmp_path, SPEC, progress=False)
        write(folder, spec, progress=progress)

    monkeypatch.setattr(synthetic, "_write_dataset", overtaken)
    folder = generate(tmp_path, SPEC, progress=False)
    assert _digest(folder) == _digest(dataset)
    assert not _leftovers(tmp_path)


def test_slower_process_of_another_spec_moves_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = synthetic._write_dataset

    def overtaken(folder: Path, spec: SyntheticSpec, *, progress: bool) -> None:
        monkeypatch.setattr(synthetic, "_write_dataset", write)
        generate(tmp_path, OTHER, progress=False)
        write(folder, spec, progress=progress)

    monkeypatch.setattr(synthetic, "_write_dataset", overtaken)
    folder = generate(tmp_path, SPEC, progress=False)
    assert folder.parent == generate(tmp_path, OTHER)
    assert synthetic.STORE.read_spec(folder) == SPEC


def test_simultaneous_writers_agree(tmp_path: Path, dataset: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        specs = [SPEC, SPEC, OTHER, OTHER]
        folders = list(pool.map(lambda spec: generate(tmp_path, spec, progress=False), specs))
    assert folders[0] == folders[1] and folders[2] == folders[3] and folders[0] != folders[2]
    plain = _digest(folders[0])
    assert all(plain[name] == digest for name, digest in _digest(dataset).items())
    assert not _leftovers(tmp_path)


def test_failing_rename_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError, match="read-only"):
        generate(tmp_path, SPEC, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_dataset_can_be_read_by_others(dataset: Path) -> None:
    assert dataset.stat().st_mode & 0o777 == (dataset / "query").stat().st_mode & 0o777


def test_progress_bar_is_silent_without_a_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    generate(tmp_path, SPEC)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["0001_c7s1_000001_00.jpg", "1_c1.jpg", "photo.png"])
def test_foreign_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "0001_c1s1_000001_00.jpg").touch()
    (tmp_path / ".DS_Store").touch()
    assert list_images(tmp_path) == [(str(tmp_path / "0001_c1s1_000001_00.jpg"), 1, 0)]
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"must look like .*, got '{name}'"):
        list_images(tmp_path)
