"""Tests of tools/compare.py."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from .test_main import load_tool

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
compare = load_tool("compare")


@pytest.fixture
def in_process(monkeypatch):
    """Run tools/main.py in this process and count its runs."""
    main, runs = load_tool("main").main, []

    def launch(arguments, output):
        runs.append(list(arguments))
        output.write_text("what it printed\n")
        return main(arguments)

    monkeypatch.setattr(compare, "launch", launch)
    return runs


def arguments(tiny_options, out):
    return ["configs/baseline_demo.yaml", "--variant", "walked", "configs/spectral_demo.yaml",
            "spectral.temperature", "0.2", "--seeds", "2", "--first-seed", "5", "--out", str(out),
            "--set", *tiny_options, "model.name", "spectral_osnet_x0_25",
            "rerank.local_blurring.k", "5",
            "report.ranked_lists", "0"]  # fmt: skip


def test_compares_and_resumes(torchreid, tiny_options, tmp_path, in_process, capsys):
    given = arguments(tiny_options, tmp_path)
    assert compare.main(given) == 0
    assert len(in_process) == 4
    shown = capsys.readouterr().out
    assert "synthetic_pedestrians, with local_blurring" in shown
    summary = json.loads((tmp_path / "comparison.json").read_text())
    assert summary["seeds"] == {"baseline_demo": [5, 6], "walked": [5, 6]}
    rows = summary["datasets"]["synthetic_pedestrians"]["none"]
    for name, seed in (("baseline_demo", 5), ("walked", 6)):
        saved = json.loads((tmp_path / name / f"seed_{seed}" / "metrics.json").read_text())
        value = saved["metrics"]["synthetic_pedestrians"]["none"]["mAP"]
        assert rows[name]["mAP"]["by_seed"][str(seed)] == value
    assert saved["config"]["spectral"]["temperature"] == 0.2
    assert summary["seconds_a_step"]["walked"] > 0
    page = (tmp_path / "report.html").read_text()
    assert "walked" in page and page.count("<svg") >= 2 and "could not be drawn" not in page

    (tmp_path / "walked" / "seed_6" / "metrics.json").unlink()
    assert compare.main(given) == 0
    assert len(in_process) == 5 and str(tmp_path / "walked" / "seed_6") in in_process[-1]
    repeated = json.loads((tmp_path / "comparison.json").read_text())
    assert repeated["datasets"] == summary["datasets"]

    assert compare.main([*given, "train.lr", "0.5"]) == 2
    message = capsys.readouterr().err
    assert "holds a run of another config: train.lr was 0.003, now 0.5" in message
    assert len(in_process) == 5


def test_failed_run_is_reported_and_the_rest_goes_on(torchreid, tmp_path, monkeypatch, capsys):
    def launch(arguments, output):
        output.write_text("Traceback\nMemoryError: too large\n")
        return 1

    monkeypatch.setattr(compare, "launch", launch)
    given = ["configs/baseline_demo.yaml", "--seeds", "2", "--out", str(tmp_path)]
    assert compare.main(given) == 1
    captured = capsys.readouterr()
    assert captured.out.count("MemoryError: too large") == 2
    assert "failed: baseline_demo seed 2" in captured.err


def test_unfinished_run_is_not_taken(tmp_path):
    config = compare.effective(compare.Variant("a", "configs/baseline_demo.yaml"), 1, [])
    (tmp_path / "metrics.json").write_text(
        json.dumps({"config": {"train": {"seed": 1}}, "epochs": 3, "metrics": {}})
    )
    with pytest.raises(compare.InputError, match="another config"):
        compare.finished(tmp_path, config)
    nested = {}
    for key, value in config.items():
        *path, last = key.split(".")
        node = nested
        for name in path:
            node = node.setdefault(name, {})
        node[last] = value
    content = {"config": nested, "epochs": 3, "metrics": {}}
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    assert not compare.finished(tmp_path, config)
    for ended in ({"epochs": 48}, {"stopped_early": True}):
        (tmp_path / "metrics.json").write_text(json.dumps(content | ended))
        assert compare.finished(tmp_path, config)
    nested["data"]["workers"] += 1  # each worker draws for itself
    (tmp_path / "metrics.json").write_text(json.dumps(content | ended))
    with pytest.raises(compare.InputError, match=r"another config.*data\.workers"):
        compare.finished(tmp_path, config)


TRAINING = """
import signal, sys, time
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("data.save_dir") + 1])
def stop(signum, frame):
    time.sleep(1.5)
    (folder / "saved").write_text(str(signum))
    sys.exit(128 + signum)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
(folder / "started").touch()
time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_signal_lets_the_trainings_save_and_starts_no_more(tmp_path, jobs, signum):
    (tmp_path / "training.py").write_text(TRAINING)
    program = (
        "import importlib.util, pathlib, sys; "
        f"spec = importlib.util.spec_from_file_location('compare', {compare.__file__!r}); "
        "tool = importlib.util.module_from_spec(spec); spec.loader.exec_module(tool); "
        f"tool.MAIN = pathlib.Path({str(tmp_path / 'training.py')!r}); sys.exit(tool.main())"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", program, "configs/baseline_demo.yaml", "--seeds", "3",
               "--jobs", jobs, "--out", str(out)]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*/*/started"))) < int(jobs) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signum)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signum and "the same command goes on" in errors
    saved = [path.read_text() for path in out.glob("*/*/saved")]
    assert saved == [str(int(signum))] * int(jobs)
    assert len(list(out.glob("*/*/started"))) == int(jobs)


def test_runs_side_by_side(tmp_path, monkeypatch, capsys):
    """Three at a time: each waits until the two others have been started too."""
    together = threading.Barrier(3, timeout=30)

    def launch(arguments, output):
        together.wait()
        output.write_text("stopped\n")
        return 1

    monkeypatch.setattr(compare, "launch", launch)
    given = ["configs/baseline_demo.yaml", "--seeds", "3", "--jobs", "3", "--out", str(tmp_path)]
    assert compare.main(given) == 1
    assert capsys.readouterr().err.count("failed: baseline_demo seed") == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "at least one config"),
        (["configs/spectral_demo.yaml", "a/spectral_demo.yaml"], "a name of its own"),
        (["--variant", "x"], "--variant takes NAME FILE"),
        (["configs/spectral_demo.yaml", "--seeds", "0"], "--seeds must be >= 1, got 0"),
        (["configs/spectral_demo.yaml", "--jobs", "0"], "--jobs must be >= 1, got 0"),
        (["nowhere.yaml"], "nowhere.yaml does not exist"),
        (["configs/spectral_demo.yaml", "--set", "trian.lr", "1"], "Did you mean train.lr"),
    ],
)
def test_rejects(given, message, capsys, tmp_path):
    assert compare.main([*given, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_in_processes_of_their_own(torchreid, tiny_options, tmp_path):
    given = arguments(tiny_options, tmp_path)
    assert compare.main(given) == 0
    assert "mAP:" in (tmp_path / "walked" / "seed_5" / "output.txt").read_text()


def test_a_begun_run_of_another_config_is_not_gone_on_with(torchreid, tiny_options, tmp_path):
    """Before its first test a run has no metrics, but its checkpoint says what it is of."""
    folder = tmp_path / "a" / "seed_1"
    shared = [*tiny_options, "model.name", "spectral_osnet_x0_25"]
    variant = compare.Variant("a", "configs/baseline_demo.yaml")
    options = ["--config-file", variant.file, *shared, "data.save_dir", str(folder)]
    assert load_tool("main").main([*options, "train.seed", "1"]) == 0
    (folder / "metrics.json").unlink()
    assert not compare.finished(folder, compare.effective(variant, 1, shared))
    with pytest.raises(compare.InputError, match="another config: train.lr was 0.003, now 0.1"):
        compare.finished(folder, compare.effective(variant, 1, [*shared, "train.lr", "0.1"]))


@pytest.mark.parametrize("name", ["compare", "report"])
def test_options_may_be_given_several_times(name):
    tool = load_tool(name)
    for _ in range(2):  # nothing of the first time is left
        args = tool.parse(["a.yaml", "--set", "data.workers", "0", "--set", "test.flip", "True"])
        assert args.set == ["data.workers", "0", "test.flip", "True"]


def test_a_run_of_other_defaults_of_what_is_off_is_gone_on_with(tmp_path):
    """Before there were two covariances, eps of the whitening had another default."""
    from torchreid_spectral.config.merging import merged_config

    config = compare.effective(compare.Variant("a", "configs/baseline_demo.yaml"), 1, [])
    nested = {"test": {"whitening_eps": 1e-3}}
    for key, value in config.items():
        *path, last = key.split(".")
        node = nested
        for name in path:
            node = node.setdefault(name, {})
        node.setdefault(last, value)
    del nested["test"]["whitening_covariance"]
    content = {"config": nested, "epochs": 3, "metrics": {}}
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    assert not compare.finished(tmp_path, config)
    with pytest.raises(compare.InputError, match="another config"):
        compare.finished(tmp_path, {**config, "test.whitening": "zca"})
    assert merged_config(nested).test.whitening_covariance == "total"
