"""Tests of SpectralAttention over pixels, channels, frames and samples of maps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

from tests.references import attention as reference
from torchreid_spectral.layers import SpectralAttention
from torchreid_spectral.layers.axes import AXES, channels_last, from_nodes, to_nodes

LINEAR = {"query": "linear", "key": "linear", "value": "linear"}
NON_LOCAL = {
    **LINEAR,
    "over": "pixels",
    "similarity": "dot",
    "temperature": 1.0,
    "output": "norm",
    "residual": True,
}
FRAMES = {**LINEAR, "over": "frames", "similarity": "scaled_dot", "temperature": 1.0}
BLOCKS = {
    "samples": {"over": "samples", "output": "gate", "residual": True},
    "pixels": {**NON_LOCAL, "inner_dim": 4},
    "pixels, heads": {**NON_LOCAL, "inner_dim": 4, "heads": 2},
    "pixels, position": {**NON_LOCAL, "inner_dim": 4, "similarity": "appearance_and_position"},
    "pixels, cosine": {"over": "pixels", "temperature": 0.1, "residual": True},
    "channels": {"over": "channels", "output": "gate", "residual": True},
    "channels, bands": {"over": "channels", "heads": 2},
    "frames": {**FRAMES, "frames": 3, "output": "norm", "residual": True},
}


def maps(seed: int = 0, shape: tuple[int, ...] = (6, 8, 4, 2)) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=g)


def build(dim: int = 8, **options) -> SpectralAttention:
    torch.manual_seed(0)
    layer = SpectralAttention(dim, **options).double()
    for name, parameter in layer.named_parameters():
        if name.startswith("output") and not parameter.any():
            nn.init.normal_(parameter)  # norms and gates start at zero
    return layer


def matrices(layer: SpectralAttention):
    linears = (layer.query, layer.key, layer.value)
    return [linear.weight.detach().numpy() for linear in linears]


def test_non_local_block():
    layer, x = build(**NON_LOCAL, inner_dim=4), maps(shape=(2, 8, 3, 2))
    assert [tuple(m.shape) for m in matrices(layer)] == [(4, 8)] * 3  # really C/2
    linear, norm = layer.output
    expected = reference.non_local(
        x.numpy(),
        *matrices(layer),
        linear.weight.detach().numpy(),
        norm.weight.detach().numpy(),
        norm.bias.detach().numpy(),
    )
    torch.testing.assert_close(layer(x), torch.from_numpy(expected), rtol=1e-9, atol=1e-10)


def test_channels_are_danets():
    layer = build(**BLOCKS["channels"], similarity="dot", temperature=1.0)
    x = maps(shape=(2, 8, 3, 2))
    expected = reference.channels(x.numpy(), layer.output.weight.item())
    torch.testing.assert_close(layer(x), torch.from_numpy(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_frames_are_a_transformers(heads):
    layer, x = build(**FRAMES, heads=heads, output="linear"), maps(shape=(3, 5, 8))
    wo = layer.output.weight.detach().numpy()
    tracklets = [reference.multi_head(t.numpy(), *matrices(layer), wo, heads) for t in x]
    expected = torch.from_numpy(np.stack(tracklets))
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-12)
    theirs = nn.MultiheadAttention(8, heads, bias=False, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(
            torch.cat([m.weight for m in (layer.query, layer.key, layer.value)])
        )
        theirs.out_proj.weight.copy_(layer.output.weight)
    torch.testing.assert_close(layer(x), theirs(x, x, x)[0])


def test_samples_of_maps():
    layer, x = build(over="samples", temperature=0.5), maps()
    expected = torch.from_numpy(reference.samples(x.numpy(), 0.5))
    torch.testing.assert_close(layer(x), expected)


def test_frames_of_maps_are_frames_of_what_they_hold():
    x = maps(shape=(6, 8, 4, 2))
    actual = build(over="frames", frames=3)(x)
    flat = build(None, over="frames")(x.flatten(1).unflatten(0, (2, 3)))
    torch.testing.assert_close(actual, flat.flatten(0, 1).view_as(x))


def test_fewer_maps_than_frames_are_one_shorter_tracklet():
    x = maps(shape=(2, 8, 4, 2))
    short = build(over="frames", frames=5)(x)
    torch.testing.assert_close(short, build(over="frames", frames=2)(x))


def test_relation_matches_reference():
    layer = build(
        over="pixels", query="linear", key="linear", inner_dim=4, temperature=1.0,
        similarity="appearance_and_position",
    )  # fmt: skip
    x, weight = maps(shape=(2, 8, 3, 4)), layer.position.weight
    wq, wk = layer.query.weight.detach().numpy(), layer.key.weight.detach().numpy()
    expected = [
        reference.relation(
            image.numpy(), wq, wk, weight.weight.detach().numpy()[0], weight.bias.item()
        )
        for image in x
    ]
    torch.testing.assert_close(layer.transition(x)[:, 0], torch.from_numpy(np.stack(expected)))


def test_position_alone_does_not_depend_on_where_the_grid_begins():
    term = build(over="pixels", similarity="appearance_and_position", heads=2).position
    whole = term(4, 3).view(2, 4, 3, 4, 3)
    torch.testing.assert_close(whole[:, :2, :2, :2, :2], whole[:, 2:, 1:, 2:, 1:])
    torch.testing.assert_close(whole[:, :2, 0, :2, 0].reshape(2, 2, 2), term(2, 1))


def test_stripes_are_pixels_of_a_map_one_wide():
    x = maps(shape=(2, 8, 6, 1))
    layer = build(**{**NON_LOCAL, "similarity": "appearance_and_position"}, inner_dim=4)
    assert layer.transition(x).shape == (2, 1, 6, 6)
    assert layer(x).shape == x.shape


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_start_as_the_identity_unless_they_have_no_output(name):
    options, x = BLOCKS[name], maps()
    layer = SpectralAttention(8, **options).double()
    assert torch.equal(layer(x), x) == (options.get("output") in {"norm", "gate"})


@pytest.mark.parametrize("name", BLOCKS)
def test_gradcheck(name):
    layer, x = build(**BLOCKS[name]), maps(shape=(6, 8, 2, 2)).requires_grad_()
    assert gradcheck(layer, x, fast_mode=True)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_parameter_learns(name):
    layer = build(**BLOCKS[name])
    layer(maps().requires_grad_()).square().sum().backward()
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", BLOCKS)
def test_half_precision_and_autocast(name, dtype):
    layer = build(**BLOCKS[name]).float()
    x = maps().float()
    expected = layer(x)
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(layer(x).float(), expected, rtol=0.1, atol=0.15)
        torch.testing.assert_close(
            layer.transition(x), layer.transition(x.double().float()), rtol=0, atol=0
        )
    half = layer.to(dtype)(x.to(dtype))
    assert half.dtype == dtype and half.isfinite().all()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(["samples", "pixels", "channels"]))
def test_order_of_the_nodes_does_not_matter(seed, name):
    layer, x = build(**BLOCKS[name]), maps(seed)
    g = torch.Generator().manual_seed(seed)
    if name == "samples":
        p = torch.randperm(6, generator=g)
        torch.testing.assert_close(layer(x[p]), layer(x)[p])
    elif name == "channels":
        p = torch.randperm(8, generator=g)
        torch.testing.assert_close(layer(x[:, p]), layer(x)[:, p])
    else:
        p = torch.randperm(8, generator=g)
        moved = x.flatten(2)[:, :, p].view_as(x)
        torch.testing.assert_close(layer(moved), layer(x).flatten(2)[:, :, p].view_as(x))


@pytest.mark.parametrize("name", BLOCKS)
def test_state_dict_round_trip(name):
    layer, other = build(**BLOCKS[name]), SpectralAttention(8, **BLOCKS[name]).double()
    layer(maps())
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other.eval()(maps(1)), layer.eval()(maps(1)))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("over", AXES)
def test_nodes_and_back(over, heads):
    x = channels_last(maps(shape=(6, 8, 4, 3)), over)
    nodes = to_nodes(x, over, heads, 3)
    assert (
        nodes.shape
        == {
            "samples": (1, heads, 6, 96 // heads),
            "pixels": (6, heads, 12, 8 // heads),
            "channels": (6, heads, 8, 12 // heads),
            "frames": (2, heads, 3, 96 // heads),
        }[over]
    )
    torch.testing.assert_close(from_nodes(nodes, x, over, 3), x)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"over": "pixels"}, (2, 8), r"over='pixels' takes \(B, C, H, W\), got .*\(2, 8\)"),
        ({"over": "frames"}, (2, 8), r"takes \(B, L, D\) or"),
        ({"over": "frames"}, (4, 8, 2, 2), "frames must be given and divide 4, got None"),
        ({"over": "frames", "frames": 3}, (4, 8, 2, 2), "divide 4, got 3"),
        ({"over": "channels", "heads": 3}, (2, 8, 2, 2), "divisible by heads=3, got 4"),
    ],
)
def test_rejects_inputs(options, shape, message):
    with pytest.raises(ValueError, match=message):
        SpectralAttention(8, **options)(torch.ones(shape))
