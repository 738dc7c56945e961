"""Tests of torchreid_spectral._compat and of registration, in both layouts of torchreid."""

import argparse
import pickle
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import torchreid_spectral as ts
from torchreid_spectral import _checkpoint_files, _compat
from torchreid_spectral.errors import InputError

LAYOUTS = pytest.mark.parametrize("layout", ["pypi", "github"])


@LAYOUTS
def test_both_layouts_behave_alike_after_registration(python, layout):
    code = """
import torchreid_spectral as ts
ts.register(); ts.register()
import torchreid, torchreid.models
from torchreid.utils import Logger, FeatureExtractor
from torchreid.data import ImageDataManager
from torchreid import metrics
import torchreid.engine.image.softmax
assert torchreid.models.build_model is not None
assert torchreid.losses.AMSoftmaxLoss and torchreid.engine.ImageSpectralEngine
model = torchreid.models.build_model("spectral_resnet18", 5, pretrained=False, use_gpu=False)
print(type(model).__name__, len(ts.list_models()))
torchreid.models.show_avai_models()
"""
    lines = python("-c", code, layout=layout).stdout.splitlines()
    assert lines[0] == "SpectralResNet 49"
    assert lines[1].count("spectral_") == 49


@LAYOUTS
def test_nothing_is_patched_before_registration(python, layout):
    code = """
import torchreid_spectral, torchreid_spectral.rerank, torchreid_spectral.layers
from torchreid_spectral import _compat
root = _compat.load()
import sys
before = root.utils.torchtools.load_checkpoint
assert before.__module__.startswith(root.__name__)
assert not any("spectral" in name for name in _compat.model_factory())
assert root.__name__ == "torchreid" or not _compat.aliases_installed()
import torchreid_spectral.engine
assert root.utils.torchtools.load_checkpoint is before
assert not hasattr(root.engine, "ImageSpectralEngine")
print("untouched")
"""
    assert python("-c", code, layout=layout).stdout.strip() == "untouched"


def test_foreign_name_clash(torchreid, monkeypatch):
    monkeypatch.setattr("torchreid_spectral.registry._registered", False)
    monkeypatch.setitem(_compat.model_factory(), "spectral_resnet50", dict)
    with pytest.raises(ValueError, match="already has a model 'spectral_resnet50'"):
        ts.register()
    ts.register(overwrite=True)
    assert _compat.model_factory()["spectral_resnet50"] is not dict


def test_torchreids_own_checkpoint_loads(torchreid, tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    state = {
        "state_dict": model.state_dict(),
        "epoch": 3,
        "rank1": np.float32(0.5),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }
    path = tmp_path / "old.pth.tar"
    torch.save(state, path)  # as torchreid 0.2.5 saves it
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path)  # its issue #592
    epoch = torchreid.utils.resume_from_checkpoint(str(path), model, optimizer, scheduler)
    assert epoch == 3
    torchreid.utils.save_checkpoint(state, str(tmp_path))
    saved = torch.load(tmp_path / "model.pth.tar-3")  # plain torch.load reads ours
    assert saved["rank1"] == 0.5
    assert isinstance(state["rank1"], np.float32)
    assert not list(tmp_path.glob("*.tmp"))


def test_float64_scalar_loads(tmp_path):
    torch.save({"rank1": np.float64(0.25)}, tmp_path / "a.pth")
    assert _compat.load_checkpoint(tmp_path / "a.pth")["rank1"] == 0.25


def test_scalars_of_numpy_1_and_2_are_let_through():
    """The other NumPy names the module otherwise."""
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        named = [each for each in _checkpoint_files._SAFE_GLOBALS if isinstance(each, tuple)]
        names = {f"{getattr(each[0], '__name__', '')} {each[1]}" for each in named}
        assert f"scalar {module}.scalar" in names


class Malicious:
    def __reduce__(self):
        return (open, ("owned", "w"))


def test_malicious_checkpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="evil.pth is not a checkpoint that can be loaded safely"):
        _compat.load_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()


def test_truncated_and_missing_checkpoints_are_named(tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="half.pth is not a checkpoint"):
        _compat.load_checkpoint(tmp_path / "half.pth")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        _compat.load_checkpoint(tmp_path / "nowhere.pth")


def test_failed_save_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    _compat.save_checkpoint({"state_dict": {}, "epoch": 1}, str(tmp_path))
    before = (tmp_path / "model.pth.tar-1").read_bytes()

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        _compat.save_checkpoint({"state_dict": {}, "epoch": 1}, str(tmp_path))
    assert (tmp_path / "model.pth.tar-1").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_no_unsafe_load_in_the_package():
    from tests.test_package import PACKAGE

    for path in PACKAGE.rglob("*.py"):
        assert "weights_only=False" not in path.read_text(encoding="utf-8")


@pytest.mark.skipif(
    _compat._torchvision_library_loads(), reason="torchvision's compiled part loads here"
)
def test_broken_torchvision_is_mended(python):
    broken = python("-c", "import torchvision", check=False)
    assert "torchvision::nms does not exist" in broken.stderr
    code = """
from torchreid_spectral import _checkpoint_files, _compat
_compat._mend_torchvision(); _compat._mend_torchvision()
import torchvision.transforms
print("imports")
"""
    assert python("-c", code).stdout.strip() == "imports"


def test_a_library_that_does_not_load_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "_C.so").write_bytes(b"no library")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(_compat.importlib.util, "find_spec", lambda name: spec)
    assert not _compat._torchvision_library_loads()


def test_pretrained_weights_are_loaded_weights_only(torchreid, monkeypatch, tmp_path):
    torch.save({"weights": Malicious()}, tmp_path / "evil.pth")
    url = (tmp_path / "evil.pth").as_uri()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    for name in ("resnet", "senet", "nasnet", "inceptionv4"):
        module = _compat.submodule(f"models.{name}")
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            module.model_zoo.load_url(url)
    assert not (tmp_path / "owned").exists()


def test_resume_between_gpu_and_cpu(torchreid, tmp_path):
    source = torch.nn.Linear(2, 2)
    state = {f"module.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 4}, tmp_path / "gpu.pth")
    target = torch.nn.Linear(2, 2)
    assert torchreid.utils.resume_from_checkpoint(tmp_path / "gpu.pth", target) == 4
    torch.testing.assert_close(target.weight, source.weight)
    with pytest.raises(InputError, match="does not fit this model"):
        torchreid.utils.resume_from_checkpoint(tmp_path / "gpu.pth", torch.nn.Linear(3, 3))


def test_empty_checkpoint_is_named(tmp_path):
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(InputError, match="empty.pth is not a checkpoint"):
        _compat.load_checkpoint(tmp_path / "empty.pth")


def test_import_says_nothing_of_the_evaluator_that_is_not_used():
    code = "import torchreid_spectral as ts; ts.register()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Cython" not in run.stderr


def test_resume_into_a_model_of_several_processes(torchreid, tmp_path):
    """Its names begin with ``module.`` in the file and in the model."""
    network = torch.nn.Linear(2, 2)

    class Parallel(torch.nn.parallel.DistributedDataParallel):
        def __init__(self, module):
            torch.nn.Module.__init__(self)
            self.module = module

    saved = {f"module.{name}": value + 1 for name, value in network.state_dict().items()}
    torchreid.utils.save_checkpoint({"state_dict": saved, "epoch": 3}, str(tmp_path))
    path = str(tmp_path / "model.pth.tar-3")
    assert torchreid.utils.resume_from_checkpoint(path, Parallel(network)) == 3
    assert torch.equal(network.weight, saved["module.weight"])
    with pytest.raises(InputError, match=r"size mismatch for weight.*\[2, 2\].*\[5, 2\]"):
        torchreid.utils.resume_from_checkpoint(path, torch.nn.Linear(2, 5))


def test_what_a_checkpoint_must_not_hold_is_named(tmp_path):
    path = tmp_path / "arguments.pth"
    torch.save({"args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(InputError, match="it holds a argparse.Namespace") as error:
        _compat.load_checkpoint(path)
    assert "\x1b" not in str(error.value) and "options" not in str(error.value)


def test_a_schedule_that_is_resumed_keeps_its_form_and_says_so(torchreid, tmp_path, caplog):
    schedulers = torch.optim.lr_scheduler

    def built(kind, **options):
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return model, optimizer, kind(optimizer, **options)

    model, optimizer, schedule = built(schedulers.CosineAnnealingLR, T_max=2)
    state = {"state_dict": model.state_dict(), "epoch": 2, "optimizer": optimizer.state_dict(),
             "scheduler": schedule.state_dict()}  # fmt: skip
    torchreid.utils.save_checkpoint(state, str(tmp_path))
    resume = partial(torchreid.utils.resume_from_checkpoint, str(tmp_path / "model.pth.tar-2"))
    assert resume(*built(schedulers.CosineAnnealingLR, T_max=2)) == 2
    assert "schedule" not in caplog.text
    assert resume(*built(schedulers.CosineAnnealingLR, T_max=6)) == 2
    assert "keeps its schedule's T_max 2, not the 6 given now" in caplog.text
    with pytest.raises(InputError, match="of another schedule than this StepLR"):
        resume(*built(schedulers.StepLR, step_size=2))
