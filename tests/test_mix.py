"""Backbone families, identity losses, metric losses and attention axes mix: every pair, once.

The tables are the place to add a row. Combinations are chosen so that each pair of entries of two
tables occurs in one of them; the default run takes the first few, ``-m slow`` the rest.
"""

import itertools
import random

import pytest
import torch

import torchreid_spectral as ts
from tests.no_data import NoData
from torchreid_spectral.config import build, engines, get_default_config, merge_options
from torchreid_spectral.config.check import check_config
from torchreid_spectral.losses.registry import ID_LOSSES, METRIC_LOSSES

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

# Family: model, and the stage that attention goes after.
FAMILIES = {
    "resnet": ("spectral_resnet18", "layer3"),
    "osnet": ("spectral_osnet_x0_25", "conv4"),
    "se_resnet": ("spectral_se_resnet50", "layer3"),
    "pcb": ("spectral_pcb_p4", "layer3"),
}
ID = [*sorted(ID_LOSSES), ""]
METRIC = [*sorted(METRIC_LOSSES), ""]
# Axis: options of the block in model.attention, none for no block.
ATTENTION = {
    "none": None,
    "samples": {},
    "pixels": {"heads": 2},
    "pixels with positions": {"over": "pixels", "similarity": "appearance_and_position"},
    "channels": {},
    "frames": {"frames": 4},
}
METRIC_ON = ("plain", "walked", "both")  # turn and turn about
IN_THE_DEFAULT_RUN = 8
TABLES = (tuple(FAMILIES), tuple(ID), tuple(METRIC), tuple(ATTENTION))


def pairs_of(row):
    return set(itertools.combinations(enumerate(row), 2))


def possible(row):
    return bool(row[1] or row[2])  # no loss at all cannot be trained


def pairwise(tables, seed=0):
    """Choose rows, greedily, until every pair that is possible has occurred."""
    rows = [row for row in itertools.product(*tables) if possible(row)]
    random.Random(seed).shuffle(rows)
    missing = set().union(*map(pairs_of, rows))
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(pairs_of(row) & missing))
        missing -= pairs_of(best)
        chosen.append(best)
    return chosen


ROWS = pairwise(TABLES)


def test_the_rows_hold_every_pair():
    seen = set().union(*map(pairs_of, ROWS))
    for (a, left), (b, right) in itertools.combinations(enumerate(TABLES), 2):
        for x, y in itertools.product(left, right):
            assert ((a, x), (b, y)) in seen or (x, y) == ("", "")


def configured(row, number):
    family, id_loss, metric, axis = row
    name, stage = FAMILIES[family]
    options = {
        "model.name": name, "loss.name": "spectral", "loss.id": id_loss, "loss.metric": metric,
        "loss.metric_on": METRIC_ON[number % 3], "spectral.bottleneck_dim": "32",
        # Losses of two steps compare only where the margin does not move between them.
        "loss.quadruplet.adaptive": "False", "use_gpu": "False",
    }  # fmt: skip
    cfg = get_default_config()
    merge_options(cfg, [part for pair in options.items() for part in pair])
    block = ATTENTION[axis]
    if block is not None:
        cfg.model.attention = [{"after": stage, "over": axis, **block}]
    check_config(cfg)
    return cfg


def built(cfg, seed):
    torch.manual_seed(seed)
    with build.active_defaults(cfg):
        model = ts.build_model(cfg.model.name, 4, loss=cfg.loss.name, pretrained=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    return model, engines.build_engine(cfg, NoData(), model, optimizer, None)


def still(model):
    """Switch off what is drawn anew in each step, so that losses compare."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model


ROW_PARAMETERS = [
    pytest.param(
        row, number, id="-".join(part or "none" for part in row),
        marks=() if number < IN_THE_DEFAULT_RUN else pytest.mark.slow,
    )
    for number, row in enumerate(ROWS)
]  # fmt: skip


@pytest.mark.parametrize(("row", "number"), ROW_PARAMETERS)
def test_trains_two_steps_saves_and_tests(torchreid, row, number):
    cfg = configured(row, number)
    model, engine = built(cfg, seed=0)
    still(model).train()
    g = torch.Generator().manual_seed(1)
    targets = torch.arange(4).repeat_interleave(2)
    # Hard to tell apart, so that no metric loss is zero from the start.
    images = 0.1 * torch.randn(4, 3, 64, 32, generator=g)[targets]
    images = images + torch.randn(8, 3, 64, 32, generator=g)
    losses = [engine.forward_backward({"img": images, "pid": targets}) for _ in range(3)]
    values = [step["loss"] for step in losses]
    assert all(torch.isfinite(torch.tensor(list(step.values()))).all() for step in losses)
    assert values[2] < values[0], values

    again, other = built(cfg, seed=2)
    again.load_state_dict(model.state_dict())
    other.criterion.load_state_dict(engine.criterion.state_dict())
    model.eval(), again.eval()
    with torch.no_grad():
        features = model(images)
        torch.testing.assert_close(again(images), features)
        assert features.shape[0] == 8 and features.dim() == 2
        assert torch.isfinite(features).all()
        # In eval mode nothing is related across images (frames: across tracklets).
        torch.testing.assert_close(model(images[:4]), features[:4], rtol=1e-4, atol=1e-5)


def test_the_wrong_gradient_would_be_seen(torchreid):
    """Climbing instead of falling fails the check above."""
    cfg = configured(("osnet", "am_softmax", "", "none"), 0)
    model, engine = built(cfg, seed=0)
    still(model).train()
    engine.optimizer.param_groups[0]["maximize"] = True
    images, targets = torch.rand(8, 3, 64, 32), torch.arange(4).repeat_interleave(2)
    values = [engine.forward_backward({"img": images, "pid": targets})["loss"] for _ in range(3)]
    assert values[2] > values[0]
