"""Tests of torchreid_spectral.layers.SpectralAttention."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

from tests.references import layer as reference
from torchreid_spectral.functional import random_walk, transition_matrix
from torchreid_spectral.layers import SpectralAttention

INF = float("inf")
LINEAR = {"dim": 8, "query": "linear", "key": "linear", "value": "linear"}
CASES = {
    "default": {},
    "temperature": {"temperature": 0.5},
    "learned temperature": {"temperature": 0.5, "learn_temperature": True},
    "heads": {"heads": 4, "temperature": 0.5},
    "dot": {"similarity": "dot", "temperature": 2.0},
    "query": {"dim": 8, "query": "linear", "temperature": 0.5},
    "key": {"dim": 8, "key": "linear", "temperature": 0.5},
    "value": {"dim": 8, "value": "linear"},
    "linear": {**LINEAR, "heads": 2, "similarity": "dot"},
    "no step": {"steps": 0},
    "many steps": {"steps": 4, "restart": 0.2, "temperature": 0.5},
    "limit": {"steps": INF, "restart": 0.2, "temperature": 0.5},
    "residual": {"residual": True},
    "residual, value": {"dim": 8, "value": "linear", "residual": True},
    "no self loops": {"self_loops": False},
    "top_k": {"top_k": 3, "temperature": 1.0},
    "detached": {"detach_transition": True},
    "scaled dot": {"similarity": "scaled_dot", "heads": 2, "temperature": 1.0},
    "mutual": {"top_k": 3, "mutual": True, "temperature": 0.5, "steps": 2},
    "mutual, no self loops": {"top_k": 1, "mutual": True, "self_loops": False},
    "symmetric": {"normalization": "symmetric", "temperature": 0.5, "steps": 2},
    "symmetric, mutual": {"normalization": "symmetric", "mutual": True, "top_k": 4},
    "groups": {"heads": 2, "group_shuffling": True, "temperature": 0.5},
    "groups, limit": {"heads": 4, "group_shuffling": True, "steps": INF, "restart": 0.05},
    "narrow": {**LINEAR, "inner_dim": 4, "heads": 2, "output": "linear", "residual": True},
    "gate": {"output": "gate", "residual": True},
    "all": {
        **LINEAR,
        "temperature": 0.3,
        "heads": 2,
        "steps": 3,
        "restart": 0.1,
        "residual": True,
        "self_loops": False,
        "top_k": 4,
    },
}
every_case = pytest.mark.parametrize("case", CASES)


def features(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def people(images: int = 8, noise: float = 0.2) -> torch.Tensor:
    """Tight clusters, as images of the same person are: rows of near-equal affinity."""
    g = torch.Generator().manual_seed(0)
    centers = torch.randn(16, 64, generator=g).abs().repeat_interleave(images, 0)
    return centers + noise * torch.randn(centers.shape, generator=g)


def build(case: str, dtype: torch.dtype = torch.float64) -> SpectralAttention:
    torch.manual_seed(0)
    layer = SpectralAttention(**CASES[case]).to(dtype)
    if CASES[case].get("output") == "gate":
        nn.init.constant_(layer.output.weight, 0.5)  # it starts at zero
    return layer


def twin_options(layer: SpectralAttention, case: str) -> dict:
    """Translate the layer into what its twin takes: matrices for the linear maps."""
    ignored = {"dim", "inner_dim", "output", "learn_temperature", "detach_transition"}
    ignored |= {"query", "key", "value"}
    options = {name: v for name, v in CASES[case].items() if name not in ignored}
    options.setdefault("temperature", 0.1)
    for name in ("query", "key", "value"):
        if CASES[case].get(name) == "linear":
            linear = layer.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            bias = None if linear.bias is None else linear.bias.detach().double().numpy()
            options[name] = (linear.weight.detach().double().numpy(), bias)
    if CASES[case].get("output") == "linear":
        options["output"] = (layer.output.weight.detach().double().numpy(), None)
    elif CASES[case].get("output") == "gate":
        options["output"] = (layer.output.weight.item() * np.eye(8), None)
    return options


@every_case
def test_matches_reference(case: str) -> None:
    layer, x = build(case), features(1, 6, 8)
    expected = reference.spectral_attention(x.numpy(), **twin_options(layer, case))
    # a learned temperature is the logarithm's float32 rounding away from the number given
    rtol = 1e-6 if "learned" in case else 1e-10
    torch.testing.assert_close(layer(x), torch.from_numpy(expected), rtol=rtol, atol=rtol / 10)


@every_case
def test_matches_reference_in_float32(case: str) -> None:
    layer, x = build(case, torch.float32), features(1, 6, 8, dtype=torch.float32)
    actual = layer(x)
    assert actual.dtype == torch.float32
    expected = reference.spectral_attention(x.double().numpy(), **twin_options(layer, case))
    expected = torch.from_numpy(expected)
    torch.testing.assert_close(actual.double(), expected, rtol=2e-6, atol=1e-6)


@every_case
def test_transition_matches_reference(case: str) -> None:
    layer, x = build(case), features(2, 6, 8)
    options = twin_options(layer, case)
    walk = {"value", "steps", "restart", "residual", "group_shuffling", "output"}
    graph = {name: v for name, v in options.items() if name not in walk}
    expected = [torch.from_numpy(t) for t in reference.transitions(x.numpy(), **graph)]
    expected = torch.stack(expected) if len(expected) > 1 else expected[0]
    actual = layer.transition(x)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)
    if "symmetric" not in case:
        torch.testing.assert_close(actual.sum(-1), torch.ones(actual.shape[:-1]).double())


def test_default_is_one_walk_on_the_cosine_graph() -> None:
    x = features(3, 6, 8)
    torch.testing.assert_close(SpectralAttention()(x), random_walk(transition_matrix(x), x))
    torch.testing.assert_close(SpectralAttention().transition(x), transition_matrix(x))


def test_heads_are_independent_walks() -> None:
    x = features(4, 6, 8)
    actual = SpectralAttention(heads=2)(x)
    alone = SpectralAttention()
    torch.testing.assert_close(actual, torch.cat([alone(x[:, :4]), alone(x[:, 4:])], 1))
    assert SpectralAttention(heads=2).transition(x).shape == (2, 6, 6)
    assert alone.transition(x).shape == (6, 6)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 8), case=st.sampled_from(list(CASES)))
def test_order_of_the_batch_does_not_matter(seed: int, n: int, case: str) -> None:
    layer, x = build(case), features(seed, n, 8)
    perm = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(layer(x[perm]), layer(x)[perm])


def test_limits() -> None:
    x = features(5, 6, 8)
    torch.testing.assert_close(SpectralAttention(temperature=1e9)(x), x.mean(0).expand_as(x))
    torch.testing.assert_close(SpectralAttention(temperature=1e-4)(x), x)
    torch.testing.assert_close(SpectralAttention(steps=0)(x), x)
    torch.testing.assert_close(SpectralAttention(steps=0, residual=True)(x), 2 * x)
    torch.testing.assert_close(SpectralAttention(top_k=1)(x), x)
    torch.testing.assert_close(SpectralAttention(steps=3, restart=1.0)(x), x)
    torch.testing.assert_close(
        SpectralAttention(steps=INF, restart=0.2)(x), SpectralAttention(steps=400, restart=0.2)(x)
    )


@pytest.mark.parametrize("case", [case for case in CASES if case != "detached"])
def test_gradcheck(case: str) -> None:
    layer, x = build(case), features(6, 5, 8).requires_grad_()
    assert gradcheck(layer, x, fast_mode=True)


@pytest.mark.parametrize("case", [c for c in CASES if "learned" in c or "dim" in CASES[c]])
def test_every_parameter_learns(case: str) -> None:
    layer, x = build(case), features(7, 6, 8)
    layer(x).square().sum().backward()
    assert list(layer.parameters())
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert "bias" in name or torch.count_nonzero(parameter.grad) > 0, name


def test_detached_transition_sends_the_gradient_through_the_values_only() -> None:
    x, upstream = features(8, 6, 8).requires_grad_(), features(9, 6, 8)
    layer = SpectralAttention(temperature=0.5, detach_transition=True)
    layer(x).backward(upstream)
    torch.testing.assert_close(x.grad, layer.transition(x).detach().mT @ upstream)
    attached = features(8, 6, 8).requires_grad_()
    SpectralAttention(temperature=0.5)(attached).backward(upstream)
    assert (attached.grad - x.grad).abs().max() > 0.1


def test_learned_temperature() -> None:
    layer, x = SpectralAttention(temperature=0.3, learn_temperature=True), features(10, 6, 8)
    assert [name for name, _ in layer.named_parameters()] == ["log_temperature"]
    assert layer.log_temperature.item() == pytest.approx(math.log(0.3), rel=1e-6)
    torch.testing.assert_close(
        layer.double()(x), SpectralAttention(temperature=0.3)(x), rtol=1e-5, atol=1e-6
    )
    with torch.no_grad():
        layer.log_temperature.fill_(math.log(2.0))
    torch.testing.assert_close(layer(x), SpectralAttention(temperature=2.0)(x))


def test_learned_temperature_stays_positive() -> None:
    layer, x = SpectralAttention(temperature=0.1, learn_temperature=True), features(11, 6, 8)
    with torch.no_grad():
        layer.log_temperature.sub_(5.0)  # subtracted from the temperature, it would be negative
    torch.testing.assert_close(layer.double()(x), x)


def test_nothing_to_learn_by_default() -> None:
    assert list(SpectralAttention().parameters()) == []
    assert "log_temperature" not in SpectralAttention(**LINEAR).state_dict()


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 4e-3), (torch.bfloat16, 4e-2)])
def test_half_precision(dtype: torch.dtype, atol: float) -> None:
    layer, x = SpectralAttention(temperature=0.02), people().to(dtype)
    actual = layer(x)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), layer(x.double()), rtol=0, atol=atol)
    t, expected = layer.transition(x), layer.transition(x.double())
    torch.testing.assert_close(t.double(), expected, rtol=0, atol=atol / 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_case
def test_half_precision_keeps_the_dtype(case: str, dtype: torch.dtype) -> None:
    out = build(case, dtype)(features(12, 6, 8).to(dtype))
    assert out.dtype == dtype
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("case", [case for case in CASES if "dim" not in CASES[case]])
def test_autocast_does_not_cost_precision(case: str) -> None:
    layer, x = build(case, torch.float32), people()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        t, out = layer.transition(x), layer(x)
    torch.testing.assert_close(t, layer.transition(x))
    torch.testing.assert_close(out, layer(x))


@every_case
def test_autocast_runs(case: str) -> None:
    layer, x = build(case, torch.float32), features(13, 6, 8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x.requires_grad_())
    out.float().square().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()


@every_case
def test_state_dict_round_trip(case: str) -> None:
    layer, x = build(case), features(14, 6, 8)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other = SpectralAttention(**CASES[case]).double()
    other.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    assert torch.equal(other(x), layer(x))


@every_case
def test_deepcopy(case: str) -> None:
    layer, x = build(case), features(15, 6, 8)
    expected = layer(x)
    other = copy.deepcopy(layer)
    assert torch.equal(other(x), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(layer(x), expected)


@every_case
def test_input_is_left_alone(case: str) -> None:
    x = features(16, 6, 8)
    before = x.clone()
    build(case)(x)
    assert torch.equal(x, before)


def test_one_image_stays() -> None:
    x = features(17, 1, 8)
    for layer in (SpectralAttention(), SpectralAttention(steps=INF, restart=0.3, heads=2)):
        torch.testing.assert_close(layer(x), x)
    with pytest.raises(ValueError, match="needs self_loops=True"):
        SpectralAttention(self_loops=False)(x)


def test_duplicates_and_zero_vectors() -> None:
    x = torch.eye(4)[[0, 0, 1, 2]]
    x[3] = 0
    x.requires_grad_()
    out = SpectralAttention(temperature=1e-3)(x)
    torch.testing.assert_close(out[:3].detach(), x[:3].detach())
    torch.testing.assert_close(out[3].detach(), x.detach().mean(0))
    out.square().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_repr_shows_the_settings() -> None:
    layer = SpectralAttention(
        dim=8, temperature=0.25, heads=2, value="linear", steps=3, restart=0.125, top_k=5
    )
    text = layer.extra_repr()
    for shown in ("temperature=0.25", "heads=2", "steps=3", "restart=0.125", "top_k=5"):
        assert shown in text
    assert "temperature=0.1" in repr(SpectralAttention())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"over": "rows"}, "samples"),
        ({"query": "linear"}, "dim"),
        ({"key": "linear"}, "dim"),
        ({"value": "linear"}, "dim"),
        ({"query": "conv"}, "query.*identity|identity.*query"),
        ({"key": "conv"}, "key.*identity|identity.*key"),
        ({"value": "conv"}, "value.*identity|identity.*value"),
        ({"similarity": "euclidean"}, "similarity.*cosine"),
        ({"temperature": 0.0}, "temperature must be positive, got"),
        ({"temperature": -1.0, "learn_temperature": True}, "temperature must be positive, got"),
        ({"steps": -1}, "steps must be >= 0, got -1"),
        ({"steps": INF}, "restart"),
        ({"restart": 1.5}, r"restart must be in \[0, 1\], got"),
        ({"top_k": 0}, "top_k must be >= 1, got 0"),
        ({"dim": 9, "heads": 2}, "heads must divide the feature width 9, got 2"),
        ({"mutual": True}, "mutual=True needs top_k"),
        ({"memory": 8, "dim": 4, "self_loops": False}, "memory=8 does not go with.*self_loops"),
        ({"normalization": "columns"}, "normalization must be one of.*rows"),
        ({"normalization": "symmetric", "top_k": 3}, "needs mutual=True"),
        ({"normalization": "symmetric", "dim": 8, "key": "linear"}, "symmetric similarity"),
        ({"memory": -1}, "memory must be >= 0, got -1"),
        ({"memory": 4}, "dim must be given with a memory"),
        ({"memory": 4, "dim": 8, "top_k": 2, "mutual": True}, "kept nodes have no row"),
        ({"memory": 4, "dim": 8, "over": "pixels"}, "memory is for over='samples'"),
        ({"alone_in_eval": True, "over": "frames"}, "alone_in_eval is for over='samples'"),
        ({"group_shuffling": True}, "group_shuffling needs heads >= 2, got 1"),
        ({"group_shuffling": True, "heads": 2, "over": "pixels"}, "samples and frames"),
        ({"similarity": "appearance_and_position"}, "for over='pixels'"),
        ({"over": "channels", "dim": 8, "key": "linear"}, "takes no projections"),
        ({"frames": 3}, "frames is for over='frames'"),
        ({"output": "bn"}, "output must be one of"),
        ({"output": "norm"}, "dim must be given for output='norm'"),
        ({"dim": 8, "inner_dim": 4, "value": "linear"}, "needs output 'linear' or 'norm'"),
        ({"dim": 8, "inner_dim": 4, "key": "linear"}, "query and key must be of one width"),
        ({"heads": 0}, "heads"),
        ({"learn_temperature": True, "detach_transition": True}, "cuts off: choose one"),
    ],
)
def test_rejects_settings(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpectralAttention(**options)


def test_rejects_width_that_heads_do_not_divide() -> None:
    with pytest.raises(ValueError, match="heads"):
        SpectralAttention(heads=3)(torch.ones(4, 8))


@pytest.mark.parametrize("shape", [(4,), (2, 4, 8)])
def test_wrong_shapes_are_caught(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"over='samples' takes \(B, D\) or \(B, C, H, W\)"):
        SpectralAttention()(torch.ones(shape))


def test_groups_are_walks_of_the_whole_feature_on_each_slices_graph() -> None:
    x = features(20, 6, 8)
    layer = SpectralAttention(heads=2, group_shuffling=True, temperature=0.5)
    graphs = [transition_matrix(x[:, :4], 0.5), transition_matrix(x[:, 4:], 0.5)]
    walks = layer.walks(x)
    for graph, walked in zip(graphs, walks, strict=True):
        torch.testing.assert_close(walked, graph @ x)
    torch.testing.assert_close(layer(x), torch.stack(walks).mean(0))
    layer.residual = True
    torch.testing.assert_close(layer(x), torch.stack(layer.walks(x)).mean(0))
    (alone,) = SpectralAttention(heads=2).walks(x)
    torch.testing.assert_close(alone, SpectralAttention(heads=2)(x))


def test_alone_in_eval() -> None:
    x = features(21, 6, 8)
    layer = SpectralAttention(alone_in_eval=True, residual=True)
    torch.testing.assert_close(layer(x), SpectralAttention(residual=True)(x))
    torch.testing.assert_close(layer.eval()(x), 2 * x)
    layer = SpectralAttention(dim=8, value="linear", alone_in_eval=True).double().eval()
    torch.testing.assert_close(layer(x), layer.value(x))


def _gather(x: torch.Tensor) -> tuple[torch.Tensor, slice]:
    """Stand for three processes, this one the second, all seeing the same images."""
    return torch.cat([x + 1, x, x - 1]), slice(len(x), 2 * len(x))


@pytest.mark.parametrize("options", [{}, {"steps": 3, "heads": 2}, {"dim": 8, "memory": 4}])
def test_gathered_graph_gives_the_own_rows(options: dict) -> None:
    x = features(22, 4, 8)
    layer = SpectralAttention(**options, temperature=0.5).double()
    whole = SpectralAttention(**options, temperature=0.5).double()
    layer.gather = _gather
    for _ in range(2):
        torch.testing.assert_close(layer(x), whole(_gather(x)[0])[4:8])
    torch.testing.assert_close(layer.walks(x)[0], whole.walks(_gather(x)[0])[0][4:8])


def test_no_rows_are_gathered_in_eval() -> None:
    """Processes test batches of their own, and the first may run a model alone."""
    x = features(23, 4, 8)
    layer = SpectralAttention(temperature=0.5).eval()
    layer.gather = lambda rows: pytest.fail("gathered")
    torch.testing.assert_close(layer(x), SpectralAttention(temperature=0.5)(x))


def test_sync_batch_norm_takes_the_place_of_an_outputs() -> None:
    layer = SpectralAttention(over="pixels", dim=8, output="norm").double()
    norm = layer.output[1]
    for each in (norm.weight, norm.bias, norm.running_mean):
        torch.nn.init.normal_(each)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(layer))
    assert isinstance(synced.output[1], nn.SyncBatchNorm)
    assert synced.state_dict().keys() == layer.state_dict().keys()
    maps = features(24, 2, 8, 4, 6)
    torch.testing.assert_close(synced.eval()(maps), layer.eval()(maps))


def test_walks_of_groups_are_those_of_forward() -> None:
    layer = SpectralAttention(4, heads=2, group_shuffling=True, alone_in_eval=True).double()
    x = features(3, 5, 4)
    for mode in (True, False):
        layer.train(mode)
        torch.testing.assert_close(torch.stack(layer.walks(x)).mean(0), layer(x))
    layer.train()
    with pytest.raises(ValueError, match=r"groups take vectors .* \(6, 4, 3, 2\)"):
        layer.walks(features(4, 6, 4, 3, 2))
