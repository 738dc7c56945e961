"""Tests of torchreid_spectral.inference: weights, images, gallery, search, calibration."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from torchreid_spectral import SpectralReID, build_reranker
from torchreid_spectral.errors import InputError
from torchreid_spectral.inference import (
    Calibration,
    Gallery,
    calibrate,
    calibration,
    extraction,
    open_model,
)
from torchreid_spectral.inference import gallery as gallery_module
from torchreid_spectral.inference.images import list_folder, to_tensor

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_pixels_are_those_of_torchreids_test_transform(torchreid, pictures):
    _, transform = torchreid.data.transforms.build_transforms(64, 32, transforms=[])
    path = pictures[0][0]
    expected = transform(Image.open(path).convert("RGB"))
    torch.testing.assert_close(to_tensor(path, 64, 32, *IMAGENET), expected, rtol=0, atol=1e-6)
    larger = transform.transforms[0].__class__((100, 40))(Image.open(path))
    expected = transform(larger)
    torch.testing.assert_close(to_tensor(larger, 64, 32, *IMAGENET), expected, rtol=0, atol=1e-6)


def test_every_kind_of_image_gives_one_feature(reid, pictures):
    path = pictures[0][0]
    image = Image.open(path).convert("RGB")
    rgb = np.asarray(image)
    expected = reid.features(path)
    pixels = torch.from_numpy(rgb.copy()).permute(2, 0, 1)
    for kind, channels in ((image, None), (rgb, "rgb"), (rgb[..., ::-1], "bgr"),
                           (pixels, None), (pixels.float() / 255, None), ([path], None),
                           (rgb[None], "rgb"), (pixels[None], None)):  # fmt: skip
        np.testing.assert_allclose(reid.features(kind, channels=channels), expected, atol=1e-5)
    swapped = reid.features(rgb, channels="bgr")
    assert np.abs(swapped - expected).max() > 1e-3
    batch = reid.features([path, image, pictures[1][0]])
    np.testing.assert_allclose(batch[:2], np.repeat(expected, 2, 0), atol=1e-5)


def test_torchreids_feature_extractor_gives_the_same(torchreid, reid, weights, pictures):
    extractor = torchreid.utils.FeatureExtractor(
        "spectral_osnet_x0_25", str(weights), image_size=(64, 32), device="cpu", verbose=False
    )
    paths = [row[0] for row in pictures[:3]]
    np.testing.assert_allclose(extractor(paths).numpy(), reid.features(paths), atol=1e-5)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 4, 3), np.uint8), "channels='bgr' for what OpenCV reads"),
        (np.zeros((8, 4), np.uint8), r"must be \(H, W, 3\)|An image is a path"),
        (np.zeros((8, 4, 3)), "uint8, got .* of float64"),
        (torch.full((3, 8, 4), 2.0), r"floats in \[0, 1\]"),
        (torch.full((3, 8, 4), float("nan")), r"floats in \[0, 1\]"),
        (torch.zeros(4, 8, 4), r"\(3, H, W\), RGB, got \(4, 8, 4\)"),
        ("nowhere.jpg", "There is no image 'nowhere.jpg'"),
        ([], "holds no image"),
        (7, "An image is a path"),
        ([7], "cannot be of type int"),
    ],
)
def test_rejects_images(reid, image, message):
    with pytest.raises(InputError, match=message):
        reid.features(image)


def test_index_search_save_open_add(reid, pictures, tmp_path):
    paths, ids = [row[0] for row in pictures], [row[1] for row in pictures]
    gallery = reid.index(paths[:9], ids[:9], progress=False)
    assert len(gallery) == 9 and gallery.features.shape == (9, 512)
    hits = reid.search(paths[4], top_k=3)
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert (hits[0].path, hits[0].id) == (paths[4], ids[4])
    assert hits[0].distance == pytest.approx(0, abs=1e-5)

    gallery.save(tmp_path / "gallery")
    again = reid.open(tmp_path / "gallery")
    assert (again.paths, again.ids) == (gallery.paths, gallery.ids)
    assert reid.search(paths[4], top_k=3) == hits
    assert reid.add(paths, ids) == len(paths) - 9
    assert reid.add(paths, ids) == 0
    whole = SpectralReID.index(reid, paths, ids, progress=False)
    np.testing.assert_allclose(whole.features, again.features, atol=1e-5)
    assert whole.paths == again.paths

    for rerank in ("local_blurring", "graph_walk"):
        answers = reid.search(paths[:2], top_k=5, rerank=rerank, k=6)
        method = build_reranker(rerank, k=6).fit(whole.features)
        expected, _ = method.rank(reid.features(paths[:2]), top_k=5)
        assert [[hit.path for hit in row] for row in answers] == [
            [paths[i] for i in row] for row in expected
        ]
    assert reid.search(paths[4], top_k=1, rerank="graph_walk")[0].path == paths[4]


def test_a_gallery_is_prepared_once_for_a_reranker(weights, pictures, tmp_path, monkeypatch):
    from torchreid_spectral.rerank.local_blurring import LocalBlurring

    fits = []
    fit = LocalBlurring.fit
    monkeypatch.setattr(
        LocalBlurring, "fit", lambda self, *args: fits.append(len(args[0])) or fit(self, *args)
    )
    reid, paths = SpectralReID(weights, device="cpu"), [row[0] for row in pictures]
    reid.index(paths[:9], progress=False).save(tmp_path / "gallery")
    first = reid.search(paths[0], rerank="local_blurring", k=6)
    assert reid.search(paths[0], rerank="local_blurring", k=6) == first
    reid.search(paths[1], rerank="local_blurring", k=6, top_k=3)
    assert fits == [9]
    reid.search(paths[0], rerank="local_blurring", k=5)  # other options
    reid.add(paths[9:11])
    assert len(reid.search(paths[0], rerank="local_blurring", k=5)) == 11  # added, not fitted
    reid.open(tmp_path / "gallery")
    assert reid.search(paths[0], rerank="local_blurring", k=6) == first
    assert fits == [9, 9, 9]


def test_queries_of_one_search_need_not_know_each_other(reid, pictures):
    paths = [row[0] for row in pictures]
    reid.index(paths[:9], progress=False)

    def distances(query, **options):
        answers = reid.search(query, rerank="k_reciprocal", k1=4, k2=2, **options)
        return [sorted((hit.path, hit.distance) for hit in hits) for hits in answers]

    alone = [distances([path], inductive=True)[0] for path in paths[9:12]]
    together = distances(paths[9:12], inductive=True)
    for one, other in zip(together, alone, strict=True):
        assert dict(one) == pytest.approx(dict(other), abs=1e-5)  # features of other batches
    joint = distances(paths[9:12])
    assert dict(joint[0]) != pytest.approx(dict(alone[0]), abs=1e-5)


def test_search_takes_the_cameras_of_queries(reid, pictures):
    paths, cameras = [row[0] for row in pictures[:9]], [0, 1, 2] * 3
    reid.index(paths, camids=cameras, progress=False)
    search = {"rerank": "graph_walk", "k": 4, "cross_camera": 2.0}
    found = reid.search(paths[0], camids=[0], **search)
    method = build_reranker("graph_walk", k=4, cross_camera=2.0)
    method.fit(reid.gallery.features, np.array(cameras))
    expected, _ = method.rank(reid.features(paths[0]), 20, camids=np.array([0]))
    assert [hit.path for hit in found] == [paths[row] for row in expected[0]]
    with pytest.raises(InputError, match="camids"):
        reid.search(paths[0], **search)


def test_search_normalizes_cameras(reid, pictures):
    paths, cameras = [row[0] for row in pictures[:9]], [0, 1, 2] * 3
    reid.index(paths, camids=cameras, progress=False)
    options = {"camera_normalization": "center"}
    found = reid.search(paths[0], camids=[0], **options)
    method = build_reranker("none", **options).fit(reid.gallery.features, np.array(cameras))
    expected, _ = method.rank(reid.features(paths[0]), 20, camids=np.array([0]))
    assert [hit.path for hit in found] == [paths[row] for row in expected[0]]
    with pytest.raises(InputError, match="camera_normalization center needs the camera"):
        reid.search(paths[0], **options)


def test_add_takes_in_every_array_and_fails_without_a_trace(weights, pictures):
    """An array has no path: one more is never taken for one that is there."""
    reid = SpectralReID(weights, device="cpu", channels="rgb")
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 255, (5, 64, 32, 3), dtype=np.uint8)
    reid.index([*batch[:3], pictures[0][0]], [1, 2, 3, 4], [0, 0, 0, 0], progress=False)
    assert reid.add([*batch[3:], pictures[0][0]], [5, 6, 4], [1, 1, 0]) == 2
    assert reid.gallery.paths == [*(f"image {n}" for n in range(3)), pictures[0][0],
                                  "image 4", "image 5"]  # fmt: skip
    assert (reid.gallery.ids, reid.gallery.camids) == ([1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 1, 1])
    with pytest.raises(InputError, match="Give camids for all images"):
        reid.add(list(batch[:1]), [7])
    with pytest.raises(InputError, match="ids: 1 for 2 images"):
        reid.add(list(batch[:2]), [7])
    assert len(reid.gallery) == len(reid.gallery.ids) == len(reid.gallery.camids) == 6
    assert reid.search(batch[4], top_k=1)[0].id == 6


def test_folder_with_a_broken_file(reid, pictures, tmp_path, caplog):
    (tmp_path / "deep").mkdir()
    shutil.copy(pictures[0][0], tmp_path / "deep" / "a.jpg")
    (tmp_path / "b.png").write_bytes(b"not a picture")
    (tmp_path / "notes.txt").write_text("")
    bomb = b"BM" + (0).to_bytes(12, "little") + (40).to_bytes(4, "little")
    bomb += (60_000).to_bytes(4, "little") * 2 + b"\1\0\x18\0" + bytes(24)
    (tmp_path / "huge.bmp").write_bytes(bomb)  # Pillow refuses it by an error of its own kind
    gallery = reid.index(tmp_path, progress=False)
    assert gallery.paths == [str(tmp_path / "deep" / "a.jpg")]
    assert "decompression bomb" in gallery.skipped[str(tmp_path / "huge.bmp")]
    assert "not an image that can be read" in gallery.skipped[str(tmp_path / "b.png")]
    (tmp_path / "deep" / "a.jpg").unlink()
    with pytest.raises(InputError, match="None of the 2 images could be read"):
        reid.index(tmp_path, progress=False)


def test_weights_of_a_run_are_those_that_were_tested(tmp_path):
    """Under train.ema_decay the average is; one that an earlier run has left is not."""
    from torchreid_spectral.engine.checkpoints import Checkpoint, CheckpointFolder
    from torchreid_spectral.inference.weights import latest_weights

    folder = CheckpointFolder(tmp_path / "checkpoints")
    weights, average = {"a": torch.zeros(2)}, {"a": torch.ones(2)}
    folder.save(Checkpoint(weights, average, {}))
    assert latest_weights(tmp_path).name == "last.ema.safetensors"
    folder.save(Checkpoint(weights, {}, {}))
    assert latest_weights(tmp_path).name == "last.safetensors"


def test_linked_folders_are_looked_into_but_not_in_circles(pictures, tmp_path):
    from torchreid_spectral.inference.images import list_folder

    (tmp_path / "store").mkdir()
    shutil.copy(pictures[0][0], tmp_path / "store" / "a.jpg")
    crops = tmp_path / "crops"
    crops.mkdir()
    for name in ("first", "second"):
        (crops / name).symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "store" / "round").symlink_to(crops, target_is_directory=True)
    assert list_folder(crops) == [str(crops / name / "a.jpg") for name in ("first", "second")]


def test_galleries_of_other_weights_are_refused(reid, weights, pictures, tmp_path):
    gallery = reid.index([pictures[0][0]], progress=False)
    gallery.model = "0123456789abcdef"
    gallery.save(tmp_path)
    with pytest.raises(InputError, match="made by the weights 0123456789abcdef"):
        reid.open(tmp_path)
    with pytest.raises(InputError, match="not a finished gallery"):
        Gallery.open(tmp_path / "none")
    reid.index([pictures[0][0]], progress=False).save(tmp_path)
    (shard,) = tmp_path.glob("features-*.json")
    shard.write_text(json.dumps(json.loads(shard.read_text()) | {"model": "0123456789abcdef"}))
    with pytest.raises(InputError, match="are of different weights"):
        reid.open(tmp_path)
    larger = SpectralReID(weights, device="cpu", height=128)
    reid.index([pictures[0][0]], progress=False).save(tmp_path)
    with pytest.raises(InputError, match="made by the weights"):  # as of another input size
        larger.open(tmp_path)
    fresh = SpectralReID(weights, device="cpu")
    with pytest.raises(InputError, match="no gallery yet"):
        fresh.search(pictures[0][0])


def test_calibration_by_counting():
    """Distances on a line: one minus cosine of unit vectors in the plane, all pairs by a loop."""
    rng = np.random.default_rng(0)
    ids = np.arange(40) % 8
    angles = ids + 0.4 * rng.normal(size=40)
    features = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    same, different = [], []
    for i in range(40):
        for j in range(i):
            distance = 1 - float(features[i].astype(float) @ features[j].astype(float))
            (same if ids[i] == ids[j] else different).append(distance)
    for rate in (0.5, 0.1, 0.02, 1 / 300):
        found = calibrate(features, ids, false_match_rate=rate)
        passed = sum(d <= found.threshold for d in different)
        assert passed <= rate * len(different) < passed + 1
        assert found.false_match_rate == pytest.approx(passed / len(different))
        assert found.true_match_rate == pytest.approx(np.mean(np.array(same) <= found.threshold))
    assert (found.same_pairs, found.different_pairs) == (len(same), len(different))
    cross = calibrate(features, ids, np.arange(40) // 8 % 2, false_match_rate=0.1)
    assert cross.different_pairs == sum(
        (i // 8 % 2) != (j // 8 % 2) and ids[i] != ids[j] for i in range(40) for j in range(i)
    )


def test_nobody_is_left_out_of_a_calibration():
    """Distractors are many people under one number."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 8)).astype(np.float32)
    ids = np.arange(60) % 6 - 1
    cameras = np.arange(60) % 7
    known = ids >= 0
    expected = calibrate(features[known], ids[known], cameras[known], false_match_rate=0.1)
    assert calibrate(features, ids, cameras, false_match_rate=0.1) == expected


def test_equal_images_of_two_people_do_not_pass(caplog):
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    features[:4] = np.eye(4)[[0, 0, 1, 1]]
    found = calibrate(features, np.arange(40) % 20, false_match_rate=0.002)
    assert found.false_match_rate == 0 and "equal: look for wrong identities" in caplog.text
    assert not (np.zeros(1, np.float32) <= found.threshold).any()


def test_a_gallery_of_another_distance_is_told(weights, pictures, caplog):
    reid = SpectralReID(weights, device="cpu", metric="squared_euclidean")
    paths = [row[0] for row in pictures[:8]]
    reid.index(paths, progress=False)
    reid.search(paths[0], rerank="k_reciprocal")
    assert not caplog.records
    reid.search(paths[0], rerank="local_blurring")
    assert "local_blurring compares by cosine, the gallery by squared_euclidean" in caplog.text


def test_one_camera_alone_says_nothing():
    features = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    ids = np.arange(20) % 5
    expected = calibrate(features, ids, false_match_rate=0.1)
    assert calibrate(features, ids, [3] * 20, false_match_rate=0.1) == expected
    some = calibrate(features, ids, [None, 1, 2, "3"] * 5, false_match_rate=0.1)
    assert some.different_pairs < expected.different_pairs


def test_ties_pass_together_or_not_at_all():
    features = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0.1]], np.float32)
    found = calibrate(features, [0, 1, 2, 3, 0], false_match_rate=0.3)
    assert found.false_match_rate <= 0.3


@pytest.mark.parametrize(
    ("rate", "message"), [(0.0, r"in \(0, 1\)"), (0.001, "takes at least 1000 pairs")]
)
def test_calibration_rejects(rate, message):
    with pytest.raises(InputError, match=message):
        calibrate(np.eye(4, dtype=np.float32), [0, 0, 1, 1], false_match_rate=rate)


def test_same_person(weights, pictures, tmp_path, caplog):
    folder = tmp_path / "model"
    shutil.copytree(weights.parent.parent, folder)
    copy = folder / "model" / weights.name
    reid = SpectralReID(copy, device="cpu")
    first, second = pictures[0][0], pictures[-1][0]
    answer = reid.same_person(first, second)
    assert answer.same is None and str(answer).endswith("not calibrated")
    paths, ids, cameras = zip(*pictures)
    calibration = reid.calibrate(list(paths), ids, cameras, false_match_rate=0.05)
    assert reid.same_person(first, first).same is True
    assert "same person (false-match rate" in str(reid.same_person(first, first))
    assert reid.same_person(first, second).same is (answer.distance <= calibration.threshold)
    calibration.save(copy.with_name("calibration.json"))
    assert SpectralReID(copy, device="cpu").calibration == calibration
    with pytest.raises(InputError, match="two single images"):
        reid.same_person([first], second)
    foreign = Calibration(0.5, 0, 1, 0.1, 1, 10, model="0" * 16)
    with pytest.raises(InputError, match="calibrate anew"):
        SpectralReID(copy, device="cpu", calibration=foreign)
    foreign.save(copy.with_name("calibration.json"))  # of an earlier training
    opened = SpectralReID(copy, device="cpu")
    assert "calibration.json is not used" in caplog.text and "calibrate anew" in caplog.text
    assert str(opened.same_person(first, second)).endswith("not calibrated")


def test_weights_alone_need_a_name(weights, tmp_path, pictures, reid):
    from safetensors.torch import save_file

    state = torch.load(weights, weights_only=True)["state_dict"]
    path = tmp_path / "deep" / "er" / "still" / "bare.safetensors"
    path.parent.mkdir(parents=True)
    save_file({f"module.{name}": value for name, value in state.items()}, path)
    with pytest.raises(InputError, match="Give model_name, height and width"):
        open_model(path)
    bare = SpectralReID(path, device="cpu", model_name="spectral_osnet_x0_25", height=64, width=32)
    picture = pictures[0][0]
    np.testing.assert_allclose(bare.features(picture), reid.features(picture), atol=1e-6)
    with pytest.raises(InputError, match="does not fit .*are missing or of another shape"):
        open_model(path, model_name="spectral_resnet18")
    with pytest.raises(InputError, match="'heigth'.*are no settings"):
        open_model(path, heigth=3)
    with pytest.raises(InputError, match="There are no weights"):
        open_model(tmp_path / "nothing")


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="list.pth holds no weights"):
        SpectralReID(tmp_path / "list.pth", model_name="spectral_osnet_x0_25")


def test_settings_come_from_the_run(reid):
    settings = reid.settings
    assert (settings.model_name, settings.height) == ("spectral_osnet_x0_25", 64)
    assert settings.options["temperature"] == 0.2
    assert float(reid.model.heads[0].walk.temperature) == pytest.approx(0.2)


def test_arrays_and_spellings_of_paths_are_counted_right(weights, pictures, tmp_path):
    reid = SpectralReID(weights, device="cpu")
    images = [Image.open(row[0]).copy() for row in pictures[:4]]
    (tmp_path / "bad.jpg").write_text("no image")
    reid.index([tmp_path / "bad.jpg", images[0], images[1]], progress=False)
    assert reid.gallery.paths == ["image 1", "image 2"]
    assert reid.add([images[2]]) == 1 and reid.gallery.paths[-1] == "image 3"
    path = pictures[4][0]
    spelt = os.path.join(os.path.dirname(path), ".", os.path.basename(path))
    assert reid.add([path, path, spelt]) == 1
    assert reid.add([spelt, os.path.relpath(path)]) == 0


def test_cameras_may_be_words_and_people_unknown(reid, pictures):
    paths, words = [row[0] for row in pictures[:9]], ["gate b", "gate a", "hall"] * 3
    reid.index(paths, [1, 1, 2, 2, None, 3, 3, 1, None], words, progress=False)
    assert len(reid.search(paths[0], top_k=3)) == 3
    search = {"rerank": "graph_walk", "k": 4, "cross_camera": 2.0}
    found = reid.search(paths[0], camids=["hall"], **search)
    numbers = [{"gate a": 0, "gate b": 1, "hall": 2}[word] for word in words]
    method = build_reranker("graph_walk", k=4, cross_camera=2.0)
    method.fit(reid.gallery.features, np.array(numbers))
    expected, _ = method.rank(reid.features(paths[0]), 20, camids=np.array([2]))
    assert [hit.path for hit in found] == [paths[row] for row in expected[0]]
    pair = reid.search([paths[0], paths[1]], inductive=True, camids=["hall", "attic"], **search)
    alone = reid.search(paths[0], inductive=True, camids=["hall"], **search)
    # a camera that is new, and comes first by the alphabet, moves no other
    one, other = ({hit.path: hit.distance for hit in hits} for hits in (pair[0], alone))
    assert one == pytest.approx(other, abs=1e-5)
    known = [row for row, name in enumerate(reid.gallery.ids) if name is not None]
    features, ids = reid.gallery.features[known], [reid.gallery.ids[row] for row in known]
    expected = calibrate(features, ids, [words[row] for row in known], false_match_rate=0.2)
    found = calibrate(reid.gallery.features, reid.gallery.ids, words, false_match_rate=0.2)
    assert found == expected


def test_a_threshold_is_of_one_distance(weights, pictures, tmp_path):
    squared = SpectralReID(weights, device="cpu", metric="squared_euclidean")
    known = squared.calibrate(*zip(*[row[:2] for row in pictures]), false_match_rate=0.1)
    known.save(tmp_path / "c.json")
    with pytest.raises(InputError, match="squared_euclidean.*calibrate anew"):
        SpectralReID(weights, device="cpu", calibration=tmp_path / "c.json")


def test_other_features_of_equal_weights_have_another_fingerprint(weights, reid):
    options = {**reid.settings.options, "test_feature": "bottleneck"}
    assert SpectralReID(weights, device="cpu", options=options).fingerprint != reid.fingerprint
    options = {**reid.settings.options, "temperature": 0.3}  # of training alone
    assert SpectralReID(weights, device="cpu", options=options).fingerprint == reid.fingerprint


def test_a_gallery_is_replaced_whole_or_not_at_all(reid, pictures, tmp_path, monkeypatch):
    import torchreid_spectral.inference.gallery as module

    gallery = reid.index([row[0] for row in pictures[:9]], progress=False)
    gallery.skipped = {"bad.jpg": "no image"}
    gallery.save(tmp_path)
    assert Gallery.open(tmp_path).skipped == gallery.skipped
    other = reid.index([row[0] for row in pictures[9:13]], progress=False)
    with monkeypatch.context() as patch:

        def full(*args):
            raise OSError("no space left")

        patch.setattr(module, "write_manifest", full)
        with pytest.raises(OSError, match="no space"):
            other.save(tmp_path)
    assert Gallery.open(tmp_path).paths == gallery.paths
    other.save(tmp_path)
    assert Gallery.open(tmp_path).paths == other.paths
    assert len(list(tmp_path.glob("features-*"))) == 2


def test_the_order_of_channels_is_taken_where_images_are(weights, pictures):
    reid = SpectralReID(weights, device="cpu")
    arrays = [np.array(Image.open(row[0]))[..., ::-1] for row in pictures[:6]]
    ids = [row[1] for row in pictures[:6]]
    gallery = reid.index(arrays[:4], channels="bgr", progress=False)
    assert reid.add(arrays[4:], channels="bgr") == 2
    expected = reid.features([row[0] for row in pictures[:6]])
    np.testing.assert_allclose(gallery.features, expected, atol=1e-5)
    found = reid.calibrate(arrays, ids, channels="bgr", false_match_rate=0.5)
    assert found == reid.calibrate([row[0] for row in pictures[:6]], ids, false_match_rate=0.5)


def test_folders_that_hide_or_cannot_be_listed(pictures, tmp_path, caplog, unlisted):
    for name in ("a/1.jpg", ".thumbnails/2.jpg", "closed/3.jpg"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(pictures[0][0], tmp_path / name)
    unlisted(tmp_path / "closed")
    assert list_folder(tmp_path) == [str(tmp_path / "a" / "1.jpg")]
    assert "closed cannot be listed: its images are left out" in caplog.text


def test_a_run_tested_with_mirror_images_is_searched_with_them(reid, run_folder, tmp_path):
    from torchreid_spectral.inference.weights import open_model

    shutil.copytree(run_folder, tmp_path / "run")
    file = tmp_path / "run" / "metrics.json"
    content = json.loads(file.read_text())
    content["config"].setdefault("test", {})["flip"] = True
    file.write_text(json.dumps(content))
    mirrored = SpectralReID(tmp_path / "run", device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), dtype=np.uint8)
    pair = [reid.features(each, channels="rgb") for each in (images, images[:, :, ::-1])]
    found = mirrored.features(images, channels="rgb")
    np.testing.assert_allclose(found, sum(pair) / 2, atol=1e-5)
    assert mirrored.fingerprint != reid.fingerprint  # its galleries are others
    assert open_model(tmp_path / "run", flip=False)[1] == reid.settings


def test_models_of_tracklets_alone_do_not_open(torchreid, tmp_path):
    from torchreid_spectral import _compat, build_model

    block = {"after": "conv4", "over": "frames", "frames": 3}
    model = build_model("spectral_osnet_x0_25", 3, pretrained=False, attention=[block])
    _compat.save_checkpoint({"state_dict": model.state_dict(), "epoch": 1, "rank1": 0.0},
                            str(tmp_path))  # fmt: skip
    with pytest.raises(InputError, match="attends between the frames of tracklets"):
        open_model(tmp_path / "model.pth.tar-1", model_name="spectral_osnet_x0_25",
                   options={"attention": (block,)})  # fmt: skip


def test_a_bottleneck_that_is_the_feature_must_be_there(torchreid, tmp_path):
    from torchreid_spectral import _compat, build_model

    model = build_model("osnet_x0_25", 3, pretrained=False)
    _compat.save_checkpoint({"state_dict": model.state_dict(), "epoch": 1, "rank1": 0.0},
                            str(tmp_path))  # fmt: skip
    given = {"model_name": "spectral_osnet_x0_25"}
    assert open_model(tmp_path / "model.pth.tar-1", **given)
    with pytest.raises(InputError, match="weights are missing.*such as classifier"):
        open_model(tmp_path / "model.pth.tar-1", **given, options={"test_feature": "bottleneck"})


def test_a_folder_is_a_batch(reid, pictures, tmp_path):
    shutil.copy(pictures[0][0], tmp_path / "0.jpg")
    searching = SpectralReID.__new__(SpectralReID)
    searching.__dict__.update(reid.__dict__)
    searching.index([row[0] for row in pictures[:5]], progress=False)
    (hits,) = searching.search(tmp_path, top_k=2)
    assert len(hits) == 2
    with pytest.raises(InputError, match="two single images"):
        reid.same_person(tmp_path, pictures[0][0])


def test_calibration_counts_whole_pairs():
    """0.29 of 100 pairs are 29, though 0.29 * 100 is 28.999...; a midpoint lets none more in."""
    angles = np.arccos(1 - np.arange(1, 101) / 200)  # of 100 people to one who has two images
    x = np.stack([np.cos(angles), np.sin(angles)], 1)
    features = np.concatenate([[[1, 0], [1, 0]], x]).astype(np.float32)
    cameras = np.array([0, 1] + [1] * 100)  # only pairs with the first
    found = calibrate(features, np.array([0, 0, *range(1, 101)]), cameras, false_match_rate=0.29)
    assert found.different_pairs == 100 and found.false_match_rate == pytest.approx(0.29)

    close = np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1))
    distances = np.array([close[0], *[close[1]] * 999], dtype=np.float32)
    ones = np.zeros(1, dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "pair_distances", lambda *_, **__: (ones, distances))
        found = calibrate(features, [], false_match_rate=0.001)
    assert found.false_match_rate == pytest.approx(0.001)


def test_calibration_refuses_a_distance_that_there_is_not():
    with pytest.raises(InputError, match="cos"):
        calibrate(np.eye(3, dtype=np.float32), [0, 0, 1], metric="cos")


def test_broken_and_foreign_files_of_a_run_are_named(tmp_path, weights, reid, pictures):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.json").write_text('{"config": {')
    foreign = tmp_path / "checkpoints" / "w.pth"
    torch.save({"a": torch.zeros(1)}, foreign)
    with pytest.raises(InputError, match=r"metrics.json is broken"):
        open_model(foreign)
    reid.index([row[0] for row in pictures[:3]], progress=False).save(tmp_path / "gallery")
    manifest = tmp_path / "gallery" / "index.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(InputError, match="format 99, this version reads 1"):
        Gallery.open(tmp_path / "gallery")
    with pytest.raises(InputError, match="Unknown metric 'cosin'"):
        SpectralReID(weights, device="cpu", metric="cosin")


def test_a_gallery_remembers_what_was_passed_over_in_all_its_parts():
    one, two = (Gallery(np.zeros((1, 2), np.float32), [name], skipped={f"{name}.txt": "no image"})
                for name in "ab")  # fmt: skip
    one.extend(two)
    assert one.skipped == {"a.txt": "no image", "b.txt": "no image"}


def test_add_passes_over_what_is_broken_until_it_is_mended(weights, pictures, tmp_path, caplog):
    reid = SpectralReID(weights, device="cpu")
    shutil.copy(pictures[0][0], tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_text("no image")
    gallery = reid.index(tmp_path, progress=False)
    assert [*gallery.skipped] == [str(tmp_path / "b.jpg")]
    assert reid.add(tmp_path) == 0
    assert "None of the 1 images could be read" in caplog.text
    (tmp_path / "c.jpg").write_text("no image")
    assert reid.add(tmp_path) == 0
    assert sorted(gallery.skipped) == [str(tmp_path / "b.jpg"), str(tmp_path / "c.jpg")]
    shutil.copy(pictures[1][0], tmp_path / "b.jpg")
    assert reid.add(tmp_path) == 1
    assert [*gallery.skipped] == [str(tmp_path / "c.jpg")] and len(gallery) == 2


def test_nobody_is_searched_by_an_empty_path(weights):
    reid = SpectralReID(weights, device="cpu")
    for call in (reid.index, reid.features):
        with pytest.raises(InputError, match="must not be empty, got ''"):
            call("")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(reid, tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="it is no file"):
        reid.features(tmp_path / "a.jpg")


def test_cameras_of_queries_may_be_words_where_the_gallery_has_none(weights, pictures):
    reid = SpectralReID(weights, device="cpu")
    reid.index([row[0] for row in pictures[:4]], progress=False)
    assert len(reid.search(pictures[0][0], camids=["door"])) == 4


@pytest.mark.parametrize("nobody", [None, -1, float("nan"), np.float32("nan")])
def test_those_who_are_not_known_are_left_out_of_a_calibration(nobody):
    features = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    ids = [number // 2 for number in range(40)]
    expected = calibrate(features[:20], ids[:20], false_match_rate=0.1)
    assert calibrate(features, [*ids[:20], *[nobody] * 20], false_match_rate=0.1) == expected


def test_a_calibration_is_computed_in_float32():
    features = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float16) * 100
    ids = [number // 2 for number in range(40)]
    found = [calibrate(part, ids, false_match_rate=0.1, metric="squared_euclidean")
             for part in (features, features.astype(np.float32))]  # fmt: skip
    assert found[0] == found[1] and np.isfinite(found[0].threshold)
    with pytest.raises(InputError, match="features must be finite"):
        calibrate(features * np.float16("nan"), ids, false_match_rate=0.1)
    with pytest.raises(InputError, match="camids must have one entry an image: 3 for 40"):
        calibrate(features, ids, [1, 2, 3], false_match_rate=0.1)


def test_a_gallery_that_is_replaced_while_it_is_opened(tmp_path, monkeypatch):
    """The old shard is gone when the reader comes to it: it begins again, with the new one."""
    features = np.eye(3, dtype=np.float32)
    Gallery(features, ["a", "b", "c"]).save(tmp_path)
    reads, read = [], gallery_module.read_shard

    def replaced(folder, name):
        if not reads:
            Gallery(features[:2], ["d", "e"]).save(tmp_path)
        reads.append(name)
        return read(folder, name)

    monkeypatch.setattr(gallery_module, "read_shard", replaced)
    assert Gallery.open(tmp_path).paths == ["d", "e"]
    assert reads == ["features-00000", "features-00001"]
    (tmp_path / "features-00001.json").unlink()
    with pytest.raises(InputError, match="is not a finished gallery"):
        Gallery.open(tmp_path)


class Column(list):
    """Labels as a table's column has them: found by index, which is not the place."""

    def __getitem__(self, key):
        return super().__getitem__(-1 - key)


def test_labels_stay_as_they_are():
    nan = float("nan")
    labels = extraction.labels_of("abcd", ["anna", "anna", nan, nan], [1, nan, np.int64(2), None])
    assert labels == {"ids": ["anna", "anna", None, None], "camids": [1, None, 2, None]}
    assert all(type(camera) in (int, type(None)) for camera in labels["camids"])
    big = [2**63 + 1, 2**63 + 3, 5]
    assert extraction.labels_of("abc", big, np.array([1, 2, 3])) == {
        "ids": big, "camids": [1, 2, 3],
    }  # fmt: skip
    tensors = extraction.labels_of("ab", torch.tensor([3, 4]), [torch.tensor(1), torch.tensor(2)])
    assert tensors == {"ids": [3, 4], "camids": [1, 2]}


@pytest.mark.parametrize("kind", [Column, list, np.array, torch.as_tensor])
def test_labels_of_a_calibration_are_taken_in_their_order(kind):
    rng = np.random.default_rng(0)
    ids, cameras = np.arange(60) % 6 - 1, np.arange(60) % 7
    features = (np.eye(8)[ids + 1] + 0.3 * rng.normal(size=(60, 8))).astype(np.float32)
    expected = calibrate(features, ids, cameras, false_match_rate=0.1)
    found = calibrate(features, kind(ids.tolist()), kind(cameras.tolist()), false_match_rate=0.1)
    assert found == expected and expected.true_match_rate > 0.5


def test_images_are_removed(weights, pictures, tmp_path):
    reid = SpectralReID(weights, device="cpu")
    paths = [row[0] for row in pictures[:6]]
    before = reid.index(paths, ids=list("abcdef"), camids=range(6))
    reid.search(paths[2], rerank="graph_walk", k=2)  # prepared for what is there
    assert reid.remove(os.path.relpath(paths[2])) == 1
    assert reid.remove([paths[2], paths[5], "nowhere.jpg"]) == 1
    relative = Gallery(before.features, [os.path.relpath(path) for path in paths])
    assert relative.without(paths[:4]).paths == relative.paths[4:]
    assert len(before) == 6  # who is searching it is not disturbed
    assert reid.gallery.paths == [paths[n] for n in (0, 1, 3, 4)]
    assert (reid.gallery.ids, reid.gallery.camids) == (list("abde"), [0, 1, 3, 4])
    np.testing.assert_array_equal(reid.gallery.features, before.features[[0, 1, 3, 4]])
    for method in ({}, {"rerank": "graph_walk", "k": 2}):
        found = {hit.path for hit in reid.search(paths[2], **method)}
        assert found == set(reid.gallery.paths)
    assert reid.add(paths[2], ids=["c"], camids=[2]) == 1  # renewed
    assert reid.search(paths[2], 1)[0].id == "c"
    reid.gallery.save(tmp_path / "gallery")
    assert Gallery.open(tmp_path / "gallery").paths[-1] == paths[2]


def test_a_gallery_of_other_weights_cannot_be_assigned(weights, pictures):
    reid = SpectralReID(weights, device="cpu")
    gallery = reid.index([pictures[0][0]])
    other = dataclasses.replace(gallery, model="f" * 16)
    with pytest.raises(InputError, match="made by the weights ffff"):
        reid.gallery = other
    assert reid.gallery is gallery
    reid.gallery = None
    with pytest.raises(InputError, match="no gallery yet"):
        reid.search(pictures[0][0])


def test_labels_that_json_does_not_know_leave_nothing(tmp_path):
    gallery = Gallery(np.eye(2, dtype="f4"), ["a", "b"], ids=[object(), object()])
    for _ in range(2):
        with pytest.raises(InputError, match="ids and camids must be words or numbers"):
            gallery.save(tmp_path / "gallery")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_calibration_passes_over_what_is_broken(weights, pictures, tmp_path, caplog):
    reid = SpectralReID(weights, device="cpu")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    rows = pictures[:24]
    paths, ids = [row[0] for row in rows], [row[1] for row in rows]
    expected = reid.calibrate(paths, ids, false_match_rate=0.1)
    found = reid.calibrate([*paths, broken], [*ids, 7], false_match_rate=0.1)
    assert found == expected and "1 of 25" in caplog.text


def test_a_word_is_one_label(weights, pictures):
    reid = SpectralReID(weights, device="cpu")
    paths = [row[0] for row in pictures[:3]]
    with pytest.raises(InputError, match="ids: 1 for 3 images"):
        reid.index(paths, ids="abc")
    reid.index(paths, ids=list("abc"), camids=["hall", "door", "hall"])
    assert reid.add(pictures[3][0], ids="dora", camids="hall") == 1
    assert reid.gallery.ids == ["a", "b", "c", "dora"]
    assert len(reid.search(paths[0], 4, camids="hall")) == 4


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("cameras", [False, True])
def test_pairs_are_each_counted_once(metric, cameras, monkeypatch):
    from torchreid_spectral.functional.distance import METRICS
    from torchreid_spectral.inference import calibration

    monkeypatch.setattr(calibration, "_ROWS", 4)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(14, 5)).astype(np.float32)
    ids = [*rng.integers(0, 4, 12).tolist(), -1, None]
    camids = rng.integers(0, 2, 14).tolist() if cameras else None
    expected = {True: [], False: []}
    for i in range(12):
        for j in range(i + 1, 12):
            if camids is None or camids[i] != camids[j]:
                pair = torch.from_numpy(features[[i]]), torch.from_numpy(features[[j]])
                expected[ids[i] == ids[j]].append(float(METRICS[metric](*pair)))
    same, different = calibration.pair_distances(features, ids, camids, metric=metric)
    np.testing.assert_allclose(same, expected[True], atol=1e-6)
    np.testing.assert_allclose(different, expected[False], atol=1e-6)
