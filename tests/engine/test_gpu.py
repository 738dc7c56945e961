"""The training step on a GPU; skipped where there is none."""

import jaxtyping
import pytest
import torch

from tests.engine.test_step import batch, build_engine, gradients  # noqa: F401 (a fixture)
from torchreid_spectral.data.device_transforms import DeviceTransforms

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["train.amp", "bf16"],
        ["train.amp", "fp16"],
        ["train.amp", "fp16", "train.chunk_size", "4", "train.clip_norm", "1.0"],
        ["train.channels_last", "True", "train.amp", "bf16"],
        ["train.compile", "inductor"],
    ],
)
def test_a_step_gives_the_loss_of_a_cpu(build_engine, monkeypatch, options):  # noqa: F811
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    expected = build_engine().forward_backward(batch())["loss"]
    engine = build_engine(*options, gpu=True)
    engine.prepare_step()
    if "fp16" in options:  # the default scale overflows in the first steps, and is halved there
        engine.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    assert engine.forward_backward(batch())["loss"] == pytest.approx(expected, rel=0.02)
    assert all(gradient.isfinite().all() for gradient in gradients(engine).values())


def test_a_scaler_passes_over_an_overflow(build_engine):  # noqa: F811
    engine = build_engine("train.amp", "fp16", gpu=True)
    engine.prepare_step()
    scale = engine.scaler.get_scale()
    engine.model.classifier.prototypes.register_hook(lambda gradient: gradient * float("inf"))
    before = engine.model.classifier.prototypes.detach().clone()
    engine.forward_backward(batch())
    assert torch.equal(engine.model.classifier.prototypes, before)
    assert engine.scaler.get_scale() < scale


def test_augmentation_is_that_of_a_cpu(torchreid):
    from torchreid_spectral import _compat

    words = ["random_flip", "random_crop", "random_pad_crop", "color_jitter", "random_erase"]
    train, _ = _compat.submodule("data.transforms").build_transforms(32, 16, transforms=words)
    images = torch.randint(256, (64, 3, 32, 16), dtype=torch.uint8)
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        found.append(DeviceTransforms(train)(images.to(device)).cpu())
    assert ((found[0] - found[1]).abs() < 1e-4).float().mean() > 0.99  # others: rounded otherwise


def test_the_generators_of_every_gpu_are_in_a_state(torchreid):
    from torchreid_spectral import _random

    torch.cuda.init()
    state = _random.capture()
    first = torch.rand(4, device="cuda")
    torch.rand(9, device="cuda")
    _random.restore(state)
    assert torch.equal(torch.rand(4, device="cuda"), first)
