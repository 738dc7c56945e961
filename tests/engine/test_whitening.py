"""Tests of torchreid_spectral.engine.whitening."""

import copy
import json

import numpy as np
import pytest
import torch

from tests.references.whitening import covariance
from tools.main import main
from torchreid_spectral.engine.whitening import training_loader
from torchreid_spectral.errors import InputError
from torchreid_spectral.evaluation import Whitening
from torchreid_spectral.functional import whiten
from torchreid_spectral.models.whitened import FILE, add_whitening, save_whitening

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
        figures[method] = run(
            tiny_options,
            folder,
            "test.whitening",
            method,
            "test.whitening_covariance",
            "total",
            "test.whitening_eps",
            "1e-3",
        )
    weights = [
        torch.load(tmp_path / name / "model" / "model.pth.tar-1")["state_dict"]
        for name in ("plain", "zca")
    ]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert figures["zca"]["none"] != plain["none"]
    assert figures["pca"]["none"]["mAP"] == pytest.approx(figures["zca"]["none"]["mAP"], abs=1e-6)
    assert list(figures["iterative"]) == list(plain)
    assert not (tmp_path / "plain" / FILE).exists()


def test_fitted_on_the_training_set_as_it_is_tested(torchreid, tiny_options, tmp_path):
    import argparse

    from tools.main import effective_config
    from torchreid_spectral.config import build
    from torchreid_spectral.config.assemble import assemble
    from torchreid_spectral.engine.whitening import fit_whitening

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
    fit_whitening(engine, whitening)
    assert torch.equal(torch.random.get_rng_state(), state)
    engine.set_model_mode("eval")
    with torch.no_grad():
        features = engine.model(shown)
    mean, _ = covariance(whitening.transform(features).double().numpy())
    assert abs(mean).max() < 1e-3
    identities = torch.cat([batch["pid"] for batch in batches])
    whitening = Whitening("zca", eps=1e-3, covariance="within")
    fit_whitening(engine, whitening)
    expected = Whitening("zca", eps=1e-3, covariance="within").fit(features, identities)
    torch.testing.assert_close(whitening.fitted, expected.fitted)


@pytest.mark.parametrize("options", [[], ["test.flip", "True", "test.normalize_feature", "True"]])
def test_who_opens_the_run_has_the_features_of_its_test(
    torchreid, tiny_options, tmp_path, monkeypatch, caplog, options
):
    """Searched with or exported, the weights give whitened features; others' are not taken."""
    from torchreid_spectral.engine import outcome
    from torchreid_spectral.inference import SpectralReID, open_model
    from torchreid_spectral.inference.export import export
    from torchreid_spectral.models.feature_weights import feature_digest

    tested = []
    monkeypatch.setattr(outcome, "draw", lambda engine, answers, *_: tested.append(answers))
    run(tiny_options, tmp_path / "run", "test.whitening", "zca", *options)
    (answers,) = tested
    reid = SpectralReID(tmp_path / "run", device="cpu")
    paths = [row[0] for row in answers.images[0]]
    found = reid.features(paths)
    np.testing.assert_allclose(found, answers.query.numpy(), rtol=1e-3, atol=1e-4 * found.max())
    without = SpectralReID(tmp_path / "run", device="cpu", whitening=False)
    assert np.abs(without.features(paths) - found).max() > 0.01 * np.abs(found).max()
    assert without.fingerprint != reid.fingerprint  # their galleries do not go together
    model, settings = open_model(tmp_path / "run")
    content = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert feature_digest(model) == content["weights_sha256"]
    exported = export(model, settings, tmp_path / "alone.safetensors", form="safetensors")
    alone = SpectralReID(exported, device="cpu")
    assert alone.fingerprint == reid.fingerprint
    np.testing.assert_array_equal(alone.features(paths), found)
    assert not caplog.text.count("features are without it")
    save_whitening(tmp_path / "run", *Whitening().fit(torch.rand(9, 3)).fitted, "of others")
    plain = SpectralReID(tmp_path / "run", device="cpu")
    assert "no whitening.safetensors of these weights" in caplog.text
    assert plain.fingerprint == without.fingerprint
    with pytest.raises(InputError, match="test them with test.whitening, or open them without"):
        SpectralReID(tmp_path / "run", device="cpu", whitening=True)
    (tmp_path / "run" / FILE).write_bytes(b"broken")
    with pytest.raises(InputError, match="is broken .*Remove it, or test anew"):
        SpectralReID(tmp_path / "run", device="cpu")


def test_the_last_test_says_whether_features_are_whitened(torchreid, tiny_options, tmp_path):
    from torchreid_spectral.inference import open_model

    run(tiny_options, tmp_path)
    test = ["test.evaluate", "True", "model.resume", "auto"]
    assert not open_model(tmp_path)[1].whitening
    run(tiny_options, tmp_path, *test, "test.whitening", "zca")
    assert open_model(tmp_path)[1].whitening
    assert not open_model(tmp_path, whitening=False)[1].whitening
    run(tiny_options, tmp_path, *test)
    assert not open_model(tmp_path)[1].whitening and not (tmp_path / FILE).exists()


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_what_is_exported_whitens(torchreid, tmp_path, form):
    import torchreid_spectral as ts
    from torchreid_spectral.inference import Settings
    from torchreid_spectral.inference.export import export, model_card, onnx_difference
    from torchreid_spectral.inference.network import FeatureNetwork

    model = ts.build_model("spectral_osnet_x0_25", 3, pretrained=False).eval()
    plain, images = copy.deepcopy(model), torch.rand(3, 3, 64, 32)
    with torch.no_grad():
        features = model(images)
        fitted = Whitening("zca", eps=1.0).fit(torch.cat([features, -features])).fitted
        add_whitening(model, *fitted)
        whitened = model(images)
        torch.testing.assert_close(whitened, whiten(features, *fitted))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model.whitening(features).equal(whitened)
        scores, expected = (copy.deepcopy(each).train()(images) for each in (model, plain))
        torch.testing.assert_close(scores, expected)  # what a loss sees is left alone
    settings = Settings("spectral_osnet_x0_25", 64, 32, whitening=True)
    path = export(model, settings, tmp_path / f"model.{form}", form=form)
    network = FeatureNetwork(model)
    if form == "onnx":
        difference, largest = onnx_difference(path, network, images)
        assert difference < 1e-4 * largest
    else:
        torch.testing.assert_close(torch.jit.load(str(path))(images), whitened)
    assert "Feature: of the image, whitened" in model_card(settings, None, {}, "a file")


def test_unknown_method(torchreid, capsys):
    assert main(["test.whitening", "zcaa"]) == 2
    assert "Unknown test.whitening 'zcaa'. Did you mean zca" in capsys.readouterr().err
    assert main(["test.whitening", "zca", "test.whitening_covariance", "withn"]) == 2
    assert "Did you mean within" in capsys.readouterr().err
    assert main(["test.whitening", "zca", "test.whitening_eps", "-1.0"]) == 2
    assert "eps and iterations must be >= 0" in capsys.readouterr().err
