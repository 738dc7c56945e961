"""Weights of a tiny run, as tools/main.py leaves them, without the training."""

import json

import pytest
import torch

from ..conftest import TINY


@pytest.fixture(scope="session")
def run_folder(torchreid, tmp_path_factory):
    """A log folder with a checkpoint and the metrics.json that says what it is of."""
    import torchreid_spectral as ts
    from torchreid_spectral import _compat

    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = ts.build_model("spectral_osnet_x0_25", 8, pretrained=False, temperature=0.2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
    state = {"state_dict": model.state_dict(), "epoch": 1, "rank1": 0.5}
    _compat.save_checkpoint(state, str(folder / "model"))
    config = {
        "model": {"name": "spectral_osnet_x0_25"},
        "spectral": {"temperature": 0.2},
        "data": {"height": 64, "width": 32},
        "test": {"dist_metric": "cosine"},
        "synthetic": TINY,
        "of_another_version": {"key": 1},
    }
    (folder / "metrics.json").write_text(json.dumps({"config": config}))
    return folder


@pytest.fixture(scope="session")
def weights(run_folder):
    return run_folder / "model" / "model.pth.tar-1"


@pytest.fixture(scope="session")
def reid(weights):
    from torchreid_spectral import SpectralReID

    return SpectralReID(weights, device="cpu")


@pytest.fixture(scope="session")
def pictures(data_root):
    """Paths and identities of the tiny dataset's gallery."""
    from torchreid_spectral.data.synthetic import list_images

    return list_images(data_root / "synthetic_pedestrians" / "bounding_box_test")
