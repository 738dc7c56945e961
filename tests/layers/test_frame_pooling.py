"""Tests of torchreid_spectral.layers.FramePooling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from tests.references.frame_pooling import attention_pool
from torchreid_spectral.layers import FramePooling


def frames(seed: int = 0, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (3, 5, 8)), dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_attention_equals_a_loop(temperature: float) -> None:
    x = frames()
    pooled, weights = attention_pool(x.numpy(), temperature)
    layer = FramePooling("attention", temperature)
    np.testing.assert_allclose(layer(x).numpy(), pooled, rtol=1e-9)
    np.testing.assert_allclose(layer.weights(x).numpy(), weights, rtol=1e-9)


def test_the_weights_are_those_of_the_pooling() -> None:
    x, layer = frames(), FramePooling()
    weights = layer.weights(x)
    torch.testing.assert_close(weights.sum(1), torch.ones(3).double())
    torch.testing.assert_close((weights[..., None] * x).sum(1), layer(x))


def test_an_outlier_counts_less() -> None:
    alike = frames(1, 1, 8).expand(5, 8) + 0.1 * frames(2, 5, 8)
    x = torch.cat([alike, frames(3, 1, 8)])[None]
    weights = FramePooling().weights(x)[0]
    assert weights[-1] < 0.5 * weights[:-1].min() and weights[-1] < 1 / 12


def test_limits() -> None:
    x = frames()
    torch.testing.assert_close(FramePooling(temperature=1e9)(x), x.mean(1))
    torch.testing.assert_close(FramePooling("avg")(x), x.mean(1))
    torch.testing.assert_close(FramePooling("max")(x), x.amax(1))
    for method in ("avg", "max", "attention"):
        layer = FramePooling(method)
        torch.testing.assert_close(layer(x[:, :1]), x[:, 0])
        torch.testing.assert_close(layer(x[:, :1].expand(3, 4, 8)), x[:, 0])


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), length=st.integers(1, 7), method=st.sampled_from(["max", "avg",
       "attention"]))  # fmt: skip
def test_the_order_of_frames_does_not_matter(seed: int, length: int, method: str) -> None:
    x = frames(seed, 2, length, 4)
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed))
    layer = FramePooling(method)
    torch.testing.assert_close(layer(x[:, order]), layer(x))


def test_tracklets_do_not_see_each_other() -> None:
    x, layer = frames(), FramePooling()
    torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]))


@pytest.mark.parametrize("method", ["avg", "max", "attention"])
def test_gradcheck(method: str) -> None:
    assert gradcheck(FramePooling(method, 0.5), frames().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    x = frames().to(dtype)
    assert FramePooling()(x).dtype == dtype
    exact = FramePooling()(x.double())
    torch.testing.assert_close(FramePooling()(x).double(), exact, atol=0.02, rtol=0.02)


def test_no_state() -> None:
    assert not FramePooling().state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mean"}, "must be one of .*'avg', 'max', 'attention'.*got 'mean'"),
        ({"temperature": 0.0}, "frame_temperature must be positive, got 0.0"),
        ({"temperature": float("nan")}, "must be positive, got nan"),
    ],
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FramePooling(**options)
