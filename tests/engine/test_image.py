"""Tests of torchreid_spectral.engine.image: what the losses need of an engine."""

import pytest
import torch

import torchreid_spectral as ts
from tests.engine.test_base import datamanager, parts, spectral_engine  # noqa: F401 (a fixture)
from tests.no_data import NoData
from torchreid_spectral._run_files import CHECKPOINTS
from torchreid_spectral.engine import ImageMetricEngine
from torchreid_spectral.engine.checkpoints import CheckpointFolder
from torchreid_spectral.errors import InputError
from torchreid_spectral.losses import (
    AMSoftmaxLoss,
    ASoftmaxLoss,
    CombinedLoss,
    EscapeLoss,
    NormalizedCutLoss,
    QuadrupletLoss,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def test_annealing_goes_on_where_a_checkpoint_left_it(
    torchreid,
    datamanager,  # noqa: F811
    tmp_path,
):
    def engine():
        return spectral_engine(torchreid, datamanager, criterion=CombinedLoss(ASoftmaxLoss()))

    first = engine()
    first.run(str(tmp_path), max_epoch=1)
    steps = len(first.train_loader)
    assert int(first.criterion.id_loss.criterion.iterations) == steps > 0
    second = engine()
    second.resume(CheckpointFolder(tmp_path / CHECKPOINTS).latest())
    assert int(second.criterion.id_loss.criterion.iterations) == steps
    assert second.criterion.id_loss.criterion.annealing == pytest.approx(1000 / (1 + 0.12 * steps))


def metric_engine(**losses):
    model = ts.build_model("osnet_x0_25", 4, loss="quadruplet", pretrained=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    return ImageMetricEngine(
        NoData(), model, optimizer, use_gpu=False, progress=False,
        criterion=CombinedLoss(metric_losses=losses),
    )  # fmt: skip


def test_a_stock_model_learns_by_metric_losses_alone(torchreid):
    torch.manual_seed(0)
    engine = metric_engine(quadruplet=QuadrupletLoss(adaptive=False), escape=EscapeLoss())
    engine.set_model_mode("train")
    before = engine.model.classifier.weight.clone()
    batch = {"img": torch.rand(8, 3, 64, 32), "pid": torch.arange(4).repeat_interleave(2)}
    steps = [engine.forward_backward(batch) for _ in range(6)]
    assert set(steps[0]) == {"loss_quadruplet", "loss_escape", "loss"}
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert torch.equal(engine.model.classifier.weight, before)


@pytest.mark.parametrize("name", ["hacnn", "spectral_osnet_x0_25"])
def test_metric_losses_need_features(torchreid, name):
    model = ts.build_model(name, 4, loss="softmax", pretrained=False)
    optimizer = torch.optim.Adam(model.parameters())
    criterion = CombinedLoss(None, metric_losses={"quadruplet": QuadrupletLoss(adaptive=False)})
    with pytest.raises(InputError, match="build it with loss='triplet', got loss='softmax'"):
        ImageMetricEngine(NoData(), model, optimizer, use_gpu=False, criterion=criterion)


@pytest.mark.parametrize("losses", [{}, {"normalized_cut": NormalizedCutLoss()}])
def test_a_stock_model_has_no_cosines(torchreid, losses):
    model = ts.build_model("osnet_x0_25", 4, loss="triplet", pretrained=False)
    optimizer = torch.optim.Adam(model.parameters())
    criterion = CombinedLoss(None if losses else AMSoftmaxLoss(), metric_losses=losses)
    with pytest.raises(InputError, match="OSNet has no cosine classifier"):
        ImageMetricEngine(NoData(), model, optimizer, use_gpu=False, criterion=criterion)
