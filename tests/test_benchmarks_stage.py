"""Tests of benchmarks/market1501_stage.py."""

import argparse
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.test_benchmarks_market1501 import ROOT, load

ARGS = argparse.Namespace(only=None, suites=["ablation", "temperature"], root="reid-data", set=[])


@pytest.fixture
def module(monkeypatch, torchreid):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load(ROOT / "benchmarks" / "market1501_stage.py")


@pytest.fixture
def images(module, tmp_path):
    """Four images, whose first view is 0 and whose second is 1."""
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.full((4, 96, 8, 4), float(name == "b"), np.float32))
    rows = [(f"{n}.jpg", n // 2, n % 2, 0) for n in range(4)]
    files = [tmp_path / f"{name}.npy" for name in ("a", "b")]
    return module.Activations(SimpleNamespace(data=rows, mode="train"), *files)


def test_the_network_goes_on_where_the_first_stages_end(module):
    import torchreid_spectral as ts

    torch.manual_seed(0)
    model = ts.build_model("spectral_osnet_x0_25", 4, pretrained=False).eval()
    pictures = torch.rand(3, 3, 128, 64)
    with torch.inference_mode():
        expected = model(pictures)
        entered = nn.Sequential(*(getattr(model, name) for name in module.TRUNK))(pictures)
        assert entered.shape == (3, 96, 8, 4)
        for layer in module.TRUNK:
            setattr(model, layer, nn.Identity())
        assert torch.equal(model(entered), expected)


def test_an_image_or_its_mirror_image_is_drawn(images):
    torch.manual_seed(0)
    drawn = [images[3] for _ in range(32)]
    assert {float(item["img"].mean()) for item in drawn} == {0.0, 1.0}
    assert (drawn[0]["impath"], drawn[0]["pid"], drawn[0]["camid"]) == ("3.jpg", 1, 1)


def test_features_are_of_the_images_themselves(module, images):
    found, pids, camids = module.features(nn.Flatten(), images)
    assert (found.shape, found.max()) == ((4, 96 * 8 * 4), 0.0)
    assert (pids, camids) == ([0, 0, 1, 1], [0, 1, 0, 1])


def test_the_engine_reads_what_is_stored(module, tmp_path):
    from torchreid_spectral.data.loading import EpochLoader

    rows = [(f"{n}.jpg", n, 0, 0) for n in range(4)]
    original = DataLoader(SimpleNamespace(data=rows, mode="train"), 2, sampler=[3, 0, 1],
                          drop_last=True)  # fmt: skip
    args = argparse.Namespace(out=tmp_path)
    for value, part in enumerate(module.PARTS):
        np.save(module.stored(args, part), np.full((4, 96, 8, 4), value, np.float32))
    loaders = {"query": original, "gallery": original}
    data = SimpleNamespace(train_loader=original, test_loader={"market1501": loaders})
    data = module.feed(args, data)
    (batch,) = EpochLoader(data.train_loader)
    assert (batch["pid"].tolist(), batch["img"].shape) == ([3, 0], (2, 96, 8, 4))
    (batch,) = EpochLoader(data.test_loader["market1501"]["gallery"])
    assert batch["img"].unique().tolist() == [module.PARTS.index("gallery")]


def test_a_training_differs_from_small_by_what_it_reads(module, tmp_path):
    args = argparse.Namespace(**vars(ARGS), out=tmp_path)
    cfg = module.configured(args, "temperature_0.05", 3)
    assert (cfg.spectral.temperature, cfg.train.seed, cfg.train.max_epoch) == (0.05, 3, 26)
    assert (cfg.train.batch_size, cfg.sampler.num_instances, cfg.data.height) == (128, 8, 128)
