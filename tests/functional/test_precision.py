"""Tests of torchreid_spectral.functional._precision."""

import pytest
import torch

from torchreid_spectral.functional import _precision


@pytest.fixture
def setting():
    products, name = _precision._products, _precision._SETTING
    before = getattr(products, name)
    yield lambda: getattr(products, name)
    setattr(products, name, before)


def test_tf32_is_off_inside_and_back_after(setting):
    torch.set_float32_matmul_precision("high")
    try:
        before = setting()
        assert before in {"tf32", True}
        with _precision._exact_products():
            assert setting() in {"ieee", False}
        assert setting() == before
        with pytest.raises(KeyError), _precision._exact_products():
            raise KeyError
        assert setting() == before
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_nothing_is_set_on_a_cpu(setting, monkeypatch):
    def fail():
        raise AssertionError("set on a CPU")

    monkeypatch.setattr(_precision, "_exact_products", fail)
    with torch.autocast("cpu", dtype=torch.bfloat16), _precision.full_precision(torch.ones(1)):
        assert not torch.is_autocast_enabled("cpu")


FIRST = """
import torch
from torch.utils._python_dispatch import TorchDispatchMode
called = {}

class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, tensor = func.overloadpacket.__name__, next(iter(args), None)
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            called.setdefault((name, tensor.dtype), tensor.numel())
        return func(*args, **(kwargs or {}))

with Watch():
    import torchreid_spectral.functional
print(sorted(f"{name} {dtype} {count}" for (name, dtype), count in called.items()))
"""


def test_the_first_call_of_a_vector_function_is_of_one_thread(python):
    """Of two that come at once one may be less exact, and two runs of one seed differ."""
    found = python("-c", FIRST).stdout
    for name in ("sqrt", "exp", "log", "erf", "tanh"):
        for dtype in ("float32", "float64"):
            assert f"{name} torch.{dtype} 1'" in found


def tiny_product():
    return float(torch.full((3,), 1e-30).mul(1e-10).sum())


def test_denormals_are_zero_inside_and_back_after():
    assert tiny_product() > 0
    with _precision.denormals_as_zero(enabled=False):
        assert tiny_product() > 0
    with _precision.denormals_as_zero():
        assert tiny_product() == 0
        with _precision.denormals_as_zero():  # what is inside ends nothing
            pass
        assert tiny_product() == 0
        assert not bool(torch.tensor(1e-40) * 1e30)  # read as zero too
        assert float(torch.tensor(1.2e-38)) > 0
    assert tiny_product() > 0


def test_denormals_come_back_after_an_error():
    with pytest.raises(KeyError), _precision.denormals_as_zero():
        raise KeyError
    assert tiny_product() > 0


def test_a_setting_of_the_users_own_stays():
    torch.set_flush_denormal(True)
    try:
        with _precision.denormals_as_zero():
            pass
        assert tiny_product() == 0
    finally:
        torch.set_flush_denormal(False)
