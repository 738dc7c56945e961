"""Test images go to the device one batch ahead, and features come back in order."""

import pytest
import torch

from tests.engine.test_step import build_engine  # noqa: F401 (a fixture)
from torchreid_spectral.engine.faults import Interrupted
from torchreid_spectral.engine.feeding import copied_ahead, fetched_later

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def batches(sizes=(4, 4, 3)):
    generator = torch.Generator().manual_seed(0)
    start = 0
    for size in sizes:
        index = torch.arange(start, start + size)
        yield {"img": torch.randn(size, 3, 64, 32, generator=generator), "pid": index % 3,
               "camid": index % 2, "index": index}  # fmt: skip
        start += size


def test_the_next_batch_is_fetched_before_one_is_computed():
    seen = []

    def images_of(batch):
        seen.append(f"copy {len(batch)}")
        return batch

    for batch, _ in copied_ahead([torch.zeros(n) for n in (1, 2, 3)], images_of, use_gpu=False):
        seen.append(f"compute {len(batch)}")
    assert seen == ["copy 1", "copy 2", "compute 1", "copy 3", "compute 2", "compute 3"]


def test_no_batch_gives_nothing():
    assert list(copied_ahead([], lambda batch: batch, use_gpu=False)) == []


@pytest.mark.parametrize("use_gpu", [False, pytest.param(True, marks=[pytest.mark.gpu, gpu])])
def test_extracted_features_are_those_of_each_image(build_engine, use_gpu):  # noqa: F811
    engine = build_engine(gpu=use_gpu)
    engine.model.eval()
    features, pids, camids, index = engine._extract(list(batches()), "test")
    assert index.tolist() == list(range(11)) and features.device.type == "cpu"
    assert pids.tolist() == [n % 3 for n in index] and camids.tolist() == [n % 2 for n in index]
    images = torch.cat([batch["img"] for batch in batches()])
    with torch.no_grad():
        expected = engine.model(images.cuda() if use_gpu else images).cpu()
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@gpu
def test_a_copy_overlaps_the_computation_before():
    """The copies end while the device is still busy with the first batch."""
    images = [torch.rand(64, 3, 256, 128).pin_memory() for _ in range(3)]
    for batch, on_device in copied_ahead(images, lambda batch: batch, use_gpu=True):
        torch.cuda._sleep(10**8)
        feature = fetched_later(on_device.mean())
        assert float(feature()) == pytest.approx(float(batch.mean()), rel=1e-4)


def test_a_signal_in_a_test_alone_is_answered(build_engine):  # noqa: F811
    """Where nothing is trained there is no checkpoint to name."""
    engine = build_engine()
    engine.stop = type("Stop", (), {"received": 15})
    with pytest.raises(Interrupted, match="signal 15 while testing; there was nothing to save"):
        engine._extract(list(batches()), "test")
