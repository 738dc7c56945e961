"""Tests of torchreid_spectral.models.parts: GeM and stripes on torchreid's backbones."""

import copy
import pickle

import pytest
import torch

import torchreid_spectral as ts
from torchreid_spectral.errors import InputError

FAMILIES = {"resnet18": 512, "osnet_x0_25": 512, "se_resnet50": 2048, "resnet50_ibn_a": 2048}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def images(batch=4):
    return torch.rand(batch, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def build(name, loss="spectral", **options):
    torch.manual_seed(0)
    return ts.build_model(f"spectral_{name}", 5, loss=loss, pretrained=False, **options)


def still(model):
    """Let training and eval give the same features: no dropout, running statistics."""
    for module in model.modules():
        if not list(module.children()):
            module.eval()
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_stripes_of_every_family(torchreid, name):
    width = FAMILIES[name]
    model, plain = build(name, stripes=2, pooling="gem"), build(name)
    assert len(model.heads) == 3
    outside = {key for key in model.state_dict() if not key.startswith("classifier")}
    named = {key for key in plain.state_dict() if not key.startswith("classifier")}
    assert outside - named == {k for k in outside if k.endswith("avgpool.p")}
    assert named <= outside  # weights of a baseline load
    outputs, features = model(images())
    assert len(outputs) == 6  # three parts, before and after their walks
    assert features.shape == (4, 3 * width)
    torch.stack([output.cosine.sum() for output in outputs]).sum().backward()
    assert all(p.grad is not None for p in model.classifier.parameters())
    assert model.eval()(images()).shape == (4, 3 * width)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("pooling", ["avg", "gem"])
def test_channels_last_changes_nothing(torchreid, name, pooling):
    model, x = build(name, stripes=2, pooling=pooling).eval(), images()
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    found = model(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_parts_are_stripes_of_the_map(torchreid):
    model = still(build("resnet18", "triplet", stripes=2))
    maps = []
    model.layer4.register_forward_hook(lambda m, a, out: maps.append(out.detach()))
    seen = []
    for head in model.heads:
        head.walk.register_forward_hook(lambda m, args, out: seen.append(args[0].detach()))
    _, features = model(images())
    half = maps[0].shape[2] // 2
    expected = [part.mean((2, 3)) for part in
                (maps[0], maps[0][:, :, :half], maps[0][:, :, half:])]  # fmt: skip
    for part, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(part, wanted)
    torch.testing.assert_close(model.eval()(images()), features)


def test_fc_acts_on_each_part(torchreid):
    model = still(build("osnet_x0_25", "triplet", stripes=2, global_part=False))
    maps = []
    model.conv5.register_forward_hook(lambda m, a, out: maps.append(out.detach()))
    model.eval()
    feature = model(images())
    half = maps[0].shape[2] // 2
    parts = [model.fc[2](model.fc[1](model.fc[0](part.mean((2, 3)))))
             for part in (maps[0][:, :, :half], maps[0][:, :, half:])]  # fmt: skip
    torch.testing.assert_close(feature, torch.stack(parts, 2).flatten(1))


def test_bottleneck_feature_of_parts(torchreid):
    model = build("resnet18", stripes=2, neck="bnneck", test_feature="bottleneck").eval()
    pooled = build("resnet18", stripes=2, neck="bnneck").eval()
    pooled.load_state_dict(model.state_dict())
    parts = model.classifier.parts_of(pooled(images()))
    expected = torch.cat([head.embed(part) for head, part in zip(model.heads, parts)], 1)
    torch.testing.assert_close(model(images()), expected)


def test_gem_changes_the_feature_and_is_trained(torchreid):
    model, plain = build("resnet18", "triplet", pooling="gem"), build("resnet18", "triplet")
    plain.load_state_dict(model.state_dict(), strict=False)
    assert (model.eval()(images()) > plain.eval()(images())).float().mean() > 0.9
    outputs, _ = model.train()(images())
    torch.stack(outputs).sum().backward()
    assert model.global_avgpool.p.grad is not None


def test_gem_of_pcbs_own_stripes(torchreid):
    model = build("pcb_p4", pooling="gem")
    outputs, _ = model(images())
    assert len(outputs) == 8
    assert model.parts_avgpool.rows == (4,)


def test_stripes_attend_to_each_other_by_place(torchreid):
    block = {"after": "global_avgpool", "over": "pixels", "similarity": "appearance_and_position"}
    model = build("resnet18", stripes=4, global_part=False, attention=[block])
    assert model.attention[0].transition(torch.rand(2, 512, 4, 1)).shape == (2, 1, 4, 4)
    assert len(model(images())[0]) == 8


COMPILED = """
import torch
from torch import nn
from torchreid_spectral.models.heads import SpectralHead
from torchreid_spectral.models.parts import PartwiseSequential, StripedHead

class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = PartwiseSequential(3, nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6)))
        self.classifier = StripedHead([SpectralHead(6, 5) for _ in range(3)])
        for head in self.classifier:
            head.gives_scores = True

    def forward(self, x):
        features = self.fc(x)
        return self.classifier(features), features

torch.manual_seed(0)
parts, x = Parts(), torch.rand(4, 24)
expected, found = parts(x), torch.compile(parts, backend="aot_eager")(x)
torch.testing.assert_close(found[1], expected[1])
for pair, other in zip(expected[0], found[0], strict=True):
    for one, two in zip(pair, other, strict=True):
        torch.testing.assert_close(two.cosine, one.cosine)
        torch.testing.assert_close(two.feature, one.feature)
"""


def test_compiled_parts_are_those_of_the_model(python):
    """A process without the checks of types, which cannot be traced."""
    python("-c", COMPILED)


def test_copies_and_pickles(torchreid):
    model = build("osnet_x0_25", stripes=2, pooling="gem").eval()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(images()), model(images()))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hacnn", {"pooling": "gem"}, "HACNN, which pools no single map"),
        ("pcb_p4", {"stripes": 2}, "PCB, which has stripes of its own"),
        ("resnet50mid", {"stripes": 2}, "stripes does not fit ResNetMid"),
        ("resnet18", {"pooling": "max"}, "pooling must be one of.*gem"),
        ("resnet18", {"stripes": -1}, "stripes must be >= 0, got -1"),
        ("pcb_p4", {"test_feature": "bottleneck"}, "does not fit PCB"),
    ],
)
def test_rejects(torchreid, name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)
    assert issubclass(InputError, ValueError)
