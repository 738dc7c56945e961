"""Tests of torchreid_spectral.engine.whitening."""

import json

import pytest
import torch

from tests.references.whitening import covariance
from tools.main import main
from torchreid_spectral.engine.whitening import training_loader

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def run(tiny_options, folder, *options):
    base = ["--config-file", "configs/spectral_demo.yaml", *tiny_options, "report.ranked_lists",
            "0", "data.save_dir", str(folder)]  # fmt: skip
    assert main([*base, *options]) == 0
    return json.loads((folder / "metrics.json").read_text())["metrics"]["synthetic_pedestrians"]


def test_by_config(torchreid, tiny_options, tmp_path):
    plain = run(tiny_options, tmp_path / "plain")
    figures = {}
    for method in ("pca", "zca", "iterative"):
        folder = tmp_path / method
        figures[method] = run(tiny_options, folder, "test.whitening", method)
    weights = [
        torch.load(tmp_path / name / "model" / "model.pth.tar-1")["state_dict"]
        for name in ("plain", "zca")
    ]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert figures["zca"]["none"] != plain["none"]
    assert figures["pca"]["none"]["mAP"] == pytest.approx(figures["zca"]["none"]["mAP"], abs=1e-6)
    assert list(figures["iterative"]) == list(plain)


def test_fitted_on_the_training_set_as_it_is_tested(torchreid, tiny_options, tmp_path):
    import argparse

    from tools.main import effective_config
    from torchreid_spectral.config import build
    from torchreid_spectral.config.assemble import assemble
    from torchreid_spectral.engine.whitening import fit_whitening
    from torchreid_spectral.evaluation import Whitening

    args = argparse.Namespace(
        config_file="configs/spectral_demo.yaml", root="", sources=None, targets=None,
        transforms=None, opts=[*tiny_options, "use_gpu", "False", "data.save_dir", str(tmp_path)],
    )  # fmt: skip
    cfg = effective_config(args)
    with build.active_defaults(cfg):
        engine = assemble(cfg)
    state = torch.random.get_rng_state()
    loader = training_loader(engine)
    batches = list(loader)
    shown = torch.cat([batch["img"] for batch in batches])
    assert len(shown) == len(engine.datamanager.train_loader.dataset.train) == 64
    again = torch.cat([batch["img"] for batch in training_loader(engine)])
    assert torch.equal(shown, again)  # no augmentation
    torch.random.set_rng_state(state)
    whitening = Whitening("zca", eps=1e-6)
    fit_whitening(engine, whitening, normalized=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    engine.set_model_mode("eval")
    with torch.no_grad():
        features = engine.model(shown)
    mean, _ = covariance(whitening.transform(features).double().numpy())
    assert abs(mean).max() < 1e-3


def test_unknown_method(torchreid, capsys):
    assert main(["test.whitening", "zcaa"]) == 2
    assert "Unknown test.whitening 'zcaa'. Did you mean zca" in capsys.readouterr().err
    assert main(["test.whitening", "zca", "test.whitening_eps", "-1.0"]) == 2
    assert "eps and iterations must be >= 0" in capsys.readouterr().err
