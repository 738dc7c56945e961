"""A backbone of one's own, as docs/extending.md describes it."""

import re

import pytest
import torch
from torch import nn

import torchreid_spectral as ts
from torchreid_spectral.errors import InputError
from torchreid_spectral.losses import ClassScores

from .conftest import REPOSITORY


@pytest.fixture
def documented(factory):
    """What the lines of the page define."""
    page = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    exec(block, names)
    return names


def test_the_lines_of_the_page_give_a_twin(documented, factory):
    model = documented["model"].train()
    plain, walked = model(torch.rand(8, 3, 32, 16))
    assert plain.shape == walked.shape == (8, 751) and not torch.equal(plain, walked)
    assert {"small_net", "spectral_small_net"} <= factory.keys()
    built = ts.build_model("spectral_small_net", 5, loss="triplet", pretrained=False).train()
    outputs, feature = built(torch.rand(8, 3, 32, 16))
    assert len(outputs) == 2 and feature.shape == (8, 32)
    blocks = [{"after": "layer1", "over": "pixels"}]
    options = {"pooling": "gem", "stripes": 2, "attention": blocks}
    striped = ts.build_model("spectral_small_net", 5, loss="spectral", pretrained=False, **options)
    outputs, feature = striped.train()(torch.rand(8, 3, 32, 16))
    assert len(outputs) == 6 and all(isinstance(each, ClassScores) for each in outputs)


def test_names_that_are_taken(documented):
    net = documented["SmallNet"]
    with pytest.raises(InputError, match="There is a model 'small_net' already"):
        ts.register_backbone("small_net", net)
    ts.register_backbone("small_net", net, overwrite=True)
    with pytest.raises(InputError, match="must not begin with spectral_, got 'spectral_mine'"):
        ts.register_backbone("spectral_mine", net)


class Odd(nn.Module):
    """A backbone that gives in training what ``kind`` says."""

    def __init__(self, num_classes, kind, **_):
        super().__init__()
        self.kind = kind
        self.classifier = nn.Linear(12, num_classes)

    def forward(self, x):
        v = x.flatten(1)[:, :12]
        if not self.training:
            return v
        y = self.classifier(v)
        three = (y, v, v)
        return {"output": y, "named": {"y": y, "v": v}, "three": three, "pair": (y, v),
                "swapped": (v, y)}[self.kind]  # fmt: skip


@pytest.mark.parametrize("loss", ["softmax", "triplet", "spectral"])
@pytest.mark.parametrize("supervision", ["plain", "both"])
@pytest.mark.parametrize("kind", ["output", "named", "three", "swapped", "pair"])
def test_a_backbone_without_its_feature_is_refused(factory, kind, supervision, loss):
    """Its heads' two branches are no output and feature, though they are two."""
    ts.register_backbone("odd", lambda num_classes, **given: Odd(num_classes, kind, **given))
    model = ts.build_model("spectral_odd", 5, loss=loss, supervision=supervision).train()
    images = torch.rand(8, 3, 4, 4)
    if kind == "pair":
        model(images)
        return
    with pytest.raises(InputError, match=r"Odd must give its classifier.s output and its feature"):
        model(images)


@pytest.mark.parametrize("contract", ["softmax", "triplet", "spectral"])
@pytest.mark.parametrize("supervision", ["plain", "walked", "both", "plain_twice"])
@pytest.mark.parametrize("shuffling", [False, True])
def test_every_kind_of_output_is_taken(torchreid, shuffling, supervision, contract):
    options = {"supervision": supervision, "group_shuffling": shuffling, "heads": 2}
    name = "spectral_osnet_x0_25"
    model = ts.build_model(name, 5, loss=contract, pretrained=False, **options).train()
    branches = {"plain": 1, "walked": 1 + shuffling, "both": 2 + shuffling, "plain_twice": 2}
    outputs = model(torch.rand(4, 3, 64, 32))
    outputs = outputs if contract == "softmax" else outputs[0]
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    assert len(outputs) == branches[supervision]
    model.classifier.eval()  # a head that rests gives one branch
    outputs = model(torch.rand(4, 3, 64, 32))
    outputs = outputs if contract == "softmax" else outputs[0]
    assert isinstance(outputs, torch.Tensor) == (contract != "spectral")


def test_attention_finds_stages_of_a_backbone_of_one_size(documented, factory):
    class Fixed(documented["SmallNet"]):
        def forward(self, x):
            self.fixed(self.layer1(x).flatten(1))
            return super().forward(x)

        def __init__(self, num_classes, **given):
            super().__init__(num_classes, **given)
            self.fixed = nn.Linear(32 * 15 * 7, 3)

    ts.register_backbone("fixed", Fixed)
    blocks = [{"after": "layer1", "over": "channels"}]
    model = ts.build_model("spectral_fixed", 5, attention=blocks).train()
    assert len(model(torch.rand(4, 3, 32, 16))) == 2
