"""Tests of report.html and its parts."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.test_spectral_net import backbone_names, images
from tests.tools.test_main import load_tool
from torchreid_spectral.evaluation import QueryResults, evaluate_queries
from torchreid_spectral.inference.calibration import Calibration
from torchreid_spectral.report import activation, embedding, figures, lists
from torchreid_spectral.report.page import Section, data_url, render, text_table
from torchreid_spectral.report.run import RunReport, Tested, batch_features, write_report
from torchreid_spectral.rerank import build_reranker

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
main = load_tool("main").main


def tested(pictures, seed=0):
    """Features that are a person's axis plus noise, so that some queries are easy."""
    rng = np.random.default_rng(seed)
    pids = sorted({row[1] for row in pictures})
    axes = rng.normal(size=(len(pids), 16))
    features = torch.from_numpy(np.stack(
        [axes[pids.index(row[1])] + 1.2 * rng.normal(size=16) for row in pictures]
    ).astype(np.float32))  # fmt: skip
    query, gallery = pictures[::3], [row for i, row in enumerate(pictures) if i % 3]
    parts = features[::3], features[[i for i in range(len(pictures)) if i % 3]]
    views = {"none": build_reranker("none"), "local_blurring": build_reranker("local_blurring")}
    metrics = {}
    for name, method in views.items():
        method.fit(parts[1])
        ids = [np.array([row[c] for row in part]) for c in (1, 2) for part in (query, gallery)]
        found = evaluate_queries(method.distance_matrix(parts[0]).numpy(), *ids)
        metrics[name] = QueryResults.mean([found])
    return Tested(parts[0], query, gallery, views, metrics)


@pytest.fixture(scope="module")
def pictures(data_root):
    from torchreid_spectral.data.synthetic import list_images

    folder = data_root / "synthetic_pedestrians"
    return list_images(folder / "bounding_box_test") + list_images(folder / "query")


def test_page_is_self_contained_and_escapes():
    page = render("a < b", "it & co", [Section("key", "T<i>tle", "te&xt", "<p>x</p>", ["n<ote"])])
    assert "a &lt; b" in page and "T&lt;i&gt;tle" in page and "te&amp;xt" in page
    assert 'href="#key"' in page and 'id="key"' in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert "<td>&lt;x&gt;</td>" in text_table(["h"], [["<x>"]])
    assert data_url(Image.new("RGB", (9, 9))).startswith("data:image/jpeg;base64,")


def test_report_of_features_has_every_panel(torchreid, pictures, tmp_path):
    found = tested(pictures)
    base = torch.randn(400, 16)
    report = RunReport("title", {"demo": found}, method="ours",
                       baseline=("baseline", lambda paths: base[: len(paths)]))  # fmt: skip
    text = write_report(report, tmp_path).read_text()
    for key in ("results", "embedding", "lists", "distances", "facts"):
        assert f'<section id="{key}">' in text
    assert "could not be drawn" not in text
    for title in ("(a) baseline", "(b) ours", "(c) + local blurring"):
        assert f"<!-- {title} -->" in text
    assert text.count("<details") == 6 and "✓ right" in text and "✗ wrong" in text
    for name in ("bars", "cmc", "embedding", "distances"):
        assert (tmp_path / "report" / f"{name}.svg").read_text().count("<svg") == 1
        assert Image.open(tmp_path / "report" / f"{name}.png").width > 300
    assert not re.findall(r"(?:src|href)=\"https?:", text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_method_stands_alone_without_a_baseline(torchreid, pictures, tmp_path):
    report = RunReport("title", {"demo": tested(pictures)}, method="+ random walk")
    text = write_report(report, tmp_path).read_text()
    assert "<!-- (a) random walk -->" in text and "<!-- (b) + local blurring -->" in text


def test_threshold_says_what_passes_it():
    same, different = np.linspace(0, 0.5, 50), np.linspace(0.3, 1, 1000)
    known = Calibration(0.301, 0.001, 0.62, 0.001, 50, 1000)
    figure = figures.histogram(same, different, known, "cosine")
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[-1] == "threshold 0.301: 62.0 % of the same pass, 0.1 % of different"
    assert len(figures.histogram(same, different, None, "cosine").legends[0].get_texts()) == 2


def test_a_failing_figure_costs_nothing_else(torchreid, pictures, tmp_path, monkeypatch, caplog):
    def broken(*args):
        raise MemoryError("no room")

    monkeypatch.setattr(embedding, "embed", broken)
    text = write_report(RunReport("t", {"demo": tested(pictures)}), tmp_path).read_text()
    assert "This figure could not be drawn: no room" in text
    assert '<section id="lists">' in text


def test_worst_and_best_queries():
    precision = np.array([0.9, np.nan, 0.1, 0.5, 1.0, 0.3])
    assert lists.choose_queries(precision, 2) == {"worst": [2, 5], "best": [4, 0]}
    assert lists.choose_queries(precision[:1], 2) == {"worst": [0], "best": []}


def test_rank_changes_are_written_and_own_camera_left_out(tmp_path):
    rows = []
    for index, (pid, camid) in enumerate([(1, 0), (2, 1), (1, 1), (3, 0), (1, 2)]):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (8, 16), (40 * index, 0, 0)).save(path)
        rows.append((str(path), pid, camid))
    orders = {"none": {0: [0, 1, 2, 3]}, "walk": {0: [2, 0, 1, 4]}}
    precision = {"none": np.array([0.5]), "walk": np.array([1.0])}
    text = lists.ranked_lists({"best": [0]}, precision, orders, [rows[0]], rows)
    cards = re.findall(r"<b>([^<]+)</b>([^<]*)</div>", text)
    before, after = cards[1:4], cards[5:]
    assert before == [("1 ✗ wrong", ""), ("2 ✓ right", ""), ("3 ✗ wrong", "")]
    assert after == [("1 ✓ right", " ▲1"), ("2 ✗ wrong", " ▼1"), ("3 ✓ right", " new")]
    assert "plain distance 50 %, walk 100 %" in text


QUICK = {"resnet18", "osnet_x0_25", "mobilenetv2_x1_0", "shufflenet", "squeezenet1_0", "mlfn",
         "densenet121", "pcb_p6", "resnet50mid", "se_resnet50", "hacnn", "shufflenet_v2_x0_5",
         "nasnsetmobile", "xception"}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
     for name in backbone_names()],
)  # fmt: skip
def test_activation_maps_of_every_backbone(torchreid, name):
    import torchreid_spectral as ts

    torch.manual_seed(0)
    model = ts.build_model(f"spectral_{name}", 4, pretrained=False)
    maps = activation.activation_maps(model, images(name, batch=2))
    assert maps.shape[0] == 2 and min(maps.shape[1:]) > 1
    assert float(maps.amin()) == 0 and float(maps.amax()) == 1
    assert model.training and not any(m._forward_hooks for m in model.modules())


def test_activation_map_of_hacnn_is_of_the_whole_image(torchreid):
    import torchreid_spectral as ts

    model = ts.build_model("spectral_hacnn", 4, pretrained=False).eval()
    found, pixels = [], images("hacnn", batch=2)
    model.inception3.register_forward_hook(lambda *args: found.append(args[-1]))
    maps = activation.activation_maps(model, pixels)
    energy = found[0].square().sum(1).detach()
    low, high = energy.amin((1, 2), keepdim=True), energy.amax((1, 2), keepdim=True)
    torch.testing.assert_close(maps, (energy - low) / (high - low))


def test_activation_map_is_the_energy_of_the_last_map():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d((2, 2)),
        torch.nn.Flatten(),
    )  # fmt: skip
    images = torch.randn(2, 3, 6, 5)
    energy = (model[1](model[0](images)) ** 2).sum(1)
    expected = torch.stack([(e - e.min()) / (e.max() - e.min()) for e in energy])
    torch.testing.assert_close(activation.activation_maps(model, images), expected)
    with pytest.raises(ValueError, match="no layer that gives a feature map"):
        activation.activation_maps(torch.nn.Flatten(), images)


def test_attention_rows_of_pixels():
    from torchreid_spectral.layers import SpectralAttention

    layer = SpectralAttention(4, over="pixels")
    x = torch.randn(2, 4, 3, 5)
    rows, centre = activation.attention_rows(torch.nn.Sequential(layer), x)
    assert rows.shape == (2, 3, 5) and centre == (1, 2)
    tokens = torch.nn.functional.normalize(x.flatten(2).mT, dim=-1)
    expected = torch.softmax(tokens @ tokens.mT / 0.1, -1)[:, 1 * 5 + 2].reshape(2, 3, 5)
    expected = expected / expected.amax((1, 2), keepdim=True)
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5)
    assert activation.attention_rows(torch.nn.Conv2d(4, 4, 1), x) is None


def test_mark_is_drawn_at_its_cell():
    plain = Image.new("RGB", (60, 120), (90, 90, 90))
    heat = np.zeros((4, 3))
    marked = np.asarray(activation.overlay(plain, heat, (1, 2)), int)
    changed = np.argwhere(marked != np.asarray(activation.overlay(plain, heat), int))
    assert changed[:, :2].mean(0) == pytest.approx((1.5 * 30, 2.5 * 20), abs=1)


def test_batch_is_fixed_and_draws_nothing(torchreid, pictures):
    import torchreid_spectral as ts

    model = ts.build_model("spectral_osnet_x0_25", 4, pretrained=False)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    pixels = ((0.5,) * 3, (0.5,) * 3)
    features, labels = batch_features(model, pictures, (64, 32), pixels)
    again, _ = batch_features(model, pictures, (64, 32), pixels)
    torch.testing.assert_close(features, again)
    assert (np.diff(labels) >= 0).all() and len(labels) == len(features)
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.fixture(scope="module")
def trained(torchreid, tiny_options, tmp_path_factory):
    """A trained run with its report."""
    folder = tmp_path_factory.mktemp("trained")
    options = [*tiny_options, "model.name", "spectral_osnet_x0_25", "rerank.local_blurring.k", "5",
               "report.ranked_lists", "0", "report.html", "True", "train.max_epoch", "2",
               "model.attention", "[{'after': 'conv3', 'over': 'pixels'}]"]  # fmt: skip
    config = ["--config-file", "configs/spectral_demo.yaml"]
    assert main([*config, *options, "data.save_dir", str(folder)]) == 0
    return folder


def test_written_after_training_and_again_from_the_folder(trained, tmp_path, capsys):
    text = (trained / "report.html").read_text()
    assert "could not be drawn" not in text
    for key in ("results", "embedding", "lists", "distances", "activation", "training", "batch"):
        assert f'<section id="{key}">' in text, key
    for title in ("before training", "early: after epoch 1", "after training"):
        assert f"<!-- {title} -->" in text
    assert "Where the marked pixel attends to" in text
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    (copy / "report.html").unlink()
    metrics = (copy / "metrics.json").read_text()
    assert load_tool("report").main([str(copy), "--baseline", str(trained)]) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")
    again = (copy / "report.html").read_text()
    assert "could not be drawn" not in again
    assert re.findall("<section id[^>]+>", again) == re.findall("<section id[^>]+>", text)
    assert (copy / "metrics.json").read_text() == metrics
    tables = [re.search("<table>.*?</table>", page).group(0) for page in (text, again)]
    assert tables[0] == tables[1]


VIDEO = {"num_train_ids": 4, "num_test_ids": 6, "num_cameras": 3, "tracklets_per_id": 5,
         "min_frames": 2, "max_frames": 4, "height": 64, "width": 32}  # fmt: skip


FRAMES = "[{'after': 'conv4', 'over': 'frames'}]"


@pytest.mark.parametrize("attention", ["[]", pytest.param(FRAMES, marks=pytest.mark.slow)])
def test_report_of_tracklets(torchreid, tmp_path, capsys, attention):
    pairs = {
        "data.root": tmp_path / "data", "data.save_dir": tmp_path / "log", "data.workers": 0,
        "train.max_epoch": 1, "train.batch_size": 8, "sampler.num_instances": 4,
        "video.seq_len": 2, "report.ranked_lists": 0, "model.attention": attention,
        **{f"synthetic_video.{key}": value for key, value in VIDEO.items()},
    }  # fmt: skip
    options = [str(part) for pair in pairs.items() for part in pair]
    assert main(["--config-file", "configs/spectral_video_demo.yaml", *options]) == 0
    text = (tmp_path / "log" / "report.html").read_text()
    assert "could not be drawn" not in text
    found = set(re.findall('<section id="([a-z]+)">', text))
    of_images = {"activation", "batch"}  # attention between frames takes no single image
    expected = {"results", "embedding", "lists", "distances", "training", "facts"}
    assert found == expected | (of_images if attention == "[]" else set())
    assert "shown by their first frame" in text
    (tmp_path / "log" / "report.html").unlink()
    assert load_tool("report").main([str(tmp_path / "log")]) == 0
    again = (tmp_path / "log" / "report.html").read_text()
    assert set(re.findall('<section id="([a-z]+)">', again)) == found


def test_weights_open_alone_with_their_state(trained, tmp_path, pictures):
    """What a training saves says itself what it is of."""
    from torchreid_spectral import SpectralReID

    for name in ("last.safetensors", "last.state.pt"):
        place = tmp_path / "deep" / "er" / "still" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(trained / "checkpoints" / name, place)
    alone = SpectralReID(place.with_name("last.safetensors"), device="cpu")
    assert (alone.settings.model_name, alone.settings.height) == ("spectral_osnet_x0_25", 64)
    whole = SpectralReID(trained, device="cpu")
    assert whole.fingerprint == alone.fingerprint
    path = pictures[0][0]
    np.testing.assert_allclose(alone.features(path), whole.features(path), atol=1e-6)


def test_report_tool_rejects(tmp_path, capsys):
    assert load_tool("report").main([str(tmp_path)]) == 2
    assert "is no log folder of a run" in capsys.readouterr().err
    (tmp_path / "metrics.json").write_text(json.dumps({"config": {}}))
    assert load_tool("report").main([str(tmp_path)]) == 2
    assert "holds no weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["data.targets", "[market1501]"], "Dataset market1501 was not found"),
        (["data.targets", "[markt1501]"], "Did you mean market1501"),
    ],
)
def test_a_report_of_data_that_is_not_there(trained, tmp_path, capsys, given, message):
    root = tmp_path / "nowhere"
    command = [str(trained), "--root", str(root), "--set", *given]
    assert load_tool("report").main(command) == 2
    assert message in capsys.readouterr().err
    assert not root.exists()  # torchreid would begin a download


def test_report_never_costs_a_training(torchreid, tiny_options, tmp_path, monkeypatch, capsys):
    from torchreid_spectral.config import report

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(report, "write_report", broken)
    monkeypatch.setattr(report, "batch_features", broken)
    options = [*tiny_options, "model.name", "osnet_x0_25", "report.html", "True"]
    assert main([*options, "data.save_dir", str(tmp_path)]) == 0
    assert (tmp_path / "metrics.json").is_file()
    assert not (tmp_path / "report.html").exists()


def test_epochs_are_those_that_were_trained():
    from torchreid_spectral.config.report import _epochs

    assert _epochs({}, 7) == {"epochs": 7}  # train.patience may have ended it
    assert _epochs({}, 0) == {}  # weights of elsewhere
    assert _epochs({"epochs": 48}, 0) == {"epochs": 48}  # drawn again


@pytest.mark.parametrize("name", ["none", "graph_walk", "k_reciprocal"])
def test_precision_of_some_queries_is_that_of_the_test(pictures, monkeypatch, name):
    """The graph of a joint re-ranker is made by all queries of the call."""
    from torchreid_spectral.report import run as module

    found = tested(pictures)
    method = build_reranker(name).fit(found.views["none"].gallery)
    found = replace(found, views={name: method})
    ids = [np.array([row[c] for row in part]) for c in (1, 2)
           for part in (found.query, found.gallery)]  # fmt: skip
    expected = evaluate_queries(method.distance_matrix(found.features).numpy(), *ids)
    rows = np.arange(0, len(found.query), 2)
    precision = module._precision(found, name, rows)
    np.testing.assert_allclose(precision, expected.average_precision[rows], atol=1e-5)
    monkeypatch.setattr(module, "MAX_QUERIES", 6)
    assert f"Of {len(found.query)} queries 6, evenly spaced" in module._lists(found)
