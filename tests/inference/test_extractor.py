"""Reading ahead, precision and memory format change how fast features come, not what they are."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.test_spectral_net import backbone_names, build, images
from torchreid_spectral import SpectralReID
from torchreid_spectral.errors import InputError
from torchreid_spectral.inference.calibration import Calibration
from torchreid_spectral.inference.images import read_ahead
from torchreid_spectral.inference.network import Extractor, FeatureNetwork

CPU = torch.device("cpu")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_parts_come_in_order(workers):
    parts = [[3, 1, 2], [], [9], [7, 8]]
    assert list(read_ahead(parts, lambda item: 10 * item, workers)) == [
        [30, 10, 20], [], [90], [70, 80]
    ]  # fmt: skip
    assert list(read_ahead([], str, workers)) == []


def test_the_next_part_is_read_while_one_is_used():
    later = threading.Event()

    def read(item):
        if item == 2:
            later.set()
        return item

    parts = read_ahead([[0, 1], [2, 3]], read, 2)
    assert next(parts) == [0, 1]
    assert later.wait(timeout=20)
    assert next(parts) == [2, 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_through_and_ends_the_reading(workers):
    seen = []

    def read(item):
        seen.append(item)
        if item == 1:
            raise InputError("broken")
        return item

    with pytest.raises(InputError, match="broken"):
        list(read_ahead([[0, 1], [2, 3], *([[4]] * 1000)], read, workers))
    assert len(seen) < 100
    assert not [one for one in threading.enumerate() if "ThreadPool" in one.name]


def test_who_stops_early_leaves_no_thread():
    parts = read_ahead([[0, 1], [2, 3], [4, 5]], str, 2)
    next(parts)
    parts.close()
    assert not [one for one in threading.enumerate() if "ThreadPool" in one.name]


def test_an_error_of_whoever_uses_the_images_ends_the_reading(weights, pictures, monkeypatch):
    paths = [row[0] for row in pictures[:12]]
    reid = SpectralReID(weights, device="cpu", batch_size=2, workers=2)

    def fails(self, images):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Extractor, "__call__", fails)
    for call in (lambda: reid.features(paths), lambda: reid.index(paths, progress=False)):
        with pytest.raises(RuntimeError, match="out of memory") as raised:
            call()
        assert raised.traceback  # it holds the frames, and with them the reading
        assert not [one for one in threading.enumerate() if "ThreadPool" in one.name]


def test_pictures_that_pillow_has_only_opened_are_read_one_by_one(weights, pictures):
    """They share a file, which threads would read from at once."""
    reid = SpectralReID(weights, device="cpu", workers=3)
    paths = [row[0] for row in pictures[:3]]
    assert reid._threads(paths) == 3 and reid._threads(paths[:1]) == 0
    assert reid._threads([*paths, Image.new("RGB", (4, 8))]) == 0


def test_threads_give_the_same_features_and_galleries(weights, reid, pictures, tmp_path):
    paths = [row[0] for row in pictures[:9]]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    ahead = SpectralReID(weights, device="cpu", batch_size=2, workers=3)
    alone = SpectralReID(weights, device="cpu", batch_size=2, workers=0)
    assert reid.workers == 0  # the CPU has other work
    np.testing.assert_array_equal(ahead.features(paths), alone.features(paths))
    asked = [*paths[:4], str(broken), *paths[4:]]
    one, two = (each.index(asked, progress=False) for each in (ahead, alone))
    assert one.paths == two.paths == paths
    assert one.skipped == two.skipped and list(one.skipped) == [str(broken)]
    np.testing.assert_array_equal(one.features, two.features)
    with pytest.raises(InputError, match="not an image that can be read"):
        ahead.features(asked)


def test_half_precision_is_near_and_named(weights, reid, pictures):
    paths = [row[0] for row in pictures[:9]]
    exact = reid.features(paths)
    half = SpectralReID(weights, device="cpu", amp="bf16").features(paths)
    assert half.dtype == np.float32
    cosines = (exact * half).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(half, axis=1)
    assert 0.999 < cosines.min() < 1 and not np.array_equal(exact, half)
    with pytest.raises(InputError, match="amp fp16 needs a GPU; on a CPU use bf16 or off"):
        SpectralReID(weights, device="cpu", amp="fp16")
    with pytest.raises(InputError, match="Unknown amp 'bf61'. Did you mean bf16"):
        SpectralReID(weights, device="cpu", amp="bf61")
    with pytest.raises(InputError, match="workers must be >= 0, got -1"):
        SpectralReID(weights, device="cpu", workers=-1)


def test_a_gallery_remembers_its_precision(weights, pictures, tmp_path, caplog):
    paths = [row[0] for row in pictures[:4]]
    half = SpectralReID(weights, device="cpu", amp="bf16")
    half.index(paths, progress=False).save(tmp_path)
    half.open(tmp_path)
    assert "they differ by rounding" not in caplog.text
    exact = SpectralReID(weights, device="cpu")
    assert exact.open(tmp_path).amp == "bf16"
    assert "gallery's features were computed with amp bf16, images are now with off" in caplog.text


def test_a_calibration_remembers_its_precision(weights, pictures, tmp_path, caplog):
    paths, ids, _ = zip(*pictures)
    half = SpectralReID(weights, device="cpu", amp="bf16")
    known = half.calibrate(list(paths), ids, false_match_rate=0.5)
    assert known.amp == "bf16"
    known.save(tmp_path / "known.json")
    SpectralReID(weights, device="cpu", amp="bf16", calibration=tmp_path / "known.json")
    assert "differ by rounding" not in caplog.text
    exact = SpectralReID(weights, device="cpu", calibration=tmp_path / "known.json")
    assert "calibration's features were computed with amp bf16" in caplog.text
    gallery = half.index(list(paths), ids, progress=False)
    assert exact.calibrate(gallery, false_match_rate=0.5).amp == "bf16"
    caplog.clear()
    SpectralReID(weights, device="cpu", calibration=Calibration(0.5, 0, 1, 0.1, 1, 10))
    assert "differ by rounding" not in caplog.text  # an earlier file: not known


def test_features_that_overflow_are_refused(weights, pictures):
    reid = SpectralReID(weights, device="cpu", amp="bf16")
    with torch.no_grad():
        next(reid.model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match=r"NaN or infinity \(amp bf16\). Use amp bf16 or off"):
        reid.features(pictures[0][0])


def test_tiny_weights_cost_no_time_on_a_cpu(weights):
    """They change no feature, and the model and its fingerprint keep them."""
    from torchreid_spectral.inference.weights import fingerprint

    reid = SpectralReID(weights, device="cpu")
    assert reid._extract._network.model is reid.model  # it has none: nothing is copied
    with torch.no_grad():
        weight = next(w for w in reid.model.parameters() if w.dim() == 4)
        weight[0] = 1e-39
    before = fingerprint(reid.model, reid.settings)
    extract = Extractor(FeatureNetwork(reid.model, unit=reid.settings.normalize), CPU)
    used = next(w for w in extract._network.parameters() if w.dim() == 4)
    assert not used[0].any() and used[1].any() and weight[0].any()
    assert fingerprint(reid.model, reid.settings) == before
    np.testing.assert_array_equal(extract(torch.ones(1, 3, 64, 32)),
                                  reid._extract(torch.ones(1, 3, 64, 32)))  # fmt: skip


def test_the_weights_keep_their_layout_and_ones_own_networks_theirs(weights):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, images):
            maps = self.conv(images)
            return maps.view(len(maps), -1)

    reid = SpectralReID(weights, device="cpu")
    assert all(value.is_contiguous() for value in reid.model.state_dict().values())
    assert Extractor(FeatureNetwork(Own()), CPU)(torch.rand(2, 3, 8, 4)).shape == (2, 48)


def check_layout(model, batch):
    network = FeatureNetwork(model)
    with torch.no_grad():
        expected = network(batch).numpy()
    found = Extractor(network, CPU)(batch)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["osnet_x0_25", "pcb_p6", "mudeep"])
def test_layout_changes_no_feature(torchreid, name):
    check_layout(build(name), images(name))
    check_layout(torchreid.models.build_model(name, 5, pretrained=False), images(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", backbone_names())
def test_layout_changes_no_feature_of_any_model(torchreid, name):
    check_layout(build(name), images(name))
