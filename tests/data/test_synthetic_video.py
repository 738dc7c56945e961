"""The embedded video dataset: MARS's layout, protocol, determinism, and what torchreid reads."""

import hashlib
import json
from collections import defaultdict
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.io import loadmat

from torchreid_spectral.data import synthetic_video
from torchreid_spectral.data.appearance import sample_camera
from torchreid_spectral.data.synthetic_video import SyntheticVideoSpec, generate_video, tracklets

SPEC = SyntheticVideoSpec(
    num_train_ids=3, num_test_ids=3, num_cameras=3, tracklets_per_id=5, min_frames=2,
    max_frames=4, height=32, width=16,
)  # fmt: skip


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.jpg"))
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return generate_video(tmp_path_factory.mktemp("root"), SPEC, progress=False)


def test_layout_is_that_of_mars(dataset):
    """Every frame is listed once, every row names one person and camera, as torchreid asserts."""
    found = {path.name for part in ("bbox_train", "bbox_test") for path in dataset.glob(
        f"{part}/*/*.jpg")}  # fmt: skip
    listed = []
    for part, rows in (("train", 15), ("test", 15)):
        names = (dataset / "info" / f"{part}_name.txt").read_text().splitlines()
        table = loadmat(dataset / "info" / f"tracks_{part}_info.mat")[f"track_{part}_info"]
        assert table.shape == (rows, 4)
        assert table[0, 0] == 1 and table[-1, 1] == len(names)
        np.testing.assert_array_equal(table[1:, 0], table[:-1, 1] + 1)
        for first, last, pid, camera in table:
            for name in names[first - 1 : last]:
                assert name[:6] == f"{pid:04d}C{camera}"
                assert (dataset / f"bbox_{part}" / name[:4] / name).exists()
        listed += names
    assert len(listed) == len(found) == SPEC.num_images and set(listed) == found
    assert json.loads((dataset / "spec.json").read_text())["num_images"] == len(listed)


def test_protocol(dataset):
    test = loadmat(dataset / "info" / "tracks_test_info.mat")["track_test_info"]
    queries = loadmat(dataset / "info" / "query_IDX.mat")["query_IDX"].squeeze() - 1
    gallery = np.delete(test, queries, axis=0)
    cameras = defaultdict(set)
    for _, _, pid, camera in gallery:
        cameras[pid].add(camera)
    for _, _, pid, camera in test[queries]:
        assert cameras[pid] - {camera}
    assert len(queries) == 9  # three persons, each once a camera


def test_lengths_and_pictures(dataset):
    lengths = {tracklet.length for tracklet in tracklets(SPEC)}
    assert lengths == {2, 3, 4}
    for path in (dataset / "bbox_test").glob("*/*F001.jpg"):
        assert cv2.imread(str(path)).shape == (32, 16, 3)


def test_same_seed_same_bytes(dataset, tmp_path):
    again = digest(generate_video(tmp_path, SPEC, progress=False))
    assert again == digest(dataset)
    assert len(set(again.values())) == len(again)  # no frame is a copy of another
    other = digest(generate_video(tmp_path, replace(SPEC, seed=1), progress=False))
    assert not set(other.values()) & set(again.values())


def test_frames_of_a_tracklet_are_alike_and_those_of_another_are_not(dataset):
    """What stays: background and viewpoint; the mean frame is far from another tracklet's."""
    images = defaultdict(list)
    for path in sorted((dataset / "bbox_train" / "0001").iterdir()):
        images[path.name[:11]].append(cv2.imread(str(path)).astype(float))
    within = [np.abs(a - b).mean() for f in images.values() for a, b in zip(f, f[1:])]
    firsts = [frames[0] for frames in images.values()]
    between = [np.abs(a - b).mean() for a, b in zip(firsts, firsts[1:])]
    assert np.median(within) < 0.6 * np.median(between)


def test_something_passes_in_at_most_half_of_the_frames():
    camera = replace(sample_camera(np.random.default_rng(0)), occlusion=0.5)
    runs = [
        (length, synthetic_video._hidden_frames(camera, np.random.default_rng(seed), length))
        for seed in range(30)
        for length in (1, 4, 9)
    ]
    assert all(run.stop <= length and 2 * len(run) <= length for length, run in runs)
    assert {len(run) for _, run in runs} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_frames": 5, "max_frames": 4}, "min_frames to 999 .* got 5 to 4"),
        ({"max_frames": 1000}, "got 3 to 1000"),
        ({"min_frames": 0}, "min_frames must be at least 1, got 0"),
        ({"tracklets_per_id": 4, "num_cameras": 5}, "at least num_cameras, got 4 tracklets"),
        ({"num_cameras": 7}, "num_cameras must be 2 to 6, got 7"),
    ],
)
def test_spec_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        SyntheticVideoSpec(**values)


def test_torn_dataset_is_redone(dataset, tmp_path):
    folder = generate_video(tmp_path, SPEC, progress=False)
    next(folder.glob("bbox_test/*/*.jpg")).unlink()
    assert digest(generate_video(tmp_path, SPEC, progress=False)) == digest(dataset)
