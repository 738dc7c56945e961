"""Files that are written whole or not at all."""

import os
import threading
from pathlib import Path

import pytest

from torchreid_spectral._files import keep_inputs, walk, write_bytes, write_text, write_whole
from torchreid_spectral.errors import InputError

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "deep" / "file"
    write_text(path, "first")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_whole(path, fail)
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_link_leads_to_is_written(tmp_path):
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "a.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink() and real.read_text() == "new"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "real" / "b.json")
    write_text(dangling, "made")
    assert (tmp_path / "real" / "b.json").read_text() == "made"


@needs_pipes
def test_a_pipe_stays_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=write_bytes, args=(pipe, b"through"))
    writer.start()
    with pipe.open("rb") as file:
        assert file.read() == b"through"
    writer.join()
    assert pipe.is_fifo()


@needs_pipes
def test_standard_output_is_written_to(python):
    code = (
        "from pathlib import Path\n"
        "from torchreid_spectral._files import write_text\n"
        "write_text(Path('/dev/stdout'), 'through')\n"
    )
    assert python("-c", code).stdout == "through"  # a pipe here


def test_a_device_stays_one():
    write_text(Path(os.devnull), "nothing")
    assert not Path(os.devnull).is_file()


def test_threads_do_not_meet_in_one_temporary_file(tmp_path):
    path, failed = tmp_path / "file", []
    together = threading.Barrier(4)

    def write(text):
        try:
            for _ in range(20):
                together.wait(timeout=60)
                write_text(path, text)
        except Exception as error:
            failed.append(error)
            together.abort()

    threads = [threading.Thread(target=write, args=(letter * 1000,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert path.read_text() in {letter * 1000 for letter in "abcd"}
    assert list(tmp_path.iterdir()) == [path]


@needs_pipes
def test_pipes_are_not_walked_to(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_text("b")
    (tmp_path / "c.jpg").symlink_to(tmp_path / "missing.jpg")  # whoever reads it will say so
    assert sorted(path.name for path in walk(tmp_path)) == ["b.jpg", "c.jpg"]


def test_what_is_read_is_kept(tmp_path):
    path, link = tmp_path / "a", tmp_path / "b"
    keep_inputs("--out", path, [path, tmp_path / "missing"])  # nothing is there to be lost
    path.write_text("read")
    link.symlink_to(path)
    keep_inputs("--out", path, [tmp_path, tmp_path / "missing"])
    for out in (path, link):
        with pytest.raises(InputError, match=f"--out {out} is read here and would be lost"):
            keep_inputs("--out", out, [tmp_path / "missing", path])
