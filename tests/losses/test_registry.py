"""Adding a loss is six steps; a missing one fails here.

File, registry line, reference twin with its case row, README row, config group, visible name.
"""

import inspect
import re
from pathlib import Path

import pytest
import torch

import torchreid_spectral as ts
from tests.losses.cases import DISTILLATION_CASES, ID_CASES, METRIC_CASES
from torchreid_spectral import losses
from torchreid_spectral.config import get_default_config
from torchreid_spectral.losses.registry import DISTILLATION_LOSSES, ID_LOSSES, METRIC_LOSSES

ROOM = Path(losses.__file__).parent
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
TABLES = {**ID_LOSSES, **METRIC_LOSSES, **DISTILLATION_LOSSES}
# Parts that losses are made of, and what puts them together: no losses of their own.
PARTS = {"MultiplicativeMarginLoss", "IdentityLoss", "MetricLoss"}
SUMS = {"CombinedLoss", "DeepSupervisionLoss"}


def test_every_file_with_a_loss_is_in_a_table():
    found = set()
    for path in ROOM.glob("*.py"):
        for name in re.findall(r"^class (\w+Loss)\(", path.read_text(), re.MULTILINE):
            found.add(name)
    assert found - PARTS - SUMS == {loss.__name__ for loss in TABLES.values()}


def test_lists_are_complete():
    assert ts.list_losses() == sorted(TABLES)
    assert not set(ID_LOSSES) & set(METRIC_LOSSES)


def test_every_loss_has_a_twin_and_a_case_row():
    assert set(ID_CASES) == set(ID_LOSSES)
    assert set(METRIC_CASES) == set(METRIC_LOSSES)
    assert set(DISTILLATION_CASES) == set(DISTILLATION_LOSSES)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_readme_row_names_the_file_and_a_config_line_that_exists(name):
    row = re.search(rf"^\| `{name}` \|.*$", README, re.MULTILINE)
    assert row, f"README.md has no row for {name}"
    file = Path(inspect.getfile(TABLES[name]))
    assert f"`losses/{file.name}`" in row[0]
    assert re.search(r"`(loss\.id|loss\.metric|distill\.teacher) ", row[0])


@pytest.mark.parametrize("name", sorted({**ID_LOSSES, **METRIC_LOSSES}))
def test_config_group_has_the_defaults_of_the_class(torchreid, name):
    from torchreid_spectral.config.losses import _options

    options = _options(get_default_config(), name)
    parameters = inspect.signature(TABLES[name]).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    if name == "softmax":  # torchreid's key, whose default is on
        assert options.pop("label_smoothing") == 0.1
        defaults.pop("label_smoothing")
    assert options == defaults


def test_distill_group_has_the_defaults_of_dark_rank():
    group = get_default_config().distill
    for key, parameter in inspect.signature(losses.DarkRankLoss).parameters.items():
        assert group[key] == parameter.default


def test_every_loss_is_visible_in_torchreid(torchreid):
    import torchreid as top

    for loss in TABLES.values():
        assert getattr(torchreid.losses, loss.__name__) is loss
        assert getattr(top.losses, loss.__name__) is loss
    from torchreid_spectral import _compat

    stock = _compat.submodule("losses.hard_mine_triplet_loss").TripletLoss
    assert torchreid.losses.TripletLoss is stock  # torchreid's own names are left alone


@pytest.mark.parametrize("name", sorted(TABLES))
def test_docstring_names_its_source(name):
    text = inspect.getsource(inspect.getmodule(TABLES[name]))
    assert re.search(r"^(Paper|Source|Label smoothing)", text, re.MULTILINE)


@pytest.mark.parametrize("name", sorted({**ID_LOSSES, **METRIC_LOSSES}))
def test_built_alone_by_its_name(torchreid, name):
    model = ts.build_model("spectral_osnet_x0_25", 4, loss=name, pretrained=False)
    expected = "softmax" if name == "softmax" else "triplet" if name == "triplet" else "spectral"
    assert model.contract == expected
    assert isinstance(TABLES[name]().state_dict(), dict)
    assert all(isinstance(v, torch.Tensor) for v in TABLES[name]().state_dict().values())
