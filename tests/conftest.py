"""Fixtures: a tiny embedded dataset, torchreid in GitHub's layout, and a registered plugin."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: one thread each, before torch starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parents[1]
TINY = {
    "num_train_ids": 8,
    "num_test_ids": 6,
    "num_cameras": 3,
    "images_per_id": 8,
    "height": 64,
    "width": 32,
    "seed": 0,
}


@pytest.fixture(scope="session")
def torchreid():
    """Torchreid with the plugin registered."""
    import torchreid_spectral as ts
    from torchreid_spectral import _compat

    ts.register()
    return _compat.load()


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """A folder that holds a tiny ``synthetic_pedestrians``."""
    from torchreid_spectral.data.synthetic import SyntheticSpec, generate

    root = tmp_path_factory.mktemp("reid-data")
    generate(root, SyntheticSpec(**TINY), progress=False)
    return root


@pytest.fixture(scope="session")
def tiny_options(data_root):
    """Command line of a run that takes seconds."""
    options = {
        "data.root": data_root,
        "data.sources": "['synthetic_pedestrians']",
        "data.targets": "['synthetic_pedestrians']",
        "data.height": 64,
        "data.width": 32,
        "data.workers": 0,
        "model.pretrained": False,
        "sampler.train_sampler": "RandomIdentitySampler",
        "sampler.num_instances": 4,
        "train.batch_size": 16,
        "train.max_epoch": 1,
        "train.print_freq": 1,
        "report.html": False,
        **{f"synthetic.{name}": value for name, value in TINY.items()},
    }
    return [str(part) for pair in options.items() for part in pair]


@pytest.fixture(scope="session")
def github_layout(tmp_path_factory):
    """A copy of the installed torchreid with its modules where GitHub's 1.4.0 has them."""
    installed = Path(find_spec("torchreid").submodule_search_locations[0]) / "reid"
    if not installed.is_dir():
        pytest.skip("the installed torchreid has GitHub's layout already")
    folder = tmp_path_factory.mktemp("github")
    copy = folder / "torchreid"
    shutil.copytree(installed, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("torchreid.reid", "torchreid"), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def python(github_layout):
    """Run Python in a fresh process: ``python(args, layout="pypi")`` or ``layout="github"``."""

    def run(*args, layout="pypi", cwd=REPOSITORY, check=True):
        path = [str(REPOSITORY)]
        if layout == "github":
            path.insert(0, str(github_layout))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            [sys.executable, "-W", "ignore", *map(str, args)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if check and result.returncode:
            raise AssertionError(f"exit {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result

    return run


@pytest.fixture
def factory(torchreid):
    """Torchreid's table of models; what a test puts into it is gone afterwards."""
    from torchreid_spectral import _compat

    table = _compat.model_factory()
    before = dict(table)
    yield table
    table.clear()
    table.update(before)


@pytest.fixture
def unlisted(monkeypatch):
    """Let a folder be one that the system does not list: ``unlisted(path)``."""
    scandir = os.scandir

    def refuse(folder):
        def refusing(path):
            if str(path) == str(folder):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refusing)

    return refuse
