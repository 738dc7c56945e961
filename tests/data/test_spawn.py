"""Workers under the spawn start method, as on Windows and macOS."""

import copy
import pickle
import shutil

import pytest
import torch
from torch.utils.data import DataLoader

from torchreid_spectral.data.datasets import SyntheticPedestrians, synthetic_defaults
from torchreid_spectral.data.synthetic import SyntheticSpec

from ..conftest import REPOSITORY, TINY

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture
def dataset(torchreid, data_root):
    _, transform = torchreid.data.transforms.build_transforms(64, 32)
    with synthetic_defaults(SyntheticSpec(**TINY)):
        return SyntheticPedestrians(str(data_root), transform=transform, mode="query")


def test_a_pickle_registers_before_it_names_torchreid(dataset):
    pickled = pickle.dumps(dataset)
    assert pickled.index(b"register") < pickled.index(b"SyntheticPedestrians")
    assert pickle.loads(pickled).query == copy.deepcopy(dataset).query == dataset.query


def test_a_fresh_process_reads_a_dataset_of_torchreids_own(python, torchreid, dataset, tmp_path):
    """It imports nothing itself, so that the pickle alone has to mend and find torchreid."""
    plain = torchreid.data.ImageDataset(
        dataset.train, dataset.query, dataset.gallery, transform=dataset.transform, mode="query"
    )
    (tmp_path / "d.pkl").write_bytes(pickle.dumps(plain))
    code = "import pickle, sys; d = pickle.load(open(sys.argv[1], 'rb')); print(len(d), " \
           "tuple(d[0]['img'].shape), 'torchreid_spectral.registry' in sys.modules)"  # fmt: skip
    shown = python("-c", code, tmp_path / "d.pkl").stdout
    assert shown.split("\n")[-2] == f"{len(dataset.query)} (3, 64, 32) True"


def test_two_spawned_workers_give_what_none_do(dataset):
    batches = [
        list(DataLoader(dataset, 6, num_workers=workers, multiprocessing_context=context))
        for workers, context in ((0, None), (2, "spawn"))
    ]
    assert len(batches[0]) == len(batches[1]) > 1
    for one, other in zip(*batches):
        assert torch.equal(one["img"], other["img"]) and one["impath"] == other["impath"]


SCRIPT = """
import multiprocessing
import sys

import torchreid
from torchreid.utils import set_random_seed  # PyPI's layout has no such module unregistered


class Twice:  # a class of the script's own reaches its workers
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return 2 * self.data[index]["img"]


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    set_random_seed(1)
    manager = torchreid.data.ImageDataManager(
        root=sys.argv[1], sources="market1501", height=64, width=32, batch_size_train=16,
        batch_size_test=20, workers=2, use_gpu=False,
    )
    loader = manager.test_loader["market1501"]["query"]
    plain = next(iter(loader))["img"]
    twice = next(iter(torchreid.data.datamanager.torch.utils.data.DataLoader(
        Twice(loader.dataset), batch_size=20, num_workers=1)))
    print("workers agree:", bool((twice == 2 * plain).all()), tuple(plain.shape))
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["pypi", "github"])
def test_launched_script_spawns_workers(python, data_root, tmp_path, layout):
    tree = tmp_path / "root" / "market1501" / "Market-1501-v15.09.15"
    shutil.copytree(data_root / "synthetic_pedestrians", tree)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    result = python("-m", "torchreid_spectral", script, tmp_path / "root", layout=layout)
    assert "workers agree: True (18, 3, 64, 32)" in result.stdout


@pytest.mark.slow
def test_main_trains_with_spawned_workers(python, tiny_options, tmp_path):
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import multiprocessing, sys\n"
        f"sys.path.insert(0, {str(REPOSITORY / 'tools')!r})\n"
        "import main\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    raise SystemExit(main.main(sys.argv[1:]))\n"
    )
    result = python(driver, *tiny_options, "data.workers", "2", "loss.name", "softmax",
                    "model.name", "osnet_x0_25", "data.save_dir", tmp_path / "log")  # fmt: skip
    assert "synthetic_pedestrians   none" in result.stdout


def test_a_class_that_says_how_it_is_pickled_is_heard(torchreid, dataset):
    """Such as one that holds an open file."""
    kind = type(dataset)
    for name, method in (
        ("__getstate__", lambda self: {**self.__dict__, "file": "opened again"}),
        ("__reduce__", lambda self: (_revived, (self.query,))),
    ):
        own = type("Own", (kind,), {name: method})
        other = copy.copy(dataset)
        other.__class__, other.file = own, open(__file__)  # noqa: SIM115
        with other.file:
            assert copy.deepcopy(other).file == "opened again"


def _revived(query):
    found = torch.utils.data.Dataset()
    found.query, found.file = query, "opened again"
    return found
