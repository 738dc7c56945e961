"""Tests of the engines: torchreid's stock ones with spectral models, ours, and reporting."""

import copy
import json
import logging
import math
import pickle
import shutil
import subprocess

import numpy as np
import pytest
import torch

import torchreid_spectral as ts
from torchreid_spectral import _compat
from torchreid_spectral.data.datasets import synthetic_defaults
from torchreid_spectral.data.synthetic import SyntheticSpec
from torchreid_spectral.engine import ImageSpectralEngine
from torchreid_spectral.engine.results import commit_of, commit_of_tool
from torchreid_spectral.engine.stock import ImageSoftmaxReportingEngine
from torchreid_spectral.errors import InputError
from torchreid_spectral.losses import (
    AMSoftmaxLoss,
    BatchHardTripletLoss,
    CombinedLoss,
    EscapeLoss,
)
from torchreid_spectral.models.feature_weights import feature_digest
from torchreid_spectral.rerank import build_reranker

from ..conftest import TINY

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture
def datamanager(torchreid, data_root):
    torchreid.utils.set_random_seed(1)
    with synthetic_defaults(SyntheticSpec(**TINY)):
        return torchreid.data.ImageDataManager(
            root=str(data_root),
            sources="synthetic_pedestrians",
            height=64,
            width=32,
            batch_size_train=16,
            batch_size_test=20,
            workers=0,
            num_instances=4,
            train_sampler="RandomIdentitySampler",
            use_gpu=False,
        )


def parts(torchreid, datamanager, name="spectral_osnet_x0_25", loss="softmax", **options):
    model = ts.build_model(
        name, datamanager.num_train_pids, loss=loss, pretrained=False, **options
    )
    optimizer = torchreid.optim.build_optimizer(model, optim="adam", lr=0.001)
    scheduler = torchreid.optim.build_lr_scheduler(optimizer, stepsize=5)
    return model, optimizer, scheduler


@pytest.mark.parametrize(("name", "loss"), [("Softmax", "softmax"), ("Triplet", "triplet")])
@pytest.mark.parametrize("model", ["spectral_osnet_x0_25", "spectral_pcb_p4"])
def test_stock_engines_train_spectral_models(
    torchreid, datamanager, tmp_path, capsys, name, loss, model
):
    network, optimizer, scheduler = parts(torchreid, datamanager, model, loss)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    engine = getattr(torchreid.engine, f"Image{name}Engine")(
        datamanager, network, optimizer, scheduler=scheduler, use_gpu=False
    )
    engine.run(save_dir=str(tmp_path), max_epoch=1, print_freq=1)
    shown = capsys.readouterr().out
    assert "mAP:" in shown
    assert any(not torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert (tmp_path / "model" / "model.pth.tar-1").exists()


def spectral_engine(torchreid, datamanager, options=(), **reporting):
    model, optimizer, scheduler = parts(torchreid, datamanager, loss="spectral", **dict(options))
    return ImageSpectralEngine(
        datamanager, model, optimizer, scheduler, use_gpu=False, progress=False, **reporting
    )


def test_spectral_engine_returns_and_saves_metrics(torchreid, datamanager, tmp_path):
    engine = spectral_engine(
        torchreid,
        datamanager,
        reranker=build_reranker("local_blurring", k=5),
        reranker_name="local_blurring",
        record={"seed": 1, "config": {"train": {"lr": 0.001}}},
        picture_queries=2,
    )
    commit = {"commit": "at-the-start"}  # the checkout may move on while a run trains
    engine.provenance = {**engine.provenance, **commit}
    result = engine.run(
        save_dir=str(tmp_path), max_epoch=2, print_freq=1, dist_metric="cosine", rerank=True
    )
    views = result.datasets["synthetic_pedestrians"]
    assert list(views) == ["none", "local_blurring"]
    assert 0 < views["none"].mAP < 1
    saved = json.loads((tmp_path / "metrics.json").read_text())
    numbers = saved["metrics"]["synthetic_pedestrians"]
    assert numbers["none"]["mAP"] == views["none"].mAP
    assert set(numbers["local_blurring"]) >= {"mAP", "rank-1", "rank-5", "rank-10", "rank-20"}
    assert saved["seed"] == 1 and saved["config"]["train"]["lr"] == 0.001
    assert saved["commit"] == "at-the-start"
    assert saved["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert saved["epochs"] == 2
    assert (tmp_path / "ranked_lists_synthetic_pedestrians.png").exists()
    assert float(result) == views["none"].rank(1)


def test_step_reports_losses_accuracies_and_escape(torchreid, datamanager):
    criterion = CombinedLoss(
        AMSoftmaxLoss(),
        metric_losses={"triplet": BatchHardTripletLoss(), "escape": EscapeLoss()},
        metric_weights={"triplet": 0.5},
        metric_on="both",
    )
    engine = spectral_engine(torchreid, datamanager, criterion=criterion)
    batch = next(iter(datamanager.train_loader))
    engine.set_model_mode("train")
    summary = engine.forward_backward(batch)
    parts = {"loss_id", "loss_triplet", "loss_escape"}
    assert set(summary) == parts | {"loss", "escape", "acc", "acc_walked"}
    expected = summary["loss_id"] + 0.5 * summary["loss_triplet"] + summary["loss_escape"]
    assert math.isclose(summary["loss"], expected, rel_tol=1e-5)
    assert 0 <= summary["escape"] <= 1


@pytest.mark.parametrize(
    ("supervision", "shown"),
    [("plain", {"acc"}), ("walked", {"acc_walked"}), ("plain_twice", {"acc", "acc_walked"})],
)
def test_every_supervision_trains(torchreid, datamanager, supervision, shown):
    engine = spectral_engine(torchreid, datamanager, {"supervision": supervision}.items())
    engine.set_model_mode("train")
    summary = engine.forward_backward(next(iter(datamanager.train_loader)))
    assert {name for name in summary if name.startswith("acc")} == shown


def test_training_lowers_the_loss_of_a_fixed_batch(torchreid, datamanager):
    engine = spectral_engine(torchreid, datamanager)
    engine.set_model_mode("train")
    batch = next(iter(datamanager.train_loader))
    losses = [engine.forward_backward(batch)["loss"] for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]


def test_evaluation_equals_torchreids(torchreid, datamanager, tmp_path):
    """The same figures as torchreid's own engine, matrix, sort and all."""
    model, optimizer, scheduler = parts(torchreid, datamanager, "osnet_x0_25")
    ours = ImageSoftmaxReportingEngine(
        datamanager, model, optimizer, scheduler=scheduler, use_gpu=False, progress=False
    )
    result = ours.run(save_dir=str(tmp_path), test_only=True, dist_metric="euclidean")
    features, pids, camids = {}, {}, {}
    model.eval()
    for part, loader in datamanager.test_loader["synthetic_pedestrians"].items():
        batches = list(loader)
        with torch.no_grad():
            features[part] = torch.cat([model(batch["img"]) for batch in batches])
        pids[part] = np.concatenate([batch["pid"] for batch in batches])
        camids[part] = np.concatenate([batch["camid"] for batch in batches])
    distances = torchreid.metrics.compute_distance_matrix(features["query"], features["gallery"])
    rank = _compat.submodule("metrics.rank")
    cmc, mean = rank.eval_market1501(
        distances.numpy(), pids["query"], pids["gallery"], camids["query"], camids["gallery"], 10
    )
    metrics = result.datasets["synthetic_pedestrians"]["none"]
    assert math.isclose(metrics.mAP, mean, rel_tol=1e-9)
    np.testing.assert_allclose(metrics.cmc[:10], cmc, atol=1e-6)


def test_a_run_without_scheduler_saves(torchreid, datamanager, tmp_path):
    model, optimizer, _ = parts(torchreid, datamanager, loss="spectral")
    engine = ImageSpectralEngine(datamanager, model, optimizer, use_gpu=False, progress=False)
    engine.run(save_dir=str(tmp_path), max_epoch=1)
    saved = torch.load(tmp_path / "model" / "model.pth.tar-1")
    assert set(saved) == {"state_dict", "epoch", "rank1", "optimizer"}


def test_rejects_models_that_give_no_cosines(torchreid, datamanager):
    model, optimizer, _ = parts(torchreid, datamanager, "osnet_x0_25")
    with pytest.raises(InputError, match="needs a spectral model, got OSNet"):
        ImageSpectralEngine(datamanager, model, optimizer)
    model, optimizer, _ = parts(torchreid, datamanager)
    with pytest.raises(InputError, match="loss='spectral', got one built with loss='softmax'"):
        ImageSpectralEngine(datamanager, model, optimizer)


def test_gallery_smaller_than_the_ranks(torchreid, datamanager, tmp_path):
    """Torchreid's engine fails with an IndexError."""
    engine = spectral_engine(torchreid, datamanager)
    result = engine.run(save_dir=str(tmp_path), test_only=True, ranks=[1, 5000])
    assert result.datasets["synthetic_pedestrians"]["none"].rank(5000) == 1.0


def test_a_failure_in_the_test_loses_no_training(torchreid, datamanager, tmp_path, monkeypatch):
    engine = spectral_engine(torchreid, datamanager)

    def broken(*args, **kwargs):
        raise OSError("no room")

    monkeypatch.setattr("torchreid_spectral.engine.testing.evaluate_blocks", broken)
    with pytest.raises(OSError, match="no room"):
        engine.run(str(tmp_path), 1)
    assert (tmp_path / "model" / "model.pth.tar-1").exists()


def test_a_picture_that_fails_costs_nothing(torchreid, datamanager, tmp_path, monkeypatch, caplog):
    engine = spectral_engine(torchreid, datamanager, picture_queries=2)

    def broken(*args, **kwargs):
        raise OSError("no picture")

    monkeypatch.setattr("torchreid_spectral.engine.outcome.draw_ranked_lists", broken)
    engine.run(str(tmp_path), test_only=True)
    assert (tmp_path / "metrics.json").exists()
    assert "ranked lists of synthetic_pedestrians failed: OSError: no picture" in caplog.text


@pytest.mark.parametrize("inductive", [False, True])
def test_pictures_show_what_was_measured(
    torchreid, datamanager, tmp_path, monkeypatch, caplog, inductive
):
    """Re-rankers are told cameras and mode by the pictures and the report as by the test."""
    from torchreid_spectral.config.report import _tested
    from torchreid_spectral.engine import outcome
    from torchreid_spectral.report import run

    asked = []
    reranker = build_reranker("graph_walk", cross_camera=2.0, k=4)
    plain = type(reranker)._blocks

    def noted(self, query, camids, inductive):
        asked.append((camids is not None and len(camids) == len(query), inductive))
        return plain(self, query, camids, inductive)

    monkeypatch.setattr(type(reranker), "_blocks", noted)
    monkeypatch.setattr(outcome._compat.load().utils, "visualize_ranked_results",
                        lambda *args, **kwargs: None)  # fmt: skip
    engine = spectral_engine(
        torchreid, datamanager, reranker=reranker, picture_queries=2, inductive=inductive
    )
    engine.run(str(tmp_path), test_only=True, rerank=True, dist_metric="cosine", visrank=True)
    assert (tmp_path / "ranked_lists_synthetic_pedestrians.png").exists()
    tested = _tested(*engine.tested["synthetic_pedestrians"])
    assert run._lists(tested)
    assert len(asked) >= 3 and set(asked) == {(True, inductive)}
    assert "failed" not in caplog.text


def test_normalized_cameras_are_a_view_beside_the_plain_one(torchreid, datamanager, tmp_path):
    """By config: the plain view stays as it is, the other is what the re-ranker gives alone."""
    from torchreid_spectral.config import build, get_default_config, merge_options
    from torchreid_spectral.evaluation import evaluate_blocks

    cfg = get_default_config()
    merge_options(cfg, ["test.dist_metric", "cosine", "rerank.method", "none",
                        "rerank.camera_normalization", "standardize"])  # fmt: skip
    reranker = build.build_rerank(cfg)
    name = reranker.label
    engine = spectral_engine(torchreid, datamanager, picture_queries=2, reranker=reranker,
                             reranker_name=name)  # fmt: skip
    engine.run(str(tmp_path), test_only=True, rerank=True, dist_metric="cosine")
    found = engine.result.datasets["synthetic_pedestrians"]
    assert list(found) == ["none", "none+standardize"]
    parts = [engine._extract(loader, "") for loader in
             engine.test_loader["synthetic_pedestrians"].values()]  # fmt: skip
    (query, pids, camids, _), (gallery, gallery_pids, gallery_camids, _) = parts
    for view, word in (("none", "none"), (name, "standardize")):
        method = build_reranker("none", camera_normalization=word).fit(gallery, gallery_camids)
        expected = evaluate_blocks(method.iter_distances(query, camids=camids), pids, gallery_pids,
                                   camids, gallery_camids)  # fmt: skip
        assert found[view].mAP == pytest.approx(expected.mAP)
    assert found["none"].mAP != found[name].mAP
    assert (tmp_path / "ranked_lists_synthetic_pedestrians.png").exists()


def test_distractors_are_nobody_in_the_report(torchreid, datamanager):
    engine = spectral_engine(torchreid, datamanager)
    gallery = engine.test_loader["synthetic_pedestrians"]["gallery"].dataset.dataset
    somebody = gallery.gallery[0][1]
    gallery._junk_pids = [somebody]
    engine.test(dist_metric="cosine")
    shown = [row[1] for row in engine.tested["synthetic_pedestrians"][2]]
    assert shown.count(-1) == sum(row[1] == somebody for row in gallery.gallery) > 0
    assert somebody not in shown


def test_each_dataset_keeps_its_own_gallery(torchreid, datamanager):
    """The report draws from them after the last test."""
    engine = spectral_engine(torchreid, datamanager, reranker=build_reranker("local_blurring"))
    first, second = (engine._views("cosine", True)["reranked"] for _ in range(2))
    first.fit(torch.rand(5, 3))
    second.fit(torch.rand(7, 3))
    assert len(first.gallery) == 5 and len(second.gallery) == 7


def test_what_is_saved_and_drawn_under_an_average_is_the_average(torchreid, datamanager, tmp_path):
    from torchreid_spectral.config.report import _network
    from torchreid_spectral.engine.options import TrainingOptions

    engine = spectral_engine(torchreid, datamanager)
    engine.options = TrainingOptions(ema_decay=0.5)
    engine.run(save_dir=str(tmp_path), max_epoch=1, print_freq=1, dist_metric="cosine")
    saved = _compat.load_checkpoint(tmp_path / "model" / "model.pth.tar-1")["state_dict"]
    average, raw = engine.average.module.state_dict(), engine.model.state_dict()
    assert _network(engine) is engine.average.module
    assert all(torch.equal(value, saved[name]) for name, value in average.items())
    assert any(not torch.equal(value, saved[name]) for name, value in raw.items())
    tested = json.loads((tmp_path / "metrics.json").read_text())["weights_sha256"]
    assert tested == feature_digest(engine.average.module) != feature_digest(engine.model)


def test_rerank_without_a_reranker_is_torchreids(torchreid, datamanager, tmp_path):
    engine = spectral_engine(torchreid, datamanager)
    result = engine.test(rerank=True, save_dir=str(tmp_path))
    assert (tmp_path / "metrics.json").exists()
    assert list(result.datasets["synthetic_pedestrians"]) == ["none", "k_reciprocal"]


def test_a_finished_run_is_tested_with_post_processing(torchreid, datamanager, tmp_path):
    reranker = build_reranker("local_blurring", k=5)
    engine = spectral_engine(torchreid, datamanager, reranker=reranker)
    result = engine.run(str(tmp_path), max_epoch=2, start_epoch=2, rerank=True)
    assert list(result.datasets["synthetic_pedestrians"]) == ["none", "reranked"]
    assert json.loads((tmp_path / "metrics.json").read_text())["epochs"] == 2


def test_ranks_beyond_fifty(torchreid, datamanager, tmp_path):
    from torchreid_spectral.engine.testing import _measure
    from torchreid_spectral.rerank import NoReranking

    gallery = [torch.arange(1.0, 201)[:, None], np.arange(200), np.ones(200)]
    query = [torch.zeros(1, 1), np.array([99]), np.zeros(1)]
    method = NoReranking(metric="euclidean").fit(gallery[0])
    metrics = _measure(method, query, gallery, 150, False, inductive=False)
    assert (metrics.rank(99), metrics.rank(100)) == (0.0, 1.0)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "top_k": 3}, {"heads": 2}])
@pytest.mark.parametrize("model", ["spectral_osnet_x0_25", "spectral_pcb_p4"])
def test_escape_is_of_the_graphs_that_are_walked_on(torchreid, datamanager, model, options):
    from tests.references import cut, layer

    network, optimizer, _ = parts(torchreid, datamanager, model, "spectral", **options)
    engine = ImageSpectralEngine(datamanager, network, optimizer, use_gpu=False, progress=False)
    engine.set_model_mode("train")
    seen = []
    for head in network.heads:
        head.walk.register_forward_hook(lambda module, args, out: seen.append(args[0].detach()))
    batch = next(iter(datamanager.train_loader))
    summary = engine.forward_backward(batch)
    graph = {"temperature": 0.1, **options}
    escapes = [
        cut.escape_probability(transition, batch["pid"].numpy())
        for x in seen
        for transition in layer.transitions(x.double().numpy(), **graph)
    ]
    assert len(seen) == len(network.heads)
    assert summary["escape"] == pytest.approx(np.mean(escapes), abs=1e-5)


def test_the_backbone_rests_in_the_first_epochs(torchreid, datamanager, tmp_path):
    """The freeze of torchreid finds the head and the pooling of a spectral model."""
    model, optimizer, _ = parts(
        torchreid, datamanager, loss="spectral", pooling="gem", neck="bnneck"
    )
    before = {key: value.clone() for key, value in model.named_parameters()}
    engine = ImageSpectralEngine(datamanager, model, optimizer, use_gpu=False, progress=False)
    engine.run(
        str(tmp_path), max_epoch=1, fixbase_epoch=1, open_layers=["classifier", "global_avgpool"]
    )
    moved = {key for key, value in model.named_parameters() if not torch.equal(before[key], value)}
    assert moved == {key for key in before if key.startswith(("classifier", "global_avgpool"))}


def test_a_tool_names_its_commit_only_where_its_package_runs(tmp_path, caplog):
    """An installed package may be an older state of the checkout."""
    checkout, installed = tmp_path / "checkout", tmp_path / "site" / "torchreid_spectral"
    package, tool = checkout / "torchreid_spectral", checkout / "tools" / "main.py"
    for file in (package / "__init__.py", package / "losses" / "one.py", tool):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a = 1\n")
    me = ["-c", "user.name=me", "-c", "user.email=me@here"]
    for command in (["init", "-q"], ["add", "-A"], [*me, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=checkout, check=True)
    commit = commit_of(str(tool))
    assert commit and commit_of_tool(str(tool), str(package)) == commit
    shutil.copytree(package, installed)
    assert commit_of_tool(str(tool), str(installed)) == commit and not caplog.records
    (installed / "losses" / "one.py").write_text("a = 2\n")
    assert commit_of_tool(str(tool), str(installed)) is None
    assert "differs from the checkout" in caplog.text
    moved = tmp_path / "elsewhere" / "tools" / "main.py"
    assert commit_of_tool(str(moved), str(installed)) is None


def test_a_result_is_the_number_that_torchreid_gives(torchreid, datamanager, tmp_path):
    result = spectral_engine(torchreid, datamanager).test("cosine", ranks=[1])
    rank1 = result.datasets["synthetic_pedestrians"]["none"].rank(1)
    assert result == rank1 and result >= 0.0 and f"{result:.1%}" == f"{rank1:.1%}"
    assert json.loads(json.dumps(result)) == rank1 and max(0.0, result) == rank1
    for twin in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert twin == result and twin.datasets.keys() == result.datasets.keys()
    state = {"state_dict": {}, "epoch": 1, "rank1": result}
    torchreid.utils.save_checkpoint(state, str(tmp_path))
    assert torchreid.utils.load_checkpoint(str(tmp_path / "model.pth.tar-1"))["rank1"] == rank1


def test_figures_are_shown_whatever_the_user_logs(torchreid, datamanager, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    spectral_engine(torchreid, datamanager).test()
    shown = capsys.readouterr().out
    assert "mAP: " in shown and "Rank-1" in shown


def test_what_is_given_by_position_is_what_it_is_in_torchreid(torchreid, datamanager, tmp_path):
    engine = spectral_engine(torchreid, datamanager)
    engine.test("cosine", True, False, 10, str(tmp_path), False, [1], True)
    saved = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    views = saved["synthetic_pedestrians"]
    assert list(views) == ["none", "k_reciprocal"] and "rank-5" not in views["none"]
    assert 0 < views["none"]["mINP"] < 1 > views["none"]["mAP"] > views["none"]["mAP_trapezoidal"]
    with pytest.raises(InputError, match="Unknown dist_metric 'l2'"):
        engine.test("l2")


def test_a_loop_of_the_users_own(torchreid, datamanager, capsys):
    engine = spectral_engine(torchreid, datamanager)
    for engine.epoch in range(2):
        engine.train(print_freq=1)
    assert "epoch: [2/2]" in capsys.readouterr().out


def test_loaders_given_later_are_taken(torchreid, datamanager, tmp_path, monkeypatch):
    engine = spectral_engine(torchreid, datamanager, picture_queries=1)
    theirs = datamanager.test_loader["synthetic_pedestrians"]
    engine.test_loader = {"extra": theirs}
    seen = []

    def collate(items):
        seen.append(len(items))
        return torch.utils.data.default_collate(items)

    engine.train_loader = torch.utils.data.DataLoader(
        datamanager.train_loader.dataset, batch_size=16, sampler=datamanager.train_loader.sampler,
        drop_last=True, collate_fn=collate,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert list(engine.test().datasets) == ["extra"] and not list(tmp_path.iterdir())
    result = engine.run(save_dir=str(tmp_path), max_epoch=1)
    assert list(result.datasets) == ["extra"] and seen
    assert len(engine.train_loader.dataset.train) == TINY["num_train_ids"] * 8


def test_a_head_at_rest_is_refused_in_scripts_too(torchreid, datamanager, tmp_path):
    engine = spectral_engine(torchreid, datamanager)
    with pytest.raises(InputError, match="leaves the classifier of a spectral model in eval"):
        engine.run(save_dir=str(tmp_path), max_epoch=2, fixbase_epoch=1, open_layers=["fc"])
