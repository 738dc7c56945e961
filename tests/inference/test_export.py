"""Tests of torchreid_spectral.inference.export and tools/export.py."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.tools.test_main import load_tool
from torchreid_spectral.errors import InputError
from torchreid_spectral.inference import Settings, SpectralReID, open_model
from torchreid_spectral.inference import export as module
from torchreid_spectral.inference.export import export, model_card
from torchreid_spectral.inference.images import to_tensor
from torchreid_spectral.inference.network import FeatureNetwork
from torchreid_spectral.inference.weights import read_config

onnxruntime = pytest.importorskip("onnxruntime")
FAST = ["resnet18", "osnet_x0_25", "mobilenetv2_x1_0", "squeezenet1_0"]
SLOW = ["densenet121", "mlfn", "resnet50mid", "se_resnet50", "osnet_ain_x0_25", "resnet50_ibn_a",
        "xception", "shufflenet_v2_x0_5", "shufflenet", "pcb_p6", "hacnn"]  # fmt: skip


def run_onnx(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})[0]


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_onnx_runtime_equals_pytorch(torchreid, tmp_path, name):
    import torchreid_spectral as ts

    torch.manual_seed(0)
    size = (160, 64) if name == "hacnn" else (128, 64)
    model = ts.build_model(f"spectral_{name}", 4, pretrained=False).eval()
    path = export(model, Settings("x", *size), tmp_path / "m.onnx", form="onnx")
    for batch in (1, 5):
        images = torch.randn(batch, 3, *size)
        with torch.no_grad():
            expected = model(images).numpy()
        found = run_onnx(path, images)
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_wrong_programs_are_not_kept(torchreid, tmp_path, monkeypatch):
    import torchreid_spectral as ts

    model = ts.build_model("spectral_squeezenet1_0", 4, pretrained=False).eval()
    monkeypatch.setattr(module, "_worst_difference", lambda *args: 1e-3)
    monkeypatch.setattr(module, "_export_onnx", lambda *args, **kwargs: None)
    with pytest.raises(InputError, match="differs from PyTorch by 1.0e-03"):
        export(model, Settings("x", 64, 32), tmp_path / "m.onnx", form="onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*jit.*deprecated:DeprecationWarning")
def test_tool_bakes_normalisation_in(weights, reid, pictures, tmp_path, capsys):
    tool = load_tool("export").main
    picture = pictures[0][0]
    expected = reid.features(picture)
    pixels = to_tensor(picture, 64, 32, (0, 0, 0), (1, 1, 1))[None]
    out = tmp_path / "model.onnx"
    arguments = [str(weights.parents[1]), "--format", "onnx", "--out", str(out)]
    assert tool([*arguments, "--normalization"]) == 0
    np.testing.assert_allclose(run_onnx(out, pixels), expected, rtol=1e-4, atol=1e-4)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["torchreid_spectral"])
    assert about["fingerprint"] == reid.fingerprint and about["normalization_inside"] is True
    assert (about["height"], about["width"], about["metric"]) == (64, 32, "cosine")
    card = (tmp_path / "model.onnx.md").read_text()
    for word in ("spectral_osnet_x0_25", "64 x 32", "Licence", "Not measured", "normalisation in"):
        assert word in card

    script = tmp_path / "model.pt"
    given = [str(weights), "--format", "torchscript", "--out", str(script), "--normalization"]
    assert tool(given) == 0
    assert (tmp_path / "model.onnx.md").read_text() == card
    assert "`model.pt` (torchscript" in (tmp_path / "model.pt.md").read_text()
    extra = {"torchreid_spectral": ""}
    loaded = torch.jit.load(str(script), _extra_files=extra)
    assert json.loads(extra["torchreid_spectral"]) == about
    for batch in (1, 3):
        found = loaded(pixels.expand(batch, -1, -1, -1)).detach().numpy()
        np.testing.assert_allclose(found[-1:], expected, rtol=1e-4, atol=1e-4)

    bare = tmp_path / "elsewhere" / "model.safetensors"
    given = [str(weights), "--format", "safetensors", "--out", str(bare)]
    assert tool(given) == 0
    again = SpectralReID(bare, device="cpu")
    np.testing.assert_allclose(again.features(picture), expected, atol=1e-6)
    assert again.fingerprint == reid.fingerprint
    capsys.readouterr()
    assert tool([*given, "--normalization"]) == 2
    assert "normalisation cannot be baked in" in capsys.readouterr().err
    assert tool([str(tmp_path), "--format", "onnx"]) == 2
    assert "holds no weights" in capsys.readouterr().err


def test_feature_network_is_the_formula(weights):
    model, settings = open_model(weights)
    images = torch.rand(2, 3, 64, 32)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in
                 (settings.mean, settings.std))  # fmt: skip
    with torch.no_grad():
        expected = model((images - mean) / std)
        found = FeatureNetwork(model, settings.mean, settings.std)(images)
        unit = FeatureNetwork(model, settings.mean, settings.std, unit=True)(images)
        pair = FeatureNetwork(model, settings.mean, settings.std, flip=True, unit=True)(images)
        both = expected + model((images.flip(3) - mean) / std)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(unit, expected / expected.norm(dim=1, keepdim=True))
    torch.testing.assert_close(pair, both / both.norm(dim=1, keepdim=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files_hold_the_mirror_image_where_the_run_was_tested_with_it(weights, tmp_path):
    model, settings = open_model(weights, flip=True)
    images = torch.rand(3, 3, 64, 32)
    with torch.no_grad():
        expected = (model(images) + model(images.flip(3))) / 2
    for form in ("onnx", "torchscript"):
        path = export(model, settings, tmp_path / form, form=form)
        found = (torch.from_numpy(run_onnx(path, images)) if form == "onnx"
                 else torch.jit.load(str(path))(images).detach())  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert "- Feature: mean of the image's and its mirror" in model_card(settings, None, {}, "f")


def test_model_card_shows_metrics():
    metrics = {"demo": {"none": {"mAP": 0.5, "rank-1": 0.75}}}
    config = {"data": {"sources": ["market1501"]}}
    card = model_card(Settings("m"), config, metrics, "`f`")
    assert "| demo | none | 50.0 | 75.0 |" in card and "Trained on: market1501" in card
    assert json.dumps(config, indent=1) in card and "Started from: not known" in card
    for model, words in (({"pretrained": False}, "random weights"), ({"load_weights": "w"}, "w")):
        assert f"Started from: {words}\n" in model_card(Settings("m"), {"model": model}, {}, "f")


class Fixed(torch.nn.Module):
    """Takes a size of its example for a constant, as some backbones do when they are traced."""

    def forward(self, x):
        return x.reshape(int(x.shape[0]) * 6, -1)[: len(x), :4].reshape(int(x.shape[0]), 4) + 1


def test_torchscript_that_takes_one_batch_size_only_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"TorchScript: with 1 images .*Export to onnx"):
        export(Fixed(), Settings("m", 4, 2), tmp_path / "m.pt", form="torchscript")
    assert not list(tmp_path.iterdir())


def test_a_card_shows_figures_of_the_weights_that_were_tested_only(tmp_path):
    from torchreid_spectral.models.feature_weights import feature_digest

    tested, of = torch.nn.Linear(2, 2), load_tool("export").metrics_of
    figures = {"demo": {"none": {"mAP": 0.5}}}
    weights = tmp_path / "checkpoints" / "best.safetensors"

    def shown(model=tested, flip=False, **test):
        config = {"model": {"name": "osnet_x0_25"}, "test": {"dist_metric": "cosine", **test}}
        content = {"metrics": figures, "config": config, "weights_sha256": feature_digest(tested)}
        (tmp_path / "metrics.json").write_text(json.dumps(content))
        return of(weights, model, Settings("osnet_x0_25", flip=flip))

    assert shown() == figures and shown(copy.deepcopy(tested)) == figures
    assert shown(torch.nn.Linear(2, 2)) == {}  # trained on since, or another file's
    assert shown(flip=True) == shown(whitening="zca") == {}
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": figures}))
    assert of(weights, tested, Settings("osnet_x0_25")) == {}
    assert of(tmp_path / "a" / "b" / "c" / "w.pth", tested, Settings("osnet_x0_25")) == {}


def test_safetensors_hold_the_settings_they_were_exported_with(weights, tmp_path):
    model, settings = open_model(weights, height=96, width=48, flip=True)
    out = tmp_path / "model.safetensors"
    export(model, settings, out, form="safetensors", config=read_config(weights))
    assert open_model(out)[1] == settings
    export(model, settings, out, form="safetensors")
    assert open_model(out)[1] == settings
    with pytest.raises(InputError, match="no distance euclidean"):
        export(model, replace(settings, metric="euclidean"), out, form="safetensors")


@pytest.mark.parametrize("options", [{}, {"last_stride": 2, "pooling": "gem", "stripes": 2}])
def test_options_given_by_hand_are_kept_in_safetensors(torchreid, tmp_path, options):
    import torchreid_spectral as ts

    torch.manual_seed(0)
    path, out = tmp_path / "foreign.pth", tmp_path / "model.safetensors"
    torch.save(ts.build_model("spectral_resnet18", 3, pretrained=False, **options).state_dict(),
               path)  # fmt: skip
    given = {"model_name": "spectral_resnet18", "height": 64, "width": 32, "options": options}
    model, settings = open_model(path, **given)
    export(model, settings, out, form="safetensors")
    images = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(open_model(out)[0](images), model(images))


@pytest.mark.parametrize("named", [True, False])
def test_what_is_exported_is_not_written_over(torchreid, tmp_path, capsys, named):
    import torchreid_spectral as ts

    path = tmp_path / "spectral_resnet18.safetensors"
    state = ts.build_model("spectral_resnet18", 3, pretrained=False).state_dict()
    safetensors.torch.save_file({name: each.contiguous() for name, each in state.items()}, path)
    before = path.read_bytes()
    command = [str(path), "--format", "safetensors", "--model-name", "spectral_resnet18",
               "--height", "64", "--width", "32"]  # fmt: skip
    assert load_tool("export").main([*command, *(["--out", str(path)] if named else [])]) == 2
    assert "is read here and would be lost" in capsys.readouterr().err
    assert path.read_bytes() == before
