"""A user's own images in every layout: read, split, trained on, and refused with a reason."""

import csv
import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from torchreid_spectral.data.folder import Item, natural, scan
from torchreid_spectral.data.folder_datasets import (
    FolderDataset,
    FolderOptions,
    FolderVideoDataset,
    folder_defaults,
    numeric,
)
from torchreid_spectral.data.splits import propose_split, unmatched
from torchreid_spectral.data.synthetic_video import SyntheticVideoSpec, generate_video
from torchreid_spectral.errors import InputError

from ..tools.test_main import load_tool, main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
SPLITS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}


def pictures(data_root):
    """Give path, identity, camera and split of the tiny embedded dataset."""
    for folder, split in SPLITS.items():
        for path in sorted((data_root / "synthetic_pedestrians" / folder).iterdir()):
            yield path, path.name[:4], path.name[5:7], split


def make_tree(data_root, root, split=False):
    for path, pid, camid, part in pictures(data_root):
        place = root / part / pid if split else root / pid
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / f"{camid}_{path.name[8:]}")
    return root


def make_table(data_root, root, split=False):
    root.mkdir(parents=True, exist_ok=True)
    with (root / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "pid", "camid", *["split"] * split])
        for path, pid, camid, part in pictures(data_root):
            rows.writerow([path, f"person {pid}", f"gate {camid}", *[part] * split])
    return root


def make_names(data_root, root, split=False):
    for path, _, _, part in pictures(data_root):
        place = root / part if split else root
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    return root


LAYOUTS = {"tree": make_tree, "table": make_table, "names": make_names}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.mark.parametrize("split", [True, False])
@every_layout
def test_layouts_agree(data_root, tmp_path, layout, split):
    found = scan(LAYOUTS[layout](data_root, tmp_path / "own", split))
    expected = {
        (f"{int(pid)}", camid[1], part if split else "")
        for _, pid, camid, part in pictures(data_root)
    }
    plain = str.maketrans("", "", "persongatc ")
    assert {
        (str(int(i.pid.translate(plain))), i.camid.translate(plain), i.split) for i in found.items
    } == expected
    assert len(found.items) == len(list(pictures(data_root))) and not found.ignored
    assert found.has_split == split


def test_the_datasets_numbers_are_those_of_market1501s_reader(torchreid, data_root, tmp_path):
    """Split folders with Market-1501's names give what torchreid's Market1501 gives."""
    tree = tmp_path / "market1501" / "Market-1501-v15.09.15"
    shutil.copytree(data_root / "synthetic_pedestrians", tree)
    market = torchreid.data.datasets.image.Market1501(str(tmp_path), verbose=False)
    own = FolderDataset(str(tree), verbose=False)
    for part in ("query", "gallery"):
        assert sorted(getattr(own, part)) == sorted(getattr(market, part))
    assert own.num_train_pids == market.num_train_pids == 8
    assert {pid for _, pid, _, _ in own.train} == set(range(8))


@pytest.mark.parametrize("name", ["0001_c1s1_000001_00.jpg", "0002_c3_f0044158.jpg"])
def test_names_of_market_and_duke(tmp_path, name):
    (tmp_path / name).touch()
    assert scan(tmp_path).items == [Item(str(tmp_path / name), name[3], name[6], "")]


def test_junk_is_dropped_and_distractors_are_nobody(tmp_path):
    for name in (
        "train/0001_c1s1_000001_00.jpg",
        "train/-1_c1s1_000001_00.jpg",
        "query/0002_c1s1_000001_00.jpg",
        "gallery/0002_c2s1_000001_00.jpg",
        "gallery/0000_c2s1_000001_00.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()  # fmt: skip
    dataset = FolderDataset(str(tmp_path), verbose=False)
    assert [pid for _, pid, _, _ in dataset.train] == [0]
    assert sorted(pid for _, pid, _, _ in dataset.gallery) == [0, 2]
    assert dataset._junk_pids == [0]


@pytest.mark.parametrize("split", ["train", "query"])
def test_people_counted_from_zero_are_people(tmp_path, split):
    for name in (
        f"{split}/0000_c1s1_000001_00.jpg",
        "train/0001_c1s1_000001_00.jpg",
        "query/0002_c1s1_000001_00.jpg",
        "gallery/0002_c2s1_000001_00.jpg",
        "gallery/0000_c2s1_000001_00.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()  # fmt: skip
    assert scan(tmp_path).distractors == ""
    dataset = FolderDataset(str(tmp_path), verbose=False)
    assert dataset._junk_pids == []
    assert len({row[1] for row in dataset.train}) == (2 if split == "train" else 1)


@pytest.mark.parametrize(
    ("split", "pid", "found"),
    [("query", "0000", ""), ("gallery", "0000", "0000"), ("gallery", "0", "")],
)
def test_tables_have_distractors_where_they_say_the_split(tmp_path, split, pid, found):
    rows = [("train", 1, 1), ("query", 2, 1), ("gallery", 2, 2), (split, pid, 1)]
    text = [f"{number}.jpg,{who},{camid},{part}" for number, (part, who, camid) in enumerate(rows)]
    (tmp_path / "own.csv").write_text("\n".join(["path,pid,camid,split", *text]))
    assert scan(tmp_path).distractors == found
    text = [line.rpartition(",")[0] for line in text]  # without: 0 may be the first person
    (tmp_path / "own.csv").write_text("\n".join(["path,pid,camid", *text]))
    assert scan(tmp_path).distractors == ""


def test_distractors_stay_nobody_in_a_written_split(data_root, tmp_path, capsys):
    root = make_names(data_root, tmp_path / "own")
    shutil.copy(next(root.iterdir()), root / "0000_c1s1_000001_00.jpg")
    assert scan(root).distractors == "0"
    given = [str(root), "--write-split", str(tmp_path / "s.csv"), "--no-read", "--batch-size", "8"]
    assert load_tool("check_data").main(given) == 0
    assert scan(tmp_path / "s.csv").distractors == "0000"


def test_people_of_one_number_keep_their_names():
    assert numeric(["1", "002", "30"]) and numeric([])
    for words in (["1", "01"], ["1", "anna"], [str(2**63)]):
        assert not numeric(words)


def test_splits_one_folder_below_are_not_mixed(data_root):
    with pytest.raises(InputError, match="synthetic_pedestrians itself, so that they are kept"):
        scan(data_root)


def test_folders_that_hide_or_cannot_be_listed(tmp_path, unlisted):
    for name in (
        "0001/c1_a.jpg",
        ".Trash-1000/query/c1_b.jpg",
        ".Trash-1000/train/c1_b.jpg",
        "0002/c1_c.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    unlisted(tmp_path / "0002")
    found = scan(tmp_path)
    assert [item.pid for item in found.items] == ["0001"]
    closed = tmp_path / "0002"
    assert found.ignored == [f"{closed}: the folder cannot be listed (Permission denied)"]


def test_equal_numbers_have_one_order():
    names = ["10", "1", "c1", "01", "001", "2", "c01"]
    expected = ["001", "01", "1", "2", "10", "c01", "c1"]
    assert sorted(names, key=natural) == sorted(names[::-1], key=natural) == expected


def test_nobody_among_people_with_words_for_names(tmp_path):
    for name in (
        "train/ben/1_a.jpg",
        "query/anna/1_a.jpg",
        "gallery/anna/2_a.jpg",
        "gallery/0000_c2s1_000001_00.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()  # fmt: skip
    dataset = FolderDataset(str(tmp_path), verbose=False)
    (nobody,) = (row[1] for row in dataset.gallery if "0000" in row[0])
    assert dataset._junk_pids == [nobody]


def test_all_combined_needs_query_and_gallery(tmp_path):
    names = ["train/0001_c1s1_000001_00.jpg", "query/0002_c1s1_000001_00.jpg",
             "gallery/0002_c2s1_000001_00.jpg", "query/0003_c1s1_000001_00.jpg"]  # fmt: skip
    for count, expected in ((1, "0 are in the query"), (3, None), (4, "1 of them not in the")):
        for name in names[:count]:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        if expected is None:
            dataset = FolderDataset(str(tmp_path), combineall=True, verbose=False)
            assert [row[1] for row in dataset.train] == [0, 1, 1]
        else:
            with pytest.raises(InputError, match=expected):
                FolderDataset(str(tmp_path), combineall=True, verbose=False)


def test_tracklets_without_pictures_are_passed_over(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "1.jpg").touch()
    table = tmp_path / "all.csv"
    table.write_text("path,pid,camid\nempty,1,1\nfull,1,2\n")
    found = scan(table, "video")
    assert [item.camid for item in found.items] == ["2"]
    assert found.ignored == [f"{tmp_path / 'empty'}: a tracklet without pictures"]


def test_tree_with_words_and_short_names(tmp_path):
    for name in (
        "anna/door_1.jpg",
        "anna/1_c5.png",
        "ben/door_9.JPG",
        "ben/.hidden_1.jpg",
        "ben/notes.txt",
        "ben/nocamera.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()  # fmt: skip
    found = scan(tmp_path)
    assert [(i.pid, i.camid) for i in found.items] == [
        ("anna", "1"), ("anna", "door"), ("ben", "door")]  # fmt: skip
    assert [Path(path).name for path in found.ignored] == ["nocamera.jpg"]
    assert sorted(["c10", "c2", "c1", "x"], key=natural) == ["c1", "c2", "c10", "x"]


def test_distractors_are_proposed_for_the_gallery_alone():
    items = [Item(f"{p}_{c}_{n}", str(p), c, "") for p in range(8) for c in "ab" for n in range(3)]
    for seed in range(6):
        split = propose_split(items, seed=seed, distractors="0")
        assert {item.split for item in split if item.pid == "0"} == {"gallery"}
        assert {item.split for item in split if item.pid != "0"} == {"train", "query", "gallery"}


def test_names_that_are_equal_as_numbers_stay_two_people(torchreid, data_root, tmp_path):
    picture = next((data_root / "synthetic_pedestrians" / "query").glob("*.jpg"))
    for split, people in (("train", "56"), ("query", ("1", "01")), ("gallery", ("1", "01"))):
        for pid in people:
            for name in ("c1_a.jpg", "c2_a.jpg"):
                (tmp_path / split / pid).mkdir(parents=True, exist_ok=True)
                shutil.copy(picture, tmp_path / split / pid / name)
    from torchreid_spectral.data.folder_datasets import FolderDataset

    dataset = FolderDataset(root=str(tmp_path), verbose=False)
    assert len({row[1] for row in dataset.gallery}) == 2


def test_proposed_split_leaves_no_query_without_a_match():
    items = [
        Item(f"{pid}_{camera}_{n}.jpg", str(pid), str(camera), "")
        for pid in range(20)
        for camera in range(1 + pid % 4)
        for n in range(1 + (pid + camera) % 3)
    ]
    split = propose_split(items, seed=3)
    assert [i._replace(split="") for i in split] == items
    people = {s: {i.pid for i in split if i.split == s} for s in ("train", "query", "gallery")}
    assert not people["train"] & people["gallery"] and people["query"] == people["gallery"]
    assert not unmatched(split) and len(people["query"]) >= 8
    assert propose_split(items, seed=3) == split != propose_split(items, seed=4)
    assert all(int(pid) % 4 for pid in people["query"])  # seen by one camera: trained on


def test_one_camera_is_an_option(tmp_path):
    items = [Item(f"{p}_{n}.jpg", str(p), "c", "") for p in range(6) for n in range(3)]
    with pytest.raises(InputError, match="All carry camera 'c'.*folder.one_camera True"):
        propose_split(items)
    split = propose_split(items, one_camera=True)
    assert len(unmatched(split)) == 3 and not unmatched(split, one_camera=True)
    for item in split:
        path = tmp_path / item.split / item.pid / f"c_{item.path}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(InputError, match="None of the 3 queries.*only from the query's own cam"):
        FolderDataset(str(tmp_path), mode="query", verbose=False)
    with folder_defaults(FolderOptions(one_camera=True)):
        dataset = FolderDataset(str(tmp_path), mode="query", verbose=False)
    assert {camid for *_, camid, _ in dataset.query} == {1}
    assert {camid for *_, camid, _ in dataset.gallery} == {0}


def test_some_lost_queries_are_told(data_root, tmp_path, caplog, monkeypatch):
    root = make_names(data_root, tmp_path / "own", split=True)
    victim = sorted((root / "query").iterdir())[0].name[:4]
    for path in (root / "gallery").glob(f"{victim}_*"):
        path.unlink()
    monkeypatch.setattr(logging.getLogger("torchreid_spectral"), "propagate", True)
    with caplog.at_level(logging.WARNING, "torchreid_spectral"):
        FolderDataset(str(root), mode="query", verbose=False)
    assert "3 of 18 queries have no valid match: of 3, the gallery has no image" in caplog.text


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("make", "mode", "message"),
    [
        (lambda r: None, "train", "No image in .* Expected <pid>/<camid>_"),
        (lambda r: touch(r, "a.jpg", "b/c.jpg"), "train", r"2 files were passed over, such as"),
        (lambda r: (r / "l.csv").write_text("file,pid\na,1\n"), "train", "path, camid missing"),
        (lambda r: (r / "l.csv").write_text("path,pid,camid\nx.jpg,1,1\ny.jpg,2,1\nz.jpg,3,2\n"
                                            "w.jpg,3,1\nv.jpg,3,1\n"), "train",
         "5 files that do not exist, such as .*x.jpg"),
        (lambda r: touch(r, "x.csv", "y.csv"), "train", "several CSV files"),
        (lambda r: touch(r, "query/1/a_1.jpg", "gallery/1/b_1.jpg"), "train",
         "no training images, only 1 query of 1 identities, 1 gallery"),
        (lambda r: touch(r, "train/1/a_1.jpg"), "query", "needs both query and gallery"),
        (lambda r: touch(r, "train/1/a_1.jpg", "query/2/a_1.jpg", "gallery/3/a_1.jpg"), "query",
         "None of the 1 queries .* of 1, the gallery has no image of that identity"),
        (lambda r: touch(r, "1/a_1.jpg", "2/a_1.jpg"), "train", "No split can be proposed"),
    ],
)  # fmt: skip
def test_broken_collections_are_refused_with_a_reason(torchreid, tmp_path, make, mode, message):
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        FolderDataset(str(tmp_path), mode=mode, verbose=False)


def test_missing_folder(torchreid, tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist. Expected"):
        FolderDataset(str(tmp_path / "nowhere"))


@every_layout
def test_training_on_own_images(torchreid, data_root, tiny_options, tmp_path, capsys, layout):
    make = LAYOUTS[layout](data_root, tmp_path / "root" / "own")
    options = [*tiny_options, "data.sources", "['folder']", "data.targets", "['folder']",
               "data.root", str(tmp_path / "root"), "folder.path", "own", "train.batch_size", "8",
               "rerank.method", "graph_walk", "data.save_dir", str(tmp_path / "log")]  # fmt: skip
    assert make.exists() and main(["--config-file", "configs/spectral_demo.yaml", *options]) == 0
    shown = capsys.readouterr().out
    assert "train    |     7 |       56" in shown and "query    |     7 |       21" in shown
    assert f"{'folder':<24}graph_walk" in shown
    weights = tmp_path / "log" / "model" / "model.pth.tar-1"
    again = ["model.load_weights", str(weights), "test.evaluate", "True", "test.visrank", "True"]
    assert main(["--config-file", "configs/spectral_demo.yaml", *options, *again]) == 0
    assert len(list((tmp_path / "log" / "visrank_folder").rglob("*.jpg"))) == 21


def test_own_images_error_on_the_command_line(torchreid, tmp_path, capsys):
    touch(tmp_path, "own/1/a_1.jpg", "own/2/a_1.jpg")
    assert (
        main(
            [
                "-s",
                "folder",
                "-t",
                "folder",
                "--root",
                str(tmp_path / "own"),
                "data.save_dir",
                str(tmp_path / "log"),
            ]
        )
        == 2
    )
    shown = capsys.readouterr().err
    assert "No split can be proposed" in shown and "All carry camera 'a'" in shown


VIDEO = SyntheticVideoSpec(
    num_train_ids=4, num_test_ids=4, num_cameras=3, tracklets_per_id=5, min_frames=2,
    max_frames=3, height=64, width=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def tracklet_tree(tmp_path_factory):
    return generate_video(tmp_path_factory.mktemp("mars"), VIDEO, progress=False)


def make_video(source, root, layout):
    root.mkdir(parents=True)
    rows = [["path", "pid", "camid", "tracklet"]]
    for path in sorted(source.glob("bbox_*/*/*.jpg")):
        pid, camid, number, frame = path.name[:4], path.name[4:6], path.name[6:11], path.name[11:]
        target = {
            "folders": root / pid / f"{camid}_{number}" / frame,
            "names": root / pid / f"{camid}_{number}_{frame}",
            "mars": root / path.name,
        }.get(layout)
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        rows.append([str(path), pid, camid, number])
    if layout == "table":
        with (root / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return root


@pytest.mark.parametrize("layout", ["folders", "names", "mars", "table"])
def test_video_layouts(torchreid, tracklet_tree, tmp_path, layout):
    root = make_video(tracklet_tree, tmp_path / "own", layout)
    found = scan(root, "video")
    assert len(found.items) == 40 and not found.ignored
    assert sum(len(item.path) for item in found.items) == VIDEO.num_images
    assert all(list(item.path) == sorted(item.path) for item in found.items)
    _, transform = torchreid.data.transforms.build_transforms(64, 32)
    dataset = FolderVideoDataset(str(root), transform=transform, seq_len=2, verbose=False)
    assert dataset[0]["img"].shape == (2, 3, 64, 32) and dataset.num_train_pids == 4


def test_training_on_own_tracklets(torchreid, tracklet_tree, tmp_path, capsys):
    root = make_video(tracklet_tree, tmp_path / "own", "folders")
    assert main(["--config-file", "configs/spectral_video_demo.yaml",
                 "-t", "folder", "-s", "folder", "--root", str(root),
                 "train.batch_size", "8", "train.max_epoch", "1",
                 "video.seq_len", "2", "data.workers", "0", "data.save_dir",
                 str(tmp_path / "log")]) == 0  # fmt: skip
    assert f"{'folder':<24}local_blurring" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_spawned_workers_read_own_images(torchreid, data_root, tmp_path):
    root = make_tree(data_root, tmp_path / "own", split=True)
    _, transform = torchreid.data.transforms.build_transforms(64, 32)
    dataset = FolderDataset(str(root), transform=transform, mode="query", verbose=False)
    assert pickle.loads(pickle.dumps(dataset)).query == dataset.query
    loader = DataLoader(dataset, 9, num_workers=2, multiprocessing_context="spawn")
    assert sum(len(batch["pid"]) for batch in loader) == 18


def test_a_split_of_some_is_refused_and_what_is_passed_over_is_named(data_root, tmp_path, caplog):
    root = make_table(data_root, tmp_path, split=True)
    table = (root / "labels.csv").read_text().splitlines()
    holes = [*table[:-1], table[-1].rpartition(",")[0] + ","]
    (root / "labels.csv").write_text("\n".join(holes))
    with pytest.raises(InputError, match=r"1 of \d+ items of .* are in no split"):
        FolderDataset(root=str(root))
    words = [*table[:-1], table[-1].rpartition(",")[0] + ",val"]
    (root / "labels.csv").write_text("\n".join(words))
    with caplog.at_level(logging.WARNING):
        FolderDataset(root=str(root))
    assert "1 files or rows are passed over, such as labels.csv" in caplog.text


def test_identities_beyond_64_bits_are_words(data_root, tmp_path):
    root = make_table(data_root, tmp_path, split=True)
    text = (root / "labels.csv").read_text().replace("person ", "9" * 17)
    (root / "labels.csv").write_text(text)
    assert max(item[1] for item in FolderDataset(root=str(root)).query) < 100


def test_bits_that_are_there_are_not_cut_off():
    """Integers of 32 bits that hold 8 are no black picture."""
    from torchreid_spectral.data.images import as_rgb

    ramp = np.arange(256, dtype=np.int32).reshape(16, 16)
    for low, expected in ((ramp, ramp), (ramp * 257, ramp)):
        shown = np.asarray(as_rgb(Image.fromarray(low)))
        assert np.array_equal(shown, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_not_white(tmp_path, mode):
    from torchreid_spectral.data.images import decode

    ramp = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "8.png")
    deep = ramp.astype(np.uint16) * 257 if mode == "I;16" else ramp.astype(np.int32) * 257
    Image.fromarray(deep).save(tmp_path / f"16.{'png' if mode == 'I;16' else 'tif'}")
    (path,) = tmp_path.glob("16.*")
    np.testing.assert_array_equal(decode(str(path)), decode(str(tmp_path / "8.png")))


def test_pixels_of_unknown_range_are_refused(tmp_path):
    from torchreid_spectral.data.images import decode

    for name, pixels in (("f", np.ones((4, 4), np.float32)),
                         ("i", np.full((4, 4), 70_000, np.int32))):  # fmt: skip
        Image.fromarray(pixels).save(tmp_path / f"{name}.tif")
        with pytest.raises(OSError, match="8 or 16 bits"):
            decode(str(tmp_path / f"{name}.tif"))


@pytest.mark.parametrize("folders", [
    ("training", "probe", "testing"), ("image_train", "image_query", "image_test"),
])  # fmt: skip
@pytest.mark.parametrize("end", ["c2s1_000151_00.jpg", "c2_f0046180.jpg", "c2_00046180_0.jpg"])
def test_splits_by_other_datasets_names(tmp_path, folders, end):
    """Of VeRi-776 and others; people of the test must not be trained on."""
    touch(tmp_path, *(f"{folder}/{number:04d}_{end}" for number, folder in enumerate(folders, 5)))
    found = [(item.pid, item.camid, item.split) for item in scan(tmp_path).items]
    assert sorted(found) == [("5", "2", "train"), ("6", "2", "query"), ("7", "2", "gallery")]


def test_full_names_count_below_a_persons_folder_too(tmp_path):
    touch(tmp_path, "0007/0007_c2_f0046180.jpg", "0007/0007_c3s1_000151_00.jpg")
    assert [(item.pid, item.camid) for item in scan(tmp_path).items] == [("7", "2"), ("7", "3")]


def test_two_ways_of_naming_people_are_not_mixed(tmp_path):
    touch(tmp_path, "0001/0001_c1s1_000151_00.jpg", "0001/c1_0.jpg")
    with pytest.raises(InputError, match="names people in two ways.*one person would be two"):
        scan(tmp_path)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_columns_may_be_written_large(tmp_path, kind):
    rows = ["Path,PID,Camid,Split,Tracklet"]
    rows += [f"{pid}_{n}.jpg,{pid},c{pid},train,t" for pid in "ab" for n in range(3)]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    found = scan(tmp_path, kind)
    assert found.has_split and len(found.items) == (6 if kind == "image" else 2)


def test_rows_that_are_there_twice_keep_their_matches():
    items = [Item(f"{p}_{c}.jpg", str(p), c, "") for p in range(8) for c in "ab"] * 2
    split = propose_split(items)
    assert {item.split for item in split} == {"train", "query", "gallery"}
    assert not unmatched(split)


def test_copies_are_looked_for_in_the_split_that_is_proposed(data_root, tmp_path):
    """Of c1_0, which is asked for, c2_1 in the gallery is a copy."""
    from torchreid_spectral.data.check import check

    paths = iter(pictures(data_root))
    for pid in range(8):
        (tmp_path / f"p{pid}").mkdir()
        for name in ("c1_0", "c1_1", "c2_0"):
            shutil.copy(next(paths)[0], tmp_path / f"p{pid}" / f"{name}.jpg")
        shutil.copy(tmp_path / f"p{pid}" / "c1_0.jpg", tmp_path / f"p{pid}" / "c2_1.jpg")
    report = check(scan(tmp_path), num_instances=2, batch_size=4)
    found = {finding.code: (finding.severity, finding.count) for finding in report.findings}
    asked = {item.pid for item in report.proposal if item.split == "query"}
    assert found["duplicate_across_splits"] == ("error", len(asked)) and asked


def test_who_joins_or_leaves_moves_hardly_anybody():
    def people(names):
        return [Item(f"{name}/{camid}_{n}.jpg", name, camid, "") for name in names
                for camid in ("a", "b") for n in range(2)]  # fmt: skip

    def sides(names, seed):
        split = propose_split(people(names), seed=seed)
        return {item.pid: item.split == "train" for item in split}

    names = [f"person {number}" for number in range(20)]
    draws = set()
    for seed in range(20):
        before = sides(names, seed)
        assert sum(before.values()) == 10
        draws.add(tuple(before.values()))
        for others in ([*names, "new"], names[1:], names[::-1]):
            after = sides(others, seed)
            assert sum(before[name] != after[name] for name in names if name in after) <= 1
    assert len(draws) > 15


def test_names_of_any_bytes_are_dealt():
    items = [Item(f"{p}/{c}_{n}.jpg", f"{p}\udcc0", c, "") for p in range(6) for c in "ab"
             for n in range(2)]  # fmt: skip
    assert {item.split for item in propose_split(items)} == {"train", "query", "gallery"}


def test_training_cameras_count_from_zero(data_root, tmp_path):
    """Torchreid adds their number to those of the next source."""
    root = make_tree(data_root, tmp_path, split=True)
    for path in (root / "train").rglob("*.jpg"):
        path.rename(path.with_name(f"z{path.name}"))  # behind query's and gallery's
    dataset = FolderDataset(str(root), mode="train", verbose=False)
    cameras = {row[2] for row in dataset.train}
    assert cameras == set(range(len(cameras)))
    assert dataset.num_train_cams == len(cameras)
    both = dataset + dataset
    assert {row[2] for row in both.train} == set(range(2 * len(cameras)))


def test_a_file_that_begins_as_a_home_folder(tmp_path):
    Image.new("RGB", (8, 16)).save(tmp_path / "~img.jpg")
    (tmp_path / "labels.csv").write_text("path,pid,camid\n~img.jpg,1,1\n")
    (item,) = scan(tmp_path).items
    assert item.path == str(tmp_path / "~img.jpg")
