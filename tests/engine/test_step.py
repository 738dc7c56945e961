"""Tests of the training step: chunks, precision, clipping, averages, early stopping."""

import importlib.util
import json
import math
import re
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

import torchreid_spectral as ts
from torchreid_spectral.config import build, engines, get_default_config, merge_options
from torchreid_spectral.engine.chunks import chunked_backward
from torchreid_spectral.engine.image import ImageSpectralEngine
from torchreid_spectral.engine.options import TrainingOptions
from torchreid_spectral.engine.progress import Progress, _follow_figure
from torchreid_spectral.errors import InputError, RunError

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
SPECTRAL = ["model.name", "spectral_osnet_x0_25", "loss.name", "spectral", "train.optim", "sgd"]


class Data:
    """A data manager of nothing: the batches are given by hand."""

    num_train_pids, sources, train_loader, test_loader = 4, [], None, {}


@pytest.fixture
def build_engine(torchreid, monkeypatch):
    from torchreid_spectral.engine.base import ReportingMixin

    monkeypatch.setattr(ReportingMixin, "_loader", lambda self, loader: loader)

    def make(*options, frozen=True, gpu=False):
        cfg = get_default_config()
        merge_options(cfg, [*SPECTRAL, *options])
        cfg.use_gpu = gpu
        torch.manual_seed(0)
        with build.active_defaults(cfg):
            model = ts.build_model(cfg.model.name, 4, cfg.loss.name, False, gpu)
            model = model.cuda() if gpu else model
            optimizer = build.build_optimizer(cfg, model)
            engine = engines.build_engine(cfg, Data, model, optimizer, None)
        model.train()
        for module in model.modules() if frozen else ():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
        return engine

    return make


def batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 3, 64, 32, generator=generator).to(dtype)
    return {"img": images, "pid": torch.arange(4).repeat_interleave(4), "impath": ["a.jpg"]}


def gradients(engine):
    return {name: p.grad for name, p in engine.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk", [3, 4, 16])
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["loss.metric", "['triplet']"],
        ["model.name", "spectral_pcb_p4"],
        ["model.name", "osnet_x0_25", "loss.name", "triplet", "loss.triplet.weight_x", "1.0"],
    ],
)
def test_chunks_give_the_gradient_of_the_whole_batch(build_engine, options, chunk):
    """The graph and the losses span the batch; BatchNorm and dropout are as in a test."""
    found = []
    for size in (0, chunk):
        engine = build_engine("train.lr", "0.0", "train.chunk_size", str(size), *options)
        for module in engine.model.double().modules():
            if isinstance(module, torch.nn.Dropout):  # PCB's draws other masks for chunks
                module.p = 0.0
        found.append((engine.forward_backward(batch(torch.float64)), gradients(engine)))
    (shown, whole), (shown_of_chunks, chunks) = found
    assert shown == pytest.approx(shown_of_chunks)
    assert whole.keys() == chunks.keys()
    largest = max(float(value.abs().max()) for value in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(chunks[name], value, rtol=0, atol=1e-9 * largest)


def test_accumulating_losses_of_chunks_would_be_another_graph(build_engine):
    """What the chunks are not: the sum of the chunks' own losses."""
    engine = build_engine("train.lr", "0.0")
    data = batch()
    whole = engine.forward_backward(data)["escape"]
    parts = [engine.forward_backward({"img": data["img"][rows], "pid": data["pid"][rows]})
             for rows in (slice(0, 8), slice(8, 16))]  # fmt: skip
    assert abs(sum(part["escape"] for part in parts) / 2 - whole) > 0.01


def test_chunks_count_batch_statistics_once(build_engine):
    engine = build_engine("train.chunk_size", "8", frozen=False)
    engine.forward_backward(batch())
    assert int(engine.model.conv1.bn.num_batches_tracked) == 2  # two chunks, once each


def test_a_teacher_and_chunks_do_not_go_together(build_engine):
    engine = build_engine("train.chunk_size", "8")
    engine.distillation = object()
    with pytest.raises(ValueError, match="does not go together with a teacher"):
        engine.forward_backward(batch())


def test_bf16_is_near_float32_and_keeps_the_graph_in_float32(build_engine):
    shown = [build_engine("train.amp", amp).forward_backward(batch()) for amp in ("off", "bf16")]
    assert shown[1]["loss"] == pytest.approx(shown[0]["loss"], rel=0.02)
    engine = build_engine("train.amp", "bf16")
    seen = []
    engine.compute_losses, compute = (
        lambda outputs, targets: (seen.append((outputs, torch.is_autocast_enabled("cpu"))),
                                  compute(outputs, targets))[1],
        engine.compute_losses,
    )  # fmt: skip
    engine.forward_backward(batch())
    (((scores, features), autocast),) = seen
    assert features.dtype == scores[0][0].dtype == torch.float32 and not autocast


@pytest.mark.parametrize("options", [["train.channels_last", "True"], ["train.compile", "eager"]])
def test_layout_and_compilation_change_no_loss(build_engine, monkeypatch, options):
    # The compiler cannot trace through the run-time type checker, which only tests have.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    plain = build_engine().forward_backward(batch())
    assert build_engine(*options).forward_backward(batch()) == pytest.approx(plain, rel=1e-4)


def test_the_gradient_is_clipped(build_engine):
    engine = build_engine("train.clip_norm", "0.01")
    engine.forward_backward(batch())
    norm = torch.stack([gradient.norm() for gradient in gradients(engine).values()]).norm()
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


def test_a_scaler_that_no_scale_helps_stops_the_run(build_engine):
    """Such steps change nothing: without an end to them a run would train no weight for days."""
    engine = build_engine()
    engine.prepare_step()
    engine.scaler = torch.amp.GradScaler("cpu")
    engine.model.classifier.prototypes.register_hook(lambda gradient: gradient * float("nan"))
    before = engine.model.classifier.prototypes.detach().clone()
    for _ in range(20):
        engine.forward_backward(batch())
    with pytest.raises(RunError, match=r"not finite in 21 steps under any scale.*a\.jpg"):
        engine.forward_backward(batch())
    assert torch.equal(engine.model.classifier.prototypes, before)


def test_bf16_chunks_are_near_the_whole_batch(build_engine):
    """The passes with and without gradient share one autocast: no weight is left out."""
    found = []
    for size in ("0", "4"):
        engine = build_engine("train.lr", "0.0", "train.amp", "bf16", "train.chunk_size", size)
        engine.forward_backward(batch())
        found.append(gradients(engine))
    whole, chunks = found
    assert whole.keys() == chunks.keys()
    for name, gradient in whole.items():
        assert (chunks[name] - gradient).norm() <= 0.1 * gradient.norm() + 1e-6, name


def test_the_average_of_the_weights(build_engine):
    engine = build_engine("train.ema_decay", "0.9", "train.lr", "0.1")
    name = "classifier.prototypes"
    seen = []
    for _ in range(3):
        engine.forward_backward(batch())
        seen.append(engine.model.state_dict()[name].clone())
    expected = seen[0]
    for value in seen[1:]:
        expected = 0.9 * expected + 0.1 * value
    torch.testing.assert_close(engine.average.module.state_dict()[name], expected)
    with engine._averaged_weights():
        assert engine.model is engine.average.module
    assert engine.model is not engine.average.module


def test_test_features_with_the_mirror_image(build_engine):
    engine = build_engine()
    engine.options = TrainingOptions(test_flip=True)
    engine.model.eval()
    images = batch()["img"][:2]
    with torch.no_grad():
        both = (engine.model(images) + engine.model(images.flip(-1))) / 2
        torch.testing.assert_close(engine._features(images), both)


def test_early_stopping_counts_worse_tests():
    progress = Progress()
    seen = [(progress.note_test(figure, 2), progress.finished) for figure in (0.3, 0.5, 0.4, 0.5)]
    assert seen == [(True, False), (True, False), (False, False), (False, True)]
    assert progress.best == 0.5


def run(tiny_options, folder, *more):
    spec = importlib.util.spec_from_file_location("tools_main", REPOSITORY / "tools" / "main.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    options = ["--config-file", "configs/spectral_demo.yaml", *tiny_options,
               "rerank.local_blurring.k", "5",
               "model.name", "spectral_osnet_x0_25", "report.ranked_lists", "0",
               "data.save_dir", str(folder), *more]  # fmt: skip
    return tool.main(options)


def test_a_run_stops_early_and_shows_its_graph(torchreid, tiny_options, tmp_path, capfd):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run(tiny_options, tmp_path, "train.max_epoch", "6", "test.eval_freq", "1",
               "train.patience", "1", "train.lr", "1e-9",
               "train.graph_every", "1", "spectral.learn_temperature", "True",
               "loss.metric", "['triplet']") == 0  # fmt: skip
    assert "epoch: [6/6]" not in capfd.readouterr().out
    assert (tmp_path / "checkpoints" / "best.safetensors").exists()
    saved = json.loads((tmp_path / "metrics.json").read_text())
    ended = saved["epochs"]
    assert saved["stopped_early"] and ended < 6
    assert run(tiny_options, tmp_path, "train.max_epoch", "6", "test.eval_freq", "1",
               "train.patience", "1", "train.lr", "1e-9", "train.graph_every", "1",
               "spectral.learn_temperature", "True", "loss.metric", "['triplet']",
               "model.resume", "auto") == 0  # fmt: skip
    assert json.loads((tmp_path / "metrics.json").read_text())["epochs"] == ended
    assert not (tmp_path / "model" / "model.pth.tar-6").exists()
    events = EventAccumulator(str(tmp_path)).Reload()
    scalars = set(events.Tags()["scalars"])
    steps = {"loss", "loss_id", "loss_triplet", "acc", "acc_walked", "escape", "lr",
             "images_per_second", "time", "data"}  # fmt: skip
    assert {f"Train/{name}" for name in steps} <= scalars
    assert {"Graph/ncut", "Graph/temperature_0"} <= scalars
    assert events.Tags()["images"] == ["Graph/affinity"]


def test_cached_images_train_the_same_weights(torchreid, tiny_options, tmp_path):
    from safetensors.torch import load_file

    found = []
    for cache in ("none", "ram", "disk"):
        folder = tmp_path / cache
        assert run(tiny_options, folder, "data.cache", cache) == 0
        found.append(load_file(folder / "checkpoints" / "last.safetensors"))
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())


def test_augmentation_on_the_device_goes_on_where_it_was(torchreid, tiny_options, tmp_path):
    from safetensors.torch import load_file

    how = ["data.augment", "device", "data.transforms",
           "['random_flip','random_crop','color_jitter','random_erase']"]  # fmt: skip
    for folder, epochs in (("whole", "2"), ("parts", "1"), ("parts", "2")):
        options = [*how, "train.max_epoch", epochs, "test.eval_freq", "1", "model.resume", "auto"]
        assert run(tiny_options, tmp_path / folder, *options) == 0
    whole, parts = (
        load_file(tmp_path / folder / "checkpoints" / "last.safetensors")
        for folder in ("whole", "parts")
    )
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_augmentation_on_the_device_has_no_patches(torchreid, tiny_options, tmp_path, capfd):
    how = ["data.augment", "device", "data.transforms", "['random_patch']"]
    assert run(tiny_options, tmp_path, *how) == 2
    assert "data.augment device has no RandomPatch" in capfd.readouterr().err


def test_the_same_seed_writes_the_same_log(torchreid, tiny_options, tmp_path):
    """Line for line, but for times and folders."""
    logs = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        options = ["train.max_epoch", "2", "test.eval_freq", "1", "data.workers", "2"]
        assert run(tiny_options, folder, *options) == 0
        (log,) = folder.glob("train.log*")
        text = log.read_text().replace(str(folder), "FOLDER")
        logs.append(re.sub(r"(time|data|eta|images/s) [\d.:]+( \([\d.]+\))?", r"\1", text))
    assert logs[0].count("epoch: [") >= 4 and "loss" in logs[0]
    assert "oneDNN" in logs[0]  # what the backends may do
    assert logs[0] == logs[1]


def test_chunks_of_one_image_where_batchnorm_sees_features(build_engine):
    """An OSNet's fc has BatchNorm1d; what has none takes them."""
    engine = build_engine("train.chunk_size", "1", frozen=False)
    with pytest.raises(InputError, match=r"train.chunk_size 1 cuts .* BatchNorm in fc.* Raise it"):
        engine.forward_backward(batch())
    build_engine("train.chunk_size", "1").forward_backward(batch())  # statistics that are given
    resnet = build_engine("train.chunk_size", "1", "model.name", "spectral_resnet18", frozen=False)
    assert resnet.forward_backward(batch())


@pytest.mark.parametrize("options", [
    ["train.amp", "bf16"], ["train.compile", "eager"], ["train.chunk_size", "4"],
])  # fmt: skip
def test_data_parallel_would_compute_otherwise(build_engine, options):
    """Its threads fall back to fp16, and run what was compiled for the first GPU."""
    engine = build_engine(*options)
    engine.model.device_ids = [0, 1]
    with pytest.raises(InputError, match=f"{' '.join(options[:1])}.*DataParallel on 2 GPUs"):
        engine.prepare_step()


@pytest.mark.parametrize("name", ["spectral_pcb_p4", "pcb_p6"])
def test_networks_that_flatten_maps_refuse_another_layout(build_engine, name):
    loss = "spectral" if name.startswith("spectral") else "softmax"
    engine = build_engine("model.name", name, "loss.name", loss, "train.channels_last", "True")
    with pytest.raises(InputError, match="channels_last does not go together with PCB"):
        engine.forward_backward(batch())


@pytest.mark.parametrize("optim", ["sgd", "adam"])
@pytest.mark.parametrize("staged", [False, True])
def test_no_decay_pulls_temperatures_and_powers(build_engine, optim, staged):
    options = ["spectral.learn_temperature", "True", "spectral.pooling", "gem", "train.optim",
               optim, "train.weight_decay", "0.1", "train.staged_lr", f"{staged}",
               "train.new_layers", "[classifier]"]  # fmt: skip
    engine = build_engine(*options)
    decays = {id(p): group["weight_decay"] for group in engine.optimizer.param_groups
              for p in group["params"]}  # fmt: skip
    rates = {id(p): group["lr"] for group in engine.optimizer.param_groups
             for p in group["params"]}  # fmt: skip
    named = dict(engine.model.named_parameters())
    assert decays.keys() == {id(parameter) for parameter in named.values()}  # none is lost
    spared = {name for name, p in named.items() if decays[id(p)] == 0}
    assert spared == {name for name in named if name.endswith(("log_temperature", "avgpool.p"))}
    assert len(spared) == 2
    (head,) = (name for name in spared if name.startswith("classifier"))
    assert rates[id(named[head])] == rates[id(named["classifier.prototypes"])]


def test_a_spectral_head_at_rest_is_refused(build_engine):
    options = ["train.fixbase_epoch", "1", "train.open_layers"]
    with pytest.raises(InputError, match="leaves the classifier of a spectral model in eval"):
        build_engine(*options, "[conv5,fc]")
    assert build_engine(*options, "[classifier,fc]")


def test_a_test_that_is_repeated_is_no_worse_test():
    progress = Progress(epoch=2)
    assert progress.note_test(0.4, 2) is True
    assert [progress.note_test(0.4, 2) for _ in range(3)] == [False] * 3
    assert progress.worse_tests == 0 and not progress.finished


def test_the_best_of_another_figure_is_forgotten(build_engine):
    engine = build_engine("train.keep", "rank-1")
    engine.progress = Progress(epoch=3, best=0.85, best_epoch=2, worse_tests=1, last_test=3,
                               figure="mAP of a")  # fmt: skip
    _follow_figure(engine)
    assert (engine.progress.best, engine.progress.worse_tests) == (-1.0, 0)
    before = engine.progress.figure
    assert before.startswith("rank-1 of") and engine.progress.note_test(0.6, 1)
    _follow_figure(engine)
    assert engine.progress.best == 0.6 and engine.progress.figure == before


@pytest.mark.parametrize(("images", "size", "lengths"), [(16, 5, [4, 4, 4, 4]), (7, 3, [3, 2, 2]),
                                                         (4, 9, [4])])  # fmt: skip
def test_chunks_are_of_nearly_one_length(images, size, lengths):
    """None of one image, which BatchNorm refuses, nor a rest that counts as much as a chunk."""
    network, seen = torch.nn.BatchNorm1d(3), []
    network.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    chunked_backward(network, torch.randn(images, 3), lambda out: out.square().sum(),
                     chunk_size=size)  # fmt: skip
    assert seen[: len(lengths)] == lengths


def test_results_are_compared_by_the_figure_that_is_asked_for():
    from torchreid_spectral.engine.results import TestResult
    from torchreid_spectral.evaluation import RankingMetrics

    metrics = RankingMetrics(np.array([0.5, 1.0], np.float32), 0.25, 2, 2)
    result = TestResult({"a": {"none": metrics}, "b": {"none": metrics}})
    assert (result.figure("mAP"), result.figure("rank-1"), float(result)) == (0.25, 0.5, 0.5)
    assert math.isnan(TestResult({}))


def test_results_name_the_camera_normalization(build_engine):
    shown = ["test.rerank", "True", "test.dist_metric", "cosine"]
    assert build_engine(*shown).reranker_name == "k_reciprocal"
    engine = build_engine(*shown, "rerank.camera_normalization", "center")
    assert engine.reranker_name == "k_reciprocal+center"
    assert engine.reranker.camera_normalization == "center"


@pytest.mark.parametrize("flush", [True, False])
def test_denormals_in_training_and_tests(tiny_options, tmp_path, monkeypatch, flush):
    seen = []

    def watch(name):
        inner = getattr(ImageSpectralEngine, name)

        def watched(self, *args, **kwargs):
            seen.append((name, bool(torch.tensor(1e-30) * 1e-10)))
            return inner(self, *args, **kwargs)

        monkeypatch.setattr(ImageSpectralEngine, name, watched)

    for name in ("forward_backward", "_features"):
        watch(name)
    assert run(tiny_options, tmp_path, "train.max_epoch", "1",
               "train.flush_denormals", str(flush)) == 0  # fmt: skip
    assert {*seen} == {("forward_backward", not flush), ("_features", not flush)}
    assert float(torch.tensor(1e-30) * 1e-10) > 0


def test_denormals_where_a_script_calls_the_engine(build_engine):
    with build_engine().arithmetic():
        assert float(torch.tensor(1e-30) * 1e-10) == 0
    engine = build_engine()
    engine.use_gpu = True  # CUDA's kernels do not ask the processor
    with engine.arithmetic():
        assert float(torch.tensor(1e-30) * 1e-10) > 0


def test_the_command_flushes_in_all_threads(python):
    """They take the setting over when they start: the tool enters before a model is built."""
    script = """
import torch
from torchreid_spectral.config import get_default_config
from torchreid_spectral.config.assemble import arithmetic
torch.set_num_threads(3)
cfg = get_default_config()
cfg.use_gpu = False
with arithmetic(cfg):
    print(int((torch.full((3_000_000,), 1e-30) * 1e-10).count_nonzero()))
"""
    assert python("-c", script).stdout.split() == ["0"]


@pytest.mark.parametrize(
    "options, told",
    [
        (["spectral.temperature", "100.0"], 1),
        (["spectral.temperature", "0.001"], 0),
        (["spectral.temperature", "100.0", "spectral.supervision", "plain"], 0),
    ],
)
def test_a_walk_that_mixes_everybody_is_told_once(tiny_options, tmp_path, caplog, options, told):
    assert run(tiny_options, tmp_path, "train.max_epoch", "4", *options) == 0
    warnings = [each.getMessage() for each in caplog.records if "by chance" in each.getMessage()]
    assert len(warnings) == told
    if told:  # of 15 others in a batch 12 are of other identities
        assert "probability 0.80, by chance it would be 0.80" in warnings[0]


@pytest.mark.parametrize(("size", "passes"), [(2, [5] * 8), (10, [10] * 4), (64, [20] * 2)])
def test_frames_count_as_images(size, passes):
    class OfFrames(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(3, 4)

        def forward(self, tracklets):
            return (
                self.inner(tracklets.flatten(0, 1).mean((2, 3)))
                .view(*tracklets.shape[:2], 4)
                .mean(1)
            )

    network, seen = OfFrames(), []
    network.inner.register_forward_hook(lambda module, given, out: seen.append(len(out)))
    chunked_backward(network, torch.randn(4, 5, 3, 2, 2), lambda out: out.square().sum(),
                     chunk_size=size)  # fmt: skip
    assert seen == passes  # without gradient and with it
