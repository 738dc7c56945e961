"""Tests of torchreid_spectral._locks: one process a folder."""

import errno
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from torchreid_spectral import _locks
from torchreid_spectral._locks import NAME, alone_in
from torchreid_spectral.errors import InputError

HOLD = """
import sys, time
from pathlib import Path
from torchreid_spectral._locks import alone_in
with alone_in(Path(sys.argv[1]), "Wait."):
    print("in", flush=True)
    sys.stdin.read(1)
"""


@pytest.fixture
def other(tmp_path):
    """Another process in the folder; its standard input ends its block."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_in_use_is_refused_and_says_by_whom(tmp_path, other):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "run")
    for folder in (tmp_path / "run", link):
        with pytest.raises(InputError, match=f"in use by process {other.pid} on .*Wait for it"):
            with alone_in(folder, "Wait for it."):
                pytest.fail("two are in")
    other.communicate("x")
    with alone_in(tmp_path / "run", ""):
        assert (tmp_path / "run" / NAME).is_file()
    assert not [*(tmp_path / "run").iterdir()]


def test_who_was_killed_is_not_in_it(tmp_path, other):
    other.kill()
    other.wait()
    assert (tmp_path / "run" / NAME).is_file()
    with alone_in(tmp_path / "run", ""), alone_in(tmp_path / "run", ""):  # within: nothing to do
        pass
    assert not (tmp_path / "run" / NAME).exists()


def test_waiting(tmp_path, other):
    threading.Timer(0.3, other.stdin.write, "x").start()
    threading.Timer(0.4, other.stdin.flush).start()
    started = time.monotonic()
    with alone_in(tmp_path / "run", "", wait=True):
        assert time.monotonic() - started > 0.2


def test_a_file_that_its_owner_has_removed_is_no_lock(tmp_path, monkeypatch):
    """Who opened it before and locks it then would not keep the next one out."""
    lock, calls = _locks._lock, []

    def after_the_owner(file):
        calls.append(file.name)
        if len(calls) == 1:
            os.unlink(file.name)
        lock(file)

    monkeypatch.setattr(_locks, "_lock", after_the_owner)
    with alone_in(tmp_path / "run", ""):
        assert (tmp_path / "run" / NAME).is_file()
    assert len(calls) == 2


def test_file_systems_without_locks_go_on(tmp_path, monkeypatch):
    def none(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_locks, "_lock", none)
    with alone_in(tmp_path / "run", ""):
        assert (tmp_path / "run").is_dir()


def test_processes_that_save_one_gallery_leave_a_whole_one(tmp_path):
    from torchreid_spectral.inference.gallery import Gallery

    code = ("import sys, numpy as np; from torchreid_spectral.inference.gallery import Gallery\n"
            "n = int(sys.argv[2])\n"
            "for _ in range(20):\n"
            "    Gallery(np.full((n, 2), n, np.float32), [f'{n}/{i}' for i in range(n)])"
            ".save(sys.argv[1])\n")  # fmt: skip
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "gallery"), str(n)])
               for n in (3, 4)]  # fmt: skip
    assert [writer.wait() for writer in writers] == [0, 0]
    found = Gallery.open(tmp_path / "gallery")
    assert set(np.unique(found.features)) == {len(found)}
    assert {path.split("/")[0] for path in found.paths} == {str(len(found))}
    assert len(os.listdir(tmp_path / "gallery")) == 3  # one shard and its manifest
