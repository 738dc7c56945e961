"""Tests of torchreid_spectral.config."""

from pathlib import Path

import pytest
import torch
import yaml

from torchreid_spectral.config import build, get_default_config, merge_file, merge_options
from torchreid_spectral.config.check import check_config
from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.registry import model_options

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_says_where_it_comes_from(torchreid, path, caplog):
    text = path.read_text()
    header = [line for line in text.splitlines() if line.startswith("#")]
    for word in ("# Source:", "# Command:", "# Expected:"):
        assert sum(line.startswith(word) for line in header) == 1, word
    assert f"--config-file configs/{path.name}" in text
    cfg = get_default_config()
    merge_file(cfg, path)
    check_config(cfg)
    assert "Without effect" not in caplog.text
    build.build_rerank(cfg)


@pytest.mark.parametrize(
    "name",
    [
        "market1501",
        "duke",
        "cuhk03",
        "msmt17",
        "demo",
        "strong_market1501",
        "strong_demo",
        "parts_market1501_osnet_x0_25",
    ],
)
def test_baseline_differs_from_spectral_in_the_walk_alone(name):
    def load(kind):
        path = Path(__file__).parents[2] / "configs" / f"{kind}_{name}.yaml"
        return yaml.safe_load(path.read_text())

    spectral, baseline = load("spectral"), load("baseline")
    assert spectral["spectral"].pop("supervision") == "both"
    assert baseline["spectral"].pop("supervision") == "plain"
    spectral["spectral"].pop("walked_feature", None)  # what is walked, where there is a walk
    assert spectral["data"].pop("save_dir") != baseline["data"].pop("save_dir")
    assert spectral == baseline


def test_model_options_have_one_default(torchreid):
    cfg = get_default_config()
    options = build.model_options(cfg)
    assert options == model_options()


def test_lists_on_the_command_line_may_be_yaml_or_python():
    for text in ("[{after: conv3, over: pixels}]", "[{'after': 'conv3', 'over': 'pixels'}]"):
        cfg = get_default_config()
        merge_options(cfg, ["model.attention", text, "data.sources", "[market1501, folder]"])
        assert cfg.model.attention == [{"after": "conv3", "over": "pixels"}]
        assert cfg.data.sources == ["market1501", "folder"]


def test_options_override(tmp_path):
    cfg = get_default_config()
    path = tmp_path / "c.yaml"
    path.write_text("train:\n  lr: 1\n  weight_decay: 5e-4\ndata:\n  sources: cuhk03\n")
    merge_file(cfg, path)
    merge_options(cfg, ["train.max_epoch", "3", "spectral.temperature", "0.05"])
    assert (cfg.train.lr, cfg.train.weight_decay, cfg.train.max_epoch) == (1.0, 5e-4, 3)
    assert cfg.data.sources == ["cuhk03"]
    assert cfg.spectral.temperature == 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["spectral.temprature", "0.1"], "'spectral.temprature'.*spectral.temperature"),
        (["train.lr"], "'train.lr' has no value"),
        (["train.max_epoch", "many"], "train.max_epoch takes int .*default 60.*got 'many'"),
        (["train.lr", "fast"], "train.lr takes float"),
        (["model.pretrained", "1"], "model.pretrained takes bool"),
        (["train.clip_norm", "nan"], "train.clip_norm takes a finite number, got nan"),
        (["loss.am_softmax.scale", "inf"], "loss.am_softmax.scale takes a finite number, got inf"),
        (["rerank.graph_walk.steps", "-inf"], "graph_walk.steps takes a finite number, got -inf"),
        (["data.norm_mean", "[nan, 0, 0]"], "data.norm_mean takes a list of finite numbers"),
        (["data.norm_std", "['a', 'b', 'c']"], "data.norm_std takes a list of finite numbers"),
        (["train.stepsize", "['a']"], "train.stepsize takes a list of whole numbers"),
        (["loss.metric", "[1]"], r"loss.metric takes a list of names, got \[1\]"),
        (["loss.metric", "[{a: 1}]"], "loss.metric takes a list of names"),
        (["loss.metric_weights", "[nan]"], "loss.metric_weights takes a list of finite numbers"),
        (["data.sources", "[1]"], "data.sources takes a list of names"),
        (["data.transforms", "[1]"], "data.transforms takes a list of names"),
    ],
)
def test_rejects_options(options, message):
    with pytest.raises(InputError, match=message):
        merge_options(get_default_config(), options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian:\n  lr: 0.1\n", "Unknown config key 'trian.lr'.*train.lr"),
        ("- a\n- b\n", "must hold keys and values"),
        ("a: [", "is not readable YAML"),
        (
            "train:\n  lr: 0.1\ntest:\n  ranks: [1]\ntrain:\n  seed: 3\n",
            "gives train twice, in lines 1 and 5: the first would be lost",
        ),
        ("train:\n  lr: 0.1\n  seed: 3\n  lr: 0.2\n", "gives train.lr twice, in lines 2 and 4"),
    ],
)
def test_rejects_files(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        merge_file(get_default_config(), path)


def test_merges_are_no_keys_given_twice(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("train: &a\n  lr: 0.5\n  seed: 3\nadam: &b\n  beta1: 0.8\n")
    cfg = get_default_config()
    merge_file(cfg, path)
    assert (cfg.train.lr, cfg.adam.beta1) == (0.5, 0.8)
    path.write_text("train:\n  <<: {lr: 0.25}\n  <<: {seed: 4}\n")
    merge_file(cfg, path)
    assert (cfg.train.lr, cfg.train.seed) == (0.25, 4)


def test_random_weights_do_not_take_a_runs_results(torchreid, tmp_path, caplog):
    cfg = get_default_config()
    merge_options(cfg, ["test.evaluate", "True", "model.pretrained", "False", "data.save_dir",
                        str(tmp_path)])  # fmt: skip
    check_config(cfg)
    assert "tests random weights: name those of a run" in caplog.text
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.safetensors").write_text("")
    with pytest.raises(InputError, match="would test random weights and write their results"):
        check_config(cfg)
    cfg.model.pretrained = True
    with pytest.raises(InputError, match="would test ImageNet's weights and write their results"):
        check_config(cfg)
    merge_options(cfg, ["model.load_weights", "weights.pth"])
    check_config(cfg)


def test_blocks_may_be_given_again(torchreid):
    cfg = get_default_config()
    for _ in range(2):
        merge_options(cfg, ["model.attention", "[{after: layer3, over: pixels}]"])
    merge_options(cfg, ["model.attention", "[layer3]", "model.name", "spectral_resnet18"])
    with pytest.raises(InputError, match="takes entries such as"):
        check_config(cfg)


def test_missing_file():
    with pytest.raises(InputError, match="nowhere.yaml does not exist"):
        merge_file(get_default_config(), "nowhere.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.name", "spectral_resnet5"], "Unknown model 'spectral_resnet5'.*resnet50"),
        (["loss.name", "spectra"], "Unknown loss.name 'spectra'.*spectral"),
        (["rerank.method", "kreciprocal"], "Unknown re-ranker 'kreciprocal'.*k_reciprocal"),
        (
            ["rerank.camera_normalization", "centre"],
            "Unknown rerank.camera_normalization 'centre'.*center",
        ),
        (["test.dist_metric", "cosin"], "Unknown test.dist_metric 'cosin'.*cosine"),
        (["loss.name", "spectral"], "got model.name resnet50.*Use model.name spectral_resnet50"),
        (["test.visrank", "True"], "test.visrank draws in tests only"),
        (["test.ranks", "[]"], "test.ranks must be whole numbers"),
        (
            [
                "sampler.train_sampler",
                "RandomIdentitySampler",
                "train.batch_size",
                "62",
                "sampler.num_instances",
                "8",
            ],
            "whole identities.*num_instances 8, got 62",
        ),
        (["train.print_freq", "0"], "train.print_freq must be >= 1, got 0"),
        (["sampler.num_instances", "0"], "sampler.num_instances must be >= 1, got 0"),
        (["train.seed", "-1"], "train.seed must be >= 0, got -1"),
        (["data.norm_mean", "[0.5, 0.5]"], "data.norm_mean must have three values"),
        (["data.norm_std", "[0, 1, 1]"], "data.norm_std must be above 0"),
        (["data.height", "0"], "data.height must be >= 1, got 0"),
        (["data.width", "-5"], "data.width must be >= 1, got -5"),
        (["data.k_tfm", "2"], "data.k_tfm gives several views .*must be 1, got 2"),
        (["data.sources", "['a', 'b', 'a']"], "data.sources names a dataset twice"),
        (["data.type", "video", "video.seq_len", "0"], "video.seq_len must be >= 1, got 0"),
        (["train.seed", "4294967296"], r"train.seed must be below 2\*\*32"),
        (["train.max_epoch", "0"], "train.max_epoch must be >= 1, got 0"),
        (["train.start_epoch", "-1"], "train.start_epoch must be >= 0, got -1"),
        (["train.start_epoch", "60"], "train.start_epoch 60 leaves nothing to train"),
        (["train.stepsize", "[]"], "train.stepsize must end with a number >= 1, got \\[\\]"),
    ],
)
def test_check_config(torchreid, options, message):
    cfg = get_default_config()
    merge_options(cfg, options)
    with pytest.raises(InputError, match=message):
        check_config(cfg)


def test_a_missing_baseline_is_told_and_waited_for(torchreid, caplog):
    cfg = get_default_config()
    merge_options(cfg, ["report.baseline", "log/nowhere"])
    check_config(cfg)
    assert "report.baseline is not there yet: log/nowhere holds no weights" in caplog.text


def test_what_is_only_tested_may_have_been_trained_anyhow(torchreid):
    cfg = get_default_config()
    merge_options(cfg, ["sampler.train_sampler", "RandomIdentitySampler", "train.batch_size", "62",
                        "sampler.num_instances", "8", "test.evaluate", "True"])  # fmt: skip
    check_config(cfg)


def test_reranker_gets_the_options_it_has(torchreid):
    cfg = get_default_config()
    merge_options(cfg, ["rerank.method", "local_blurring", "rerank.local_blurring.k", "7"])
    assert build.build_rerank(cfg).k == 7
    merge_options(cfg, ["rerank.method", "k_reciprocal", "rerank.k_reciprocal.k1", "9"])
    assert build.build_rerank(cfg).k1 == 9
    assert isinstance(UnknownNameError("a", "b", ["c"]), ValueError)


def test_camera_normalization_is_part_of_the_name_in_results(torchreid, caplog):
    cfg = get_default_config()
    assert build.build_rerank(cfg).camera_normalization == "none"
    assert build.build_rerank(cfg).label == "k_reciprocal"
    merge_options(cfg, ["rerank.camera_normalization", "standardize"])
    assert build.build_rerank(cfg).camera_normalization == "standardize"
    assert build.build_rerank(cfg).label == "k_reciprocal+standardize"
    check_config(cfg)
    assert "Without effect here: rerank.camera_normalization (only for test.rerank" in caplog.text


@pytest.mark.parametrize("text", ["inf", ".inf"])
def test_closed_form_is_reachable(torchreid, tmp_path, text):
    cfg = get_default_config()
    path = tmp_path / "c.yaml"
    path.write_text(f"spectral:\n  steps: {text}\n")
    merge_file(cfg, path)
    assert cfg.spectral.steps == float("inf")
    merge_options(cfg, ["spectral.steps", "2"])
    assert cfg.spectral.steps == 2 and isinstance(cfg.spectral.steps, int)
    merge_options(cfg, ["spectral.steps", "inf"])
    with pytest.raises(InputError, match="train.max_epoch takes int"):
        merge_options(cfg, ["train.max_epoch", "inf"])
    with pytest.raises(InputError, match="spectral.steps takes int"):
        merge_options(cfg, ["spectral.steps", "many"])


WALKS = {
    "steps": ["steps", "3"],
    "restart": ["restart", "0.2"],
    "closed form": ["steps", "inf", "restart", "0.1"],
    "mutual": ["mutual", "True", "top_k", "3"],
    "symmetric": ["normalization", "symmetric"],
    "detached": ["detach_transition", "True"],
    "groups": ["heads", "2", "group_shuffling", "True"],
    "memory": ["memory", "16"],
}


@pytest.mark.parametrize("walk", WALKS)
def test_every_walk_is_built_from_the_config(torchreid, walk):
    import torch

    import torchreid_spectral as ts

    cfg, pairs = get_default_config(), WALKS[walk]
    merge_options(
        cfg, [f"spectral.{part}" if i % 2 == 0 else part for i, part in enumerate(pairs)]
    )
    with build.active_defaults(cfg):
        model = ts.build_model("spectral_osnet_x0_25", 3, loss="spectral", pretrained=False)
    layer = model.heads[0].walk
    for name, value in zip(pairs[::2], pairs[1::2]):
        found = layer.memory.size if name == "memory" else getattr(layer, name)
        assert str(found) == value
    for _ in range(2):
        outputs, _ = model(torch.rand(4, 3, 64, 32))
        assert len(outputs) == (3 if walk == "groups" else 2)
        torch.stack([output.cosine for output in outputs]).sum().backward()
    assert model.eval()(torch.rand(1, 3, 64, 32)).shape == (1, 512)


def test_options_that_objects_have_too_have_their_defaults(torchreid):
    """Where a group of the config repeats the fields of a class, it repeats their defaults."""
    from dataclasses import fields

    from torchreid_spectral.data.folder_datasets import FolderOptions
    from torchreid_spectral.data.synthetic import SyntheticSpec
    from torchreid_spectral.data.synthetic_video import SyntheticVideoSpec
    from torchreid_spectral.engine.options import TrainingOptions

    cfg = get_default_config()
    for group, kind in (("synthetic", SyntheticSpec), ("synthetic_video", SyntheticVideoSpec),
                        ("folder", FolderOptions)):  # fmt: skip
        defaults = {each.name: each.default for each in fields(kind)}
        assert dict(cfg[group]).items() <= defaults.items(), group
    assert build.training_options(cfg) == TrainingOptions()


def test_options_without_their_reranker_are_refused(torchreid):
    """Of whom ``rerank.k`` is would depend on who reads it."""
    with pytest.raises(UnknownNameError, match="rerank"):
        merge_options(get_default_config(), ["rerank.k", "7"])


@pytest.mark.parametrize(("options", "message"), [
    (["data.sources", "[]"], "data.sources must name a dataset"),
    (["data.targets", "[]"], "data.targets must name a dataset"),
    (["train.compile", "inductro"], "Unknown train.compile 'inductro'. Did you mean inductor"),
    (["spectral.temperature", "-1.0"], "temperature must be positive, got -1.0"),
    (["spectral.pooling", "max"], "pooling must be one of"),
    (["spectral.neck", "bnnek"], "neck"),
    (["model.attention", "[{after: conv3, over: pixels, hads: 2}]"], "Did you mean heads"),
    (["loss.name", "softmax", "loss.id", "arcface"], "loss.id arcface has no effect under loss"),
    (["loss.name", "arcface", "loss.metric", "triplet"], "loss.metric .* has no effect"),
    (["loss.name", "triplet", "loss.triplet.soft_margin", "True"], "soft_margin True has no eff"),
])  # fmt: skip
def test_what_would_be_ignored_or_fail_later_is_refused_first(torchreid, options, message):
    cfg = get_default_config()
    merge_options(cfg, ["model.name", "spectral_osnet_x0_25", "loss.name", "spectral", *options])
    state = torch.random.get_rng_state()
    with pytest.raises(InputError, match=message):
        check_config(cfg)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(("options", "words"), [
    (["model.name", "osnet_x0_25", "loss.name", "softmax", "spectral.steps", "2"],
     "spectral.steps (only for models named spectral_*)"),
    (["spectral.neck", "bnneck", "spectral.bottleneck_dim", "64"], "spectral.bottleneck_dim"),
    (["spectral.scale", "30.0"], "spectral.scale (only for loss.name softmax and triplet)"),
    (["train.sync_bn", "True"], "train.sync_bn (only for several processes)"),
    (["loss.arcface.margin", "0.2"], "loss.arcface.margin (only for a config that trains by"),
    (["loss.name", "arcface", "loss.am_softmax.margin", "0.2"], "loss.am_softmax.margin (only"),
    (["loss.metric_on", "walked"], "loss.metric_on (only for a metric loss)"),
    (["rerank.method", "graph_walk", "rerank.graph_walk.k", "7", "rerank.inductive", "True"],
     "rerank.method, rerank.inductive, rerank.graph_walk.k (only for test.rerank True)"),
    (["sampler.num_instances", "8"],
     "sampler.num_instances (only for sampler.train_sampler RandomIdentitySampler and Iden"),
    (["sampler.num_cams", "2"], "sampler.num_cams (only for sampler.train_sampler RandomDomain"),
    (["data.load_train_targets", "True"], "data.load_train_targets (only for engines that"),
    (["data.crop_padding", "4"], "data.crop_padding (only for data.transforms random_pad_crop)"),
    (["train.base_lr_mult", "0.5"], "train.base_lr_mult (only for train.staged_lr True)"),
    (["video.seq_len", "4"], "video.seq_len (only for data.type video)"),
    (["test.whitening_eps", "0.1"], "test.whitening_eps (only for a test.whitening)"),
    (["train.warmup_epochs", "5"], "train.warmup_epochs (only for train.lr_scheduler warmup_*)"),
    (["distill.weight", "5.0"], "distill.weight (only for a distill.teacher)"),
    (["test.rerank", "True", "test.dist_metric", "cosine", "rerank.graph_walk.k", "7"],
     "rerank.graph_walk.k (only for rerank.method graph_walk)"),
])  # fmt: skip
def test_what_changes_nothing_is_told(torchreid, caplog, options, words):
    cfg = get_default_config()
    merge_options(cfg, ["model.name", "spectral_osnet_x0_25", "loss.name", "spectral"])
    merge_options(cfg, options)
    check_config(cfg)
    assert f"Without effect here: {words}" in caplog.text


@pytest.mark.parametrize("options", [
    ["loss.name", "am_softmax", "loss.weight_walked", "2.0", "loss.weight", "3.0"],
    ["loss.name", "contrastive", "loss.metric_weights", "[2.0]"],
    ["loss.name", "quadruplet", "loss.metric_on", "walked"],
    ["sampler.train_sampler", "IdentityOnceSampler", "sampler.num_instances", "8"],
    ["train.lr_scheduler", "warmup_cosine", "train.warmup_epochs", "5"],
    ["loss.name", "softmax", "loss.id", "arcface", "test.evaluate", "True"],
    ["spectral.neck", "bnneck", "spectral.head_norm", "gn"],
    ["train.lr_scheduler", "cosine", "train.stepsize", "[]"],
    ["test.evaluate", "True", "train.max_epoch", "0"],
    ["model.attention", "[{after: conv3, over: pixels, heads: 4}]"],
])  # fmt: skip
def test_what_has_an_effect_is_not_refused(torchreid, options, caplog):
    cfg = get_default_config()
    merge_options(cfg, ["model.name", "spectral_osnet_x0_25", "loss.name", "spectral", *options])
    state = torch.random.get_rng_state()
    check_config(cfg)
    assert torch.equal(state, torch.random.get_rng_state())
    assert "Without effect" not in caplog.text


SPECTRAL = ["model.name", "spectral_osnet_x0_25", "loss.name", "spectral"]


@pytest.mark.parametrize(("options", "told"), [
    ([], True),
    (["sampler.train_sampler", "RandomIdentitySampler"], False),
    (["spectral.supervision", "plain"], False),
    (["test.evaluate", "True", "model.load_weights", "weights.pth"], False),
])  # fmt: skip
def test_a_walk_among_strangers_is_told(torchreid, caplog, options, told):
    cfg = get_default_config()
    merge_options(cfg, [*SPECTRAL, *options])
    check_config(cfg)
    assert ("RandomSampler draws images whatever their identity" in caplog.text) == told


def test_processes_share_whole_identities_where_the_sampler_has_any(torchreid, monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    cfg = get_default_config()
    merge_options(cfg, [*SPECTRAL, "train.batch_size", "60"])
    check_config(cfg)  # 30 and 30 images
    cfg.train.batch_size = 61
    with pytest.raises(
        InputError, match="whole images: train.batch_size must be a multiple of 2, "
    ):
        check_config(cfg)
    merge_options(cfg, ["sampler.train_sampler", "IdentityOnceSampler", "train.batch_size", "60"])
    with pytest.raises(InputError, match="whole identities.* multiple of 2 x .*num_instances 4"):
        check_config(cfg)


@pytest.mark.parametrize(("options", "message"), [
    ([*SPECTRAL, "train.batch_size", "1"], "makes a graph of one image"),
    (["model.name", "osnet_x0_25", "loss.name", "triplet", "train.batch_size", "4",
      "sampler.train_sampler", "RandomIdentitySampler"], "is one identity a batch"),
])  # fmt: skip
def test_batches_whose_first_step_would_fail(torchreid, options, message):
    cfg = get_default_config()
    merge_options(cfg, options)
    with pytest.raises(InputError, match=message):
        check_config(cfg)
    merge_options(cfg, ["test.evaluate", "True", "model.load_weights", "weights.pth"])
    check_config(cfg)
