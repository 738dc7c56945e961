"""Tests of benchmarks/whitening.py."""

import json

import numpy as np
import pytest

from tests.test_benchmarks_market1501 import ROOT, load


@pytest.fixture
def module(monkeypatch, torchreid):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load(ROOT / "benchmarks" / "whitening.py")


class People:
    """A network whose features say who it is, under a direction of large variance."""

    def __init__(self, folder, **options):
        assert options["whitening"] is False
        self.rng = np.random.default_rng(0)

    def features(self, paths, **_):
        people = [int(path.split("_")[0]) for path in paths]
        features = np.eye(12, dtype=np.float32)[people]
        noise = self.rng.normal(size=(len(paths), 12)).astype(np.float32)
        noise[:, 11] *= 20
        return features + 0.1 * noise


def images(people, cameras):
    rows = [(f"{pid}_{camera}", pid, camera) for pid in people for camera in cameras]
    return tuple(map(list, zip(*rows)))


def test_networks_are_measured_with_and_without(module, monkeypatch, tmp_path, capsys):
    import torchreid_spectral.inference as inference

    monkeypatch.setattr(inference, "SpectralReID", People)
    monkeypatch.setattr(module, "trained", lambda root: images(range(6), range(8)))
    both = images(range(6, 11), [0]), images(range(6, 11), range(1, 6))
    monkeypatch.setattr(module, "market", lambda root: both)
    saved = {"config": {"model": {"name": "m", "load_weights": "w.pth"}, "train": {"seed": 3}},
             "epochs": 2, "commit": "abc"}  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(saved))
    out = tmp_path / "whitening.json"
    assert module.main([f"one={tmp_path}", "--json", str(out)]) == 0
    assert module.main([f"two={tmp_path}", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [*rows] == ["one", "two"]
    row = rows["one"]
    assert row["trained"] == {"epochs": 2, "seed": 3, "weights": "w.pth"}
    found = [(each["covariance"], each["eps"]) for each in row["figures"]]
    assert found == [(None, None), *((name, eps) for name in ("total", "within")
                                     for eps in module.EPS)]  # fmt: skip
    figures = {pair: each["none"]["mAP"] for pair, each in zip(found, row["figures"])}
    assert figures[None, None] < 0.8 < 0.95 < figures["within", 0.001]
    assert set(row["figures"][0]) == {"covariance", "eps", *module.METHODS}
    with pytest.raises(SystemExit):
        module.main([str(tmp_path), "--json", str(out)])
