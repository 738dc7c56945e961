"""Tests of torchreid_spectral.models.necks, alone and in the head."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from torchreid_spectral.models import SpectralHead
from torchreid_spectral.models.necks import NORMS, build_neck


def features(*shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double() + 1


def normalize(values: list[float], eps: float = 1e-5) -> list[float]:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / len(values)
    return [(v - mean) / math.sqrt(variance + eps) for v in values]


def twin(norm: str, x: np.ndarray) -> np.ndarray:
    """Each kind of norm at its start, by what it takes mean and deviation over."""
    if norm == "bn":
        return np.array([normalize(list(column)) for column in x.T]).T
    if norm in {"ln", "in"}:
        return np.array([normalize(list(row)) for row in x])
    if norm == "gn":
        groups = [np.split(row, 32) for row in x]
        return np.array([sum((normalize(list(g)) for g in row), []) for row in groups])
    return x


@pytest.mark.parametrize("norm", NORMS)
def test_norms_match_reference(norm):
    x = features(5, 64)
    neck, width = build_neck(64, neck="bnneck", bottleneck_dim=8, norm=norm, activation="none")
    assert width == 64
    torch.testing.assert_close(neck.double()(x), torch.from_numpy(twin(norm, x.numpy())))


@pytest.mark.parametrize("norm", NORMS)
def test_bottleneck_is_fc_norm_activation(norm):
    x = features(6, 10)
    neck, width = build_neck(
        10, neck="bottleneck", bottleneck_dim=32, norm=norm, activation="relu"
    )
    neck.double()
    projected = (x @ neck[0].weight.T).detach().numpy()
    if norm == "gn":  # 32 groups of one entry
        projected = np.zeros_like(projected)
    else:
        projected = twin(norm, projected)
    assert width == 32
    torch.testing.assert_close(neck(x), torch.from_numpy(projected).clamp(min=0))


def test_bnneck_learns_a_scale_but_no_shift():
    head = SpectralHead(16, 4, neck="bnneck")
    trained = {name for name, p in head.named_parameters() if p.requires_grad}
    assert trained == {"prototypes", "bottleneck.0.weight"}
    assert head.prototypes.shape == (4, 16)
    x = features(8, 16).float()
    plain, walked = head(x)
    assert plain.shape == walked.shape == (8, 4)
    both = torch.cat([x, head.walk(x)])
    expected = nn.functional.batch_norm(both, None, None, training=True)
    expected = 15 * nn.functional.cosine_similarity(expected[:, None], head.prototypes, dim=-1)
    torch.testing.assert_close(torch.cat([plain, walked]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("neck", ["bottleneck", "bnneck"])
def test_every_head_trains_and_reloads(neck, norm):
    torch.manual_seed(0)
    options = {"neck": neck, "head_norm": norm, "bottleneck_dim": 64}
    head, other = (SpectralHead(64, 4, **options).double() for _ in range(2))
    x = features(6, 64)
    torch.stack(head(x)).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.requires_grad)
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(other.eval()(x), head.eval()(x))
    torch.testing.assert_close(head(x)[1:2], head(x[1:2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neck": "none"}, "neck must be one of.*bnneck"),
        ({"head_norm": "batch"}, "head_norm must be one of.*'gn'"),
        ({"activation": "gelu"}, "activation must be one of.*prelu"),
        ({"bottleneck_dim": -1}, "bottleneck_dim must be >= 0, got -1"),
        ({"head_norm": "gn", "bottleneck_dim": 40}, "32 groups, which must divide 40"),
    ],
)
def test_rejects(options, message):
    with pytest.raises(ValueError, match=message):
        SpectralHead(64, 4, **options)
