"""Tests of the loader that knows where it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from torchreid_spectral.data.loading import EpochLoader
from torchreid_spectral.errors import InputError


class Pairs:
    """Four identities of two images; both of the second cannot be read."""

    mode = "train"
    data = [(f"{index}.jpg", index // 2, 0, 0) for index in range(8)]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        if index in (2, 3):
            raise OSError("no image")
        return {"img": torch.zeros(1), "pid": index // 2}


def loader(**options):
    return EpochLoader(DataLoader(Pairs(), batch_size=4, drop_last=True), **options)


def test_an_identity_without_images_is_left_out():
    seen = loader(on_error="skip")
    assert [batch["index"].tolist() for batch in seen] == [[0, 1], [4, 5, 6, 7]]
    assert len(seen.skipped) == 2


def test_skipped_images_are_counted_by_workers_that_stay():
    kept = EpochLoader(
        DataLoader(Pairs(), batch_size=4, drop_last=True, num_workers=2),
        on_error="skip", persistent=True,
    )  # fmt: skip
    for epoch in (1, 2):
        assert sum(len(batch["index"]) for batch in kept) == 6
        assert list(kept.skipped.values()) == [epoch, epoch]


def test_processes_cannot_share_a_batch_that_is_short():
    assert len(list(loader(on_error="skip", rank=0, world_size=2))) == 2
    with pytest.raises(InputError, match=r"no readable image left.*2.jpg cannot be read"):
        list(loader(on_error="skip", rank=1, world_size=2))


def test_a_broken_image_is_named():
    with pytest.raises(InputError, match=r"2.jpg cannot be read \(no image\): image 2 of"):
        list(loader())


def test_processes_take_whole_identities_of_one_order():
    good = DataLoader([{"img": index} for index in range(12)], batch_size=4, drop_last=True)
    parts = [
        [batch["img"].tolist() for batch in EpochLoader(good, rank=rank, world_size=2)]
        for rank in (0, 1)
    ]
    assert parts == [[[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7], [10, 11]]]


ORPHANS = """
import time
from torch.utils.data import DataLoader
from torchreid_spectral.data.loading import EpochLoader

class Large:
    def __len__(self):
        return 64
    def __getitem__(self, index):
        return {"impath": "x" * 100_000}

batches = iter(EpochLoader(DataLoader(Large(), batch_size=2, num_workers=2)))
next(batches)
print("started", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_workers_of_a_killed_process_leave():
    """Also where their pipe is full: else they would hold memory and the terminal for ever."""
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", ORPHANS], cwd=root, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "started\n"
    process.kill()
    process.communicate(timeout=30)  # ends with the last that holds the pipe


def test_between_epochs_a_run_goes_on_with_other_workers():
    fresh = loader(on_error="skip")
    state = fresh.state()
    state["batch"] = [4, 3, 1, 8]  # of three workers
    fresh.resume(state)
    next(iter(fresh))
    state = fresh.state()
    state["batch"] = [4, 3, 1, 8]
    with pytest.raises(InputError, match="An epoch goes on only with the same"):
        loader().resume(state)


class Whole(Pairs):
    """The same, all of them readable."""

    def __getitem__(self, index):
        return {"img": torch.zeros(1), "pid": index // 2}


def test_a_loaders_own_functions_are_kept(tmp_path):
    def begin(worker):
        (tmp_path / str(worker)).touch()

    theirs = DataLoader(Whole(), batch_size=2, num_workers=2, worker_init_fn=begin,
                        collate_fn=lambda items: {"count": len(items)})  # fmt: skip
    assert [batch["count"] for batch in EpochLoader(theirs)] == [2, 2, 2, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    with pytest.raises(InputError, match="batch_sampler"):
        EpochLoader(DataLoader(Whole(), batch_sampler=[[0, 1]]))


def test_what_a_transform_raises_is_no_broken_image():
    class Transformed(Whole):
        def __getitem__(self, index):
            raise ValueError("the user's own")

    with pytest.raises(ValueError, match=r"^the user's own$"):
        next(iter(EpochLoader(DataLoader(Transformed(), batch_size=2), on_error="skip")))


def test_as_many_images_of_others_are_not_gone_on_with():
    state = EpochLoader(DataLoader(Whole(), batch_size=4)).state()
    EpochLoader(DataLoader(Pairs(), batch_size=4)).resume(state)
    state["order"] = torch.empty(0)
    listed_otherwise = Whole()
    listed_otherwise.data = Whole.data[::-1]
    EpochLoader(DataLoader(listed_otherwise, batch_size=4)).resume(state)
    with pytest.raises(InputError, match="others than the checkpoint's"):
        EpochLoader(DataLoader(listed_otherwise, batch_size=4)).resume(
            {**state, "order": torch.arange(8)}
        )
    changed = Whole()
    changed.data = [(path, 3 - pid, *rest) for path, pid, *rest in Whole.data]
    with pytest.raises(InputError, match="others than the checkpoint's"):
        EpochLoader(DataLoader(changed, batch_size=4)).resume(state)


def test_names_in_any_bytes_and_datasets_without_a_list_have_a_state():
    odd = Whole()
    odd.data = [(os.fsdecode(b"caf\xe9.jpg"), 0, 0, 0)] * 8
    state = EpochLoader(DataLoader(odd, batch_size=4)).state()
    assert "" not in state["data"]
    bare = torch.utils.data.TensorDataset(torch.zeros(8))
    other = EpochLoader(DataLoader(bare, batch_size=4))
    other.resume({**other.state(), "data": state["data"]})


@pytest.mark.parametrize("error", [OSError, SyntaxError, Image.DecompressionBombError])
def test_a_dataset_that_opens_its_images_itself_is_passed_over_too(error):
    class Own(Whole):
        def __getitem__(self, index):
            if index < 2:
                raise error("broken")
            return super().__getitem__(index)

    rows = EpochLoader(DataLoader(Own(), batch_size=4), on_error="skip")
    assert sum(len(batch["index"]) for batch in rows) == 6 and len(rows.skipped) == 2


def test_a_batch_that_processes_cannot_share_is_refused():
    whole = DataLoader([{"img": n} for n in range(9)], 9, drop_last=True)
    with pytest.raises(InputError, match="A batch of 9 images cannot be shared by 2 processes"):
        EpochLoader(whole, rank=0, world_size=2)
