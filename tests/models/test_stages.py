"""Tests of torchreid_spectral.models.stages: attention in every family of backbones."""

import copy
import pickle

import pytest
import torch

import torchreid_spectral as ts
from torchreid_spectral.config import build as config_build
from torchreid_spectral.config import get_default_config, merge_file, merge_options
from torchreid_spectral.config.check import check_config
from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.models.stages import find_stages, insert_attention

RESNET = {f"layer{i}": 64 * 2 ** (i - 1) for i in range(1, 5)}
SE = {f"layer{i}": 256 * 2 ** (i - 1) for i in range(1, 5)}
OSNET = {"conv2": 64, "conv3": 96, "conv4": 128, "conv5": 128}
FAMILIES = {"resnet18": RESNET, "osnet_x0_25": OSNET, "se_resnet50": SE}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def images(batch=4):
    return torch.rand(batch, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def build(name, attention=(), loss="softmax", **options):
    torch.manual_seed(0)
    return ts.build_model(
        f"spectral_{name}", 5, loss=loss, pretrained=False, attention=attention, **options
    )


def wake(model):
    """Let the blocks act: they start as the identity."""
    for name, parameter in model.attention.named_parameters():
        if "output" in name:
            torch.nn.init.ones_(parameter)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_stages_are_found(torchreid, name):
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = find_stages(model)
    assert FAMILIES[name].items() <= found.items()
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("over", ["samples", "pixels", "channels", "frames"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_axis_in_every_family(torchreid, name, over):
    after = list(FAMILIES[name])[2]
    block = {"after": after, "over": over} | ({"frames": 2} if over == "frames" else {})
    plain, model = build(name), build(name, [block], "triplet")
    names = set(model.state_dict()) - set(plain.state_dict())
    assert names and all(key.startswith("attention.0.") for key in names)
    plain.load_state_dict(model.state_dict(), strict=False)
    x = images()
    plain.eval(), model.eval()
    torch.testing.assert_close(model(x), plain(x))  # the identity at the start
    wake(model)
    assert not torch.allclose(model(x), plain(x))
    model.train()
    outputs, features = model(x)
    assert len(outputs) == 2
    torch.stack(outputs).square().sum().backward()
    assert all(p.grad is not None for p in model.attention.parameters())


@pytest.mark.parametrize("over", ["samples", "pixels", "channels"])
def test_eval_looks_at_one_image(torchreid, over):
    model = wake(build("osnet_x0_25", [{"after": "conv3", "over": over}])).eval()
    x = images()
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("after", ["layer4", "parts_avgpool"])
def test_without_residual_maps_keep_the_layout_that_pcb_flattens(torchreid, after):
    block = {"after": after, "over": "pixels", "residual": False}
    model = build("pcb_p4", [block])
    outputs = model(torch.rand(2, 3, 96, 48))
    torch.stack([output.sum() for output in outputs]).sum().backward()
    assert model.eval()(torch.rand(2, 3, 96, 48)).dim() == 2


def test_replicas_are_refused_where_blocks_stay_behind(torchreid):
    model = build("resnet18", [{"after": "layer1", "over": "pixels"}]).eval()
    model._is_replica = True
    with pytest.raises(RuntimeError, match="leaves attention blocks on the first"):
        model(images())


def test_copies_and_pickles_have_their_own_block(torchreid):
    model = wake(build("resnet18", [{"after": "layer1", "over": "channels"}])).eval()
    expected = model(images())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(images()), expected)
        torch.nn.init.constant_(other.attention[0].output.weight, 5.0)
        assert not torch.allclose(other(images()), expected)
    torch.testing.assert_close(model(images()), expected)


def test_several_blocks_run_in_their_order(torchreid):
    blocks = [{"after": "layer2", "over": "pixels"}, {"after": "layer2", "over": "channels"}]
    model = build("resnet18", blocks)
    ran = []
    for i, block in enumerate(model.attention):
        block.register_forward_hook(lambda m, a, o, i=i: ran.append(i))
    model(images())
    assert ran == [0, 1]


def test_non_local_of_half_the_width(torchreid):
    (block,) = build("resnet18", [{"after": "layer3", "over": "pixels", "heads": 4}]).attention
    assert tuple(block.query.weight.shape) == (128, 256)
    assert (block.heads, block.similarity, block.temperature) == (4, "dot", 1.0)


def test_stripes_of_pcb_relate_by_place(torchreid):
    block = {"after": "parts_avgpool", "over": "pixels", "similarity": "appearance_and_position"}
    model = wake(build("pcb_p4", [block]))
    shapes = []
    model.attention[0].register_forward_hook(lambda m, a, out: shapes.append(out.shape))
    assert len(model(images())) == 8
    assert shapes == [(4, 2048, 4, 1)]


def test_from_yaml_and_command_line(torchreid, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "model:\n  name: spectral_resnet18\n"
        "  attention: [{after: layer3, over: pixels, heads: 4}]\n"
    )
    cfg = get_default_config()
    merge_file(cfg, path)
    assert config_build.model_options(cfg)["attention"][0]["heads"] == 4
    merge_options(cfg, ["model.attention", "[{'after': 'layer1', 'over': 'channels'}]"])
    check_config(cfg)
    with config_build.active_defaults(cfg):
        model = ts.build_model("spectral_resnet18", 5, pretrained=False)
    assert model.attention[0].over == "channels"


def test_frames_know_the_length_of_a_tracklet(torchreid):
    cfg = get_default_config()
    merge_options(cfg, ["model.name", "spectral_resnet18"])
    merge_options(cfg, ["model.attention", "[{'after': 'layer1', 'over': 'frames'}]"])
    with pytest.raises(InputError, match="over frames needs tracklets: set data.type video"):
        check_config(cfg)
    merge_options(cfg, ["data.type", "video", "video.seq_len", "7"])
    assert config_build.model_options(cfg)["attention"][0]["frames"] == 7


@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        ({"after": "layer9", "over": "pixels"}, UnknownNameError,
         r"stage of ResNet \(it has conv1.*layer3, layer4\) 'layer9'. Did you mean layer"),
        ({"after": "layer3", "over": "pixel"}, UnknownNameError, "axis 'pixel'.*pixels"),
        ({"after": "layer3", "over": "pixels", "head": 2}, UnknownNameError,
         "option of attention 'head'.*heads"),
        ({"over": "pixels"}, InputError, "takes entries such as"),
        ("layer3", InputError, "takes entries such as"),
        ({"after": "layer3", "over": "pixels", "heads": 3}, InputError,
         "over pixels: heads must divide the feature width 128, got 3"),
        ({"after": "layer3", "over": "pixels", "memory": 9}, InputError, "for over='samples'"),
    ],
)  # fmt: skip
def test_rejects(torchreid, block, error, message):
    with pytest.raises(error, match=message):
        build("resnet18", [block])


def test_plain_models_take_none(torchreid):
    cfg = get_default_config()
    merge_options(cfg, ["model.attention", "[{'after': 'layer1', 'over': 'channels'}]"])
    with pytest.raises(InputError, match="got model.name resnet50. Use spectral_resnet50"):
        check_config(cfg)


def test_a_stage_that_is_not_run_is_none(torchreid):
    """ResNet50mid calls the blocks of its layer4 one by one: a hook would never be called."""
    model = build("resnet50mid")
    assert "layer4" not in find_stages(model)
    insert_attention(model, [])
    assert not hasattr(model, "attention")


@pytest.mark.parametrize("configured", [None, 2])
def test_frames_of_tracklets_do_not_stay(torchreid, configured):
    block = {"after": "conv4", "over": "frames"} | ({"frames": configured} if configured else {})
    model = wake(build("osnet_x0_25", [block])).eval()
    x = images(4)
    if configured:
        before = model(x)
    model(images(6).unflatten(0, (2, 3)))
    assert model.attention[0].frames == configured
    if configured:
        assert torch.equal(model(x), before)
    else:  # images of nobody knows which tracklet
        with pytest.raises(ValueError, match="frames must be given and divide 4"):
            model(x)
