"""Tests of torchreid_spectral.config.losses: from the groups loss and distill to objects."""

import json

import pytest
import torch

import torchreid_spectral as ts
from tests.no_data import NoData
from torchreid_spectral.config import build, engines, get_default_config, merge_file, merge_options
from torchreid_spectral.config.check import check_config
from torchreid_spectral.config.losses import build_criterion, build_distillation, chosen_losses
from torchreid_spectral.errors import InputError
from torchreid_spectral.losses import (
    AMSoftmaxLoss,
    LSoftmaxLoss,
    QuadrupletLoss,
    ScaledSoftmaxLoss,
)

SPECTRAL = ["model.name", "spectral_osnet_x0_25", "loss.name", "spectral"]


def config(*options):
    cfg = get_default_config()
    merge_options(cfg, list(options))
    return cfg


def test_id_and_metric_losses_with_their_options(torchreid):
    cfg = config(*SPECTRAL, "loss.id", "l_softmax", "loss.l_softmax.margin", "3",
                 "loss.metric", "['quadruplet', 'escape']", "loss.metric_weights", "[0.5, 2]",
                 "loss.quadruplet.margin_pairs", "0.2", "loss.metric_on", "both",
                 "loss.weight", "0.7")  # fmt: skip
    check_config(cfg)
    loss = build_criterion(cfg)
    assert isinstance(loss.id_loss.criterion, LSoftmaxLoss) and loss.id_loss.weight == 0.7
    assert loss.id_loss.criterion.margin == 3
    assert isinstance(loss.metric_losses["quadruplet"], QuadrupletLoss)
    assert loss.metric_losses["quadruplet"].margin_pairs == 0.2
    assert loss.metric_weights == {"quadruplet": 0.5, "escape": 2}
    assert loss.metric_on == "both"


def test_label_smoothing_is_torchreids_key(torchreid):
    loss = build_criterion(config(*SPECTRAL, "loss.id", "softmax")).id_loss.criterion
    assert isinstance(loss, ScaledSoftmaxLoss) and loss.label_smoothing == 0.1
    options = [*SPECTRAL, "loss.id", "softmax", "loss.softmax.label_smooth", "False"]
    assert build_criterion(config(*options)).id_loss.criterion.label_smoothing == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("arcface", ("arcface", [])), ("nca", ("", ["nca"])), ("spectral", ("am_softmax", []))],
)
def test_one_loss_alone(torchreid, name, expected):
    cfg = config("model.name", "spectral_osnet_x0_25", "loss.name", name)
    check_config(cfg)
    assert chosen_losses(cfg) == expected
    model = ts.build_model(cfg.model.name, 4, loss=name, pretrained=False)
    engine = engines.build_engine(cfg, NoData(), model, optimizer(model), None)
    outputs = model(torch.rand(8, 3, 64, 32))
    loss, parts = engine.compute_losses(outputs, torch.arange(4).repeat_interleave(2))
    loss.backward()
    assert torch.isfinite(loss) and set(parts) >= {"loss", "escape", "acc", "acc_walked"}


def test_a_metric_loss_alone_trains_a_stock_model(torchreid):
    cfg = config("model.name", "osnet_x0_25", "loss.name", "quadruplet")
    check_config(cfg)
    model = ts.build_model("osnet_x0_25", 4, loss="quadruplet", pretrained=False)
    engine = engines.build_engine(cfg, NoData(), model, optimizer(model), None)
    loss, parts = engine.compute_losses(
        model(torch.rand(8, 3, 64, 32)), torch.arange(4).repeat_interleave(2)
    )
    loss.backward()
    assert set(parts) == {"loss_quadruplet", "loss"}
    assert model.conv1.conv.weight.grad.abs().sum() > 0


def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_a_list_of_one_may_be_given_bare(torchreid, tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(
        "model:\n  name: spectral_osnet_x0_25\nloss:\n  name: spectral\n"
        "  id: am_softmax\n  metric: triplet\n  weight_walked: 0.5\n  metric_weights: 2.0\n"
    )
    cfg = get_default_config()
    merge_file(cfg, path)
    check_config(cfg)
    loss = build_criterion(cfg)
    assert isinstance(loss.id_loss.criterion, AMSoftmaxLoss)
    assert loss.id_loss.weight_walked == 0.5
    assert loss.metric_weights == {"triplet": 2.0}
    merge_options(cfg, ["loss.metric", ""])
    merge_options(cfg, ["loss.metric_weights", "[]"])
    assert not build_criterion(cfg).metric_losses


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.name", "resnet50", "loss.name", "arcface"], "Use model.name spectral_resnet50"),
        (["model.name", "resnet50", "loss.name", "normalized_cut"], "needs the cosine classifier"),
        (["loss.name", "quadruplet", "loss.metric_on", "walked"], "needs a walk: resnet50"),
        ([*SPECTRAL, "loss.metric", "nca", "loss.metric_weights", "[1, 2]"], "one weight for"),
        ([*SPECTRAL, "loss.metric", "['nca', 'nca']"], "each named once"),
        ([*SPECTRAL, "loss.metric", "nca", "loss.metric_on", "X"], "metric_on must be one of"),
        ([*SPECTRAL, "loss.metric", "nca", "loss.metric_on", "walked",
          "spectral.supervision", "plain"], "does not fit spectral.supervision plain"),
        ([*SPECTRAL, "spectral.supervision", "plain", "loss.weight", "0.0"],
         "leaves the identity loss am_softmax nothing to train"),
        ([*SPECTRAL, "spectral.supervision", "walked", "loss.weight_walked", "0.0"],
         "Set loss.weight_walked above 0, or"),
        ([*SPECTRAL, "loss.id", ""], "no loss to train with"),
        ([*SPECTRAL, "loss.quadruplet.margin", "-1.0", "loss.metric", "quadruplet"], "got -1.0"),
        (["loss.name", "nca", "data.type", "video"], "trains spectral models"),
        ([*SPECTRAL, "distill.teacher", "osnet_x1_0", "distill.weights", "f",
          "train.chunk_size", "8"], "train.chunk_size"),
        ([*SPECTRAL, "distill.teacher", "osnet_x1_0"], "distill.weights .* go together"),
        (["distill.teacher", "osnet_x1_0", "distill.weights", "f"], "torchreid's own loss.name"),
        ([*SPECTRAL, "distill.teacher", "osnet_x10", "distill.weights", "f"],
         "Unknown distill.teacher 'osnet_x10'"),
        ([*SPECTRAL, "distill.kind", "medium"], "kind must be one of"),
        (["model.name", "resnet50", "loss.name", "quadruplet", "train.fixbase_epoch", "2"],
         "trains the classifier alone, which no loss"),
        ([*SPECTRAL, "loss.id", "", "loss.metric", "triplet", "train.fixbase_epoch", "2"],
         "trains the classifier alone, which no loss"),
    ],
)  # fmt: skip
def test_rejects(torchreid, options, message):
    with pytest.raises(InputError, match=message):
        check_config(config(*options))


def test_teacher_from_the_config(torchreid, tmp_path):
    teacher = ts.build_model("osnet_x0_25", 9, pretrained=False)
    path = tmp_path / "teacher.pth"
    torch.save(teacher.state_dict(), path)
    cfg = config(*SPECTRAL, "distill.teacher", "osnet_x0_25", "distill.weights", str(path),
                 "distill.kind", "hard", "distill.weight", "0.3")  # fmt: skip
    cfg.use_gpu = False
    check_config(cfg)
    distillation = build_distillation(cfg)
    assert distillation.weight == 0.3 and distillation.criterion.kind == "hard"
    assert build_distillation(config(*SPECTRAL)) is None


@pytest.mark.parametrize("told", [True, False])
def test_a_spectral_teacher_is_built_as_it_was_trained(torchreid, tmp_path, told):
    """Stripes add no weight outside the classifier: without them it would be another network."""
    name = "spectral_osnet_x0_25"
    path = tmp_path / "checkpoints" / "last.pth"
    path.parent.mkdir()
    torch.save(ts.build_model(name, 9, pretrained=False, stripes=2).state_dict(), path)
    if told:
        trained = {"model": {"name": name}, "spectral": {"stripes": 2}}
        (tmp_path / "metrics.json").write_text(json.dumps({"config": trained}))
    cfg = config(*SPECTRAL, "distill.teacher", name, "distill.weights", str(path))
    cfg.use_gpu = False
    with build.active_defaults(cfg):  # the student has none
        teacher = build_distillation(cfg).teacher
    assert len(teacher.heads) == (3 if told else 1)
