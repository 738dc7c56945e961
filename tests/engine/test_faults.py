"""The fault table: what goes wrong in a run, and what is said about it.

``python -m pytest tests/engine/test_faults.py -q -s`` prints it: fault, expected, seen.
"""

import contextlib
import importlib.util
import json
import os
import pickle
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

TRAIN = "synthetic_pedestrians/bounding_box_train"
OPTIONS = [
    "--config-file", "configs/spectral_demo.yaml",
    "model.name", "spectral_osnet_x0_25", "train.print_freq", "1", "report.ranked_lists", "0",
    "rerank.local_blurring.k", "5", "test.rerank", "False",
]  # fmt: skip


class Place:
    """A folder with a dataset of its own, a run, and a way to run it again."""

    def __init__(self, folder, data_root, options, main):
        self.folder, self.main = folder, main
        self.root, self.log = folder / "data", folder / "log"
        shutil.copytree(data_root, self.root)
        options = dict(zip(options[::2], options[1::2])) | {"data.root": str(self.root)}
        flat = [part for pair in options.items() for part in pair]
        self.arguments = [*OPTIONS[:2], *flat, *OPTIONS[2:], "data.save_dir", str(self.log)]

    def run(self, *more):
        return self.main([*self.arguments, "train.max_epoch", "1", *more])

    def images(self, part="bounding_box_train"):
        return sorted((self.root / "synthetic_pedestrians" / part).glob("*.jpg"))

    def checkpoint(self, name="last.state.pt"):
        return self.log / "checkpoints" / name


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("tools_main", REPOSITORY / "tools" / "main.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def place(torchreid, data_root, tiny_options, main, tmp_path):
    return Place(tmp_path, data_root, tiny_options, main)


@pytest.fixture(scope="module")
def finished(torchreid, data_root, tiny_options, main, tmp_path_factory):
    """A run of one epoch, never changed; faults copy it."""
    place = Place(tmp_path_factory.mktemp("finished"), data_root, tiny_options, main)
    assert place.run() == 0
    return place


@pytest.fixture
def trained(finished, place):
    shutil.copytree(finished.log, place.log)
    return place


def truncate(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


class Malicious:
    def __reduce__(self):
        return os.system, ("touch /tmp/owned",)


# Faults of a new run: what is done to it, options, exit status, words of the message.
def broken_image(place):
    truncate(place.images()[3])


def empty_image(place):
    place.images()[3].write_bytes(b"")


def no_image(place):
    place.images()[3].write_text("not a picture")


def broken_query(place):
    truncate(place.images("query")[0])


def broken_in_many(place):
    for path in place.images()[::16]:
        truncate(path)


def nothing(place):
    pass


def file_for_folder(place):
    place.log.write_text("")


def read_only(place):
    place.log.mkdir()
    (place.log / "checkpoints").write_text("in the way")


NEW_RUN = {
    "image truncated": (broken_image, [], 2, ["cannot be read", "image ", "train set of Synth"]),
    "image empty": (empty_image, [], 2, ["cannot identify image file", "train set"]),
    "image is text": (no_image, [], 2, ["cannot identify image file", "data.on_error skip"]),
    "image truncated, 2 workers": (broken_image, ["data.workers", "2"], 2, ["cannot be read"]),
    "image truncated, skip": (broken_image, ["data.on_error", "skip"], 0, ["Passed over"]),
    "images truncated, skip, 2 workers": (
        broken_in_many, ["data.on_error", "skip", "data.workers", "2"], 0, ["were passed over"]),
    "query truncated": (broken_query, [], 2, ["cannot be read", "query set of Synth"]),
    "query truncated, skip": (broken_query, ["data.on_error", "skip"], 0, ["Passed over"]),
    "save_dir is a file": (file_for_folder, [], 2, ["data.save_dir", "cannot be written"]),
    "checkpoints cannot be written": (
        read_only, [], 1, ["could not be written", "There is none before it"]),
    "loss overflows": (
        nothing, ["train.optim", "sgd", "train.lr", "1e38", "train.warmup_epochs", "0"], 1,
        ["is not finite", ".jpg", "train.on_nan skip"]),
    "only such steps, skip": (
        nothing,
        ["train.optim", "sgd", "train.lr", "1e38", "train.warmup_epochs", "0", "train.max_epoch",
         "30", "train.on_nan", "skip"], 1, ["is not finite"]),
    "unknown precision": (nothing, ["train.amp", "fp8"], 2, ["amp must be one of off, bf16"]),
    "fp16 on a CPU": (nothing, ["train.amp", "fp16"], 2, ["fp16 needs a GPU"]),
    "sync_bn on a CPU": (nothing, ["train.sync_bn", "True"], 2, ["sync_bn"]),
    "unknown policy": (nothing, ["train.on_nan", "ignore"], 2, ["on_nan must be one of stop"]),
    "unknown figure": (nothing, ["train.keep", "map"], 2, ["keep must be one of mAP, rank-1"]),
    "decay out of range": (nothing, ["train.ema_decay", "1.0"], 2, ["ema_decay must be in [0"]),
    "negative norm": (nothing, ["train.clip_norm", "-1.0"], 2, ["clip_norm must be >= 0"]),
    "chunks that cut a graph": (
        nothing, ["train.chunk_size", "4", "model.attention",
                  "[{'after': 'conv3', 'over': 'samples'}]"], 2, ["samples after conv3"],
    ),
    "patience without tests": (nothing, ["train.patience", "2"], 2, ["test.eval_freq"]),
    "key misspelt": (nothing, ["train.apm", "bf16"], 2, ["Did you mean train.amp"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", NEW_RUN)
def test_new_run(place, capfd, caplog, fault):
    harm, options, status, words = NEW_RUN[fault]
    harm(place)
    with caplog.at_level("INFO", "torchreid_spectral"):
        seen = place.run(*options)
    captured = capfd.readouterr()
    shown = captured.out + captured.err + caplog.text
    report(capfd, fault, status, words, seen, shown)
    assert seen == status
    assert "Traceback" not in captured.err
    for word in words:
        assert word in shown


def report(capfd, fault, status, words, seen, shown):
    hits = [word for word in words if word in shown]
    with capfd.disabled():
        if os.environ.get("FAULT_TABLE"):
            sys.stdout.write(f"| {fault} | exit {status}: {', '.join(words)} | exit {seen}: "
                  f"{', '.join(hits)} |\n")  # fmt: skip


# Faults of a run that is to go on: what is done to the checkpoint, exit status, words.
def no_state(place):
    for name in ("last", "previous"):
        place.checkpoint(f"{name}.state.pt").unlink(missing_ok=True)


def state_truncated(place):
    for name in ("last", "previous"):
        if place.checkpoint(f"{name}.state.pt").exists():
            truncate(place.checkpoint(f"{name}.state.pt"))


def weights_truncated(place):
    for name in ("last", "previous"):
        if place.checkpoint(f"{name}.safetensors").exists():
            truncate(place.checkpoint(f"{name}.safetensors"))


def foreign_state(place):
    for name in ("last", "previous"):
        torch.save({"state_dict": {}}, place.checkpoint(f"{name}.state.pt"))


def malicious(place):
    for name in ("last", "previous"):
        place.checkpoint(f"{name}.state.pt").write_bytes(pickle.dumps(Malicious()))


def torn(place):
    """A kill between the renames: the weights are newer than the state."""
    shutil.copy(place.checkpoint("last.safetensors"), place.checkpoint("x"))
    for suffix in (".safetensors", ".state.pt"):
        shutil.copy(place.checkpoint(f"last{suffix}"), place.checkpoint(f"previous{suffix}"))
    place.checkpoint("last.safetensors").write_bytes(b"newer")


def leftover(place):
    place.checkpoint(".last.state.pt.1.tmp").write_bytes(b"half")


def of_two_processes(place):
    for name in ("last", "previous"):
        if place.checkpoint(f"{name}.state.pt").exists():
            state = torch.load(place.checkpoint(f"{name}.state.pt"))
            torch.save(state | {"rng": state["rng"] * 2}, place.checkpoint(f"{name}.state.pt"))


GO_ON = {
    "state missing": (no_state, [], 2, ["is missing: weights alone cannot be resumed"]),
    "state truncated": (state_truncated, [], 2, ["last.state.pt is not a checkpoint"]),
    "weights truncated": (weights_truncated, [], 2, ["does not belong to last.state.pt"]),
    "state of another program": (foreign_state, [], 2, ["is not a state of this program"]),
    "state is a malicious pickle": (malicious, [], 2, ["is not a checkpoint that can"]),
    "killed between two renames": (torn, [], 0, ["Resumed"]),
    "killed while writing": (leftover, [], 0, ["Resumed"]),
    "another model": (
        nothing, ["model.name", "spectral_resnet18"], 2, ["is of another run: model.name"]),
    "another optimiser": (nothing, ["train.optim", "sgd"], 2, ["'Adam'", "'SGD'"]),
    "amsgrad in the place of adam": (
        nothing, ["train.optim", "amsgrad"], 2, ["'amsgrad'", "does not fit"]),
    "another schedule": (
        nothing, ["train.lr_scheduler", "cosine"], 2, ["CosineAnnealingLR", "does not fit"]),
    "another number of processes": (
        of_two_processes, [], 2, ["2 processes wrote the checkpoint", "Start as many"]),
    "another batch size": (
        nothing, ["train.batch_size", "8", "train.max_epoch", "2"], 2, ["train.batch_size"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", GO_ON)
def test_going_on(trained, capfd, caplog, fault):
    harm, options, status, words = GO_ON[fault]
    harm(trained)
    seen = trained.run("model.resume", "auto", *options)
    captured = capfd.readouterr()
    report(capfd, fault, status, words, seen, captured.out + captured.err)
    assert seen == status, captured.err
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.out + captured.err
    assert not list(trained.checkpoint("").glob(".*.tmp")) or status
    assert not Path("/tmp/owned").exists()


def test_torchreids_old_checkpoint_goes_on(trained, capsys):
    old = trained.log / "model" / "model.pth.tar-1"
    assert trained.run("model.resume", str(old), "train.max_epoch", "2") == 0
    assert "epoch: [2/2]" in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", ["sgd", "amsgrad"])
def test_torchreids_old_checkpoint_of_another_optimiser(trained, capsys, optimizer):
    old = trained.log / "model" / "model.pth.tar-1"
    given = ["model.resume", str(old), "train.max_epoch", "2", "train.optim", optimizer]
    assert trained.run(*given) == 2
    assert "it is of another optimiser than this" in capsys.readouterr().err


def test_torchreids_old_checkpoint_keeps_its_rates_and_says_so(trained, caplog):
    old = trained.log / "model" / "model.pth.tar-1"
    given = ["model.resume", str(old), "train.max_epoch", "2"]
    assert trained.run(*given) == 0
    assert "keeps its" not in caplog.text
    assert trained.run(*given, "train.lr", "0.5", "train.weight_decay", "0.25") == 0
    assert "keeps its lr" in caplog.text and "not the [0.5] given now" in caplog.text
    assert "keeps its weight_decay" in caplog.text and "not the [0.25]" in caplog.text


@pytest.mark.parametrize("name", ["last.safetensors", "last.state.pt"])
def test_named_checkpoint_that_is_broken(trained, capsys, name):
    truncate(trained.checkpoint(name))
    assert trained.run("model.resume", str(trained.checkpoint("last.safetensors"))) == 2
    assert name in capsys.readouterr().err


def test_broken_weights_to_start_from(trained, capsys):
    truncate(trained.checkpoint("last.safetensors"))
    assert trained.run("model.load_weights", str(trained.checkpoint("last.safetensors"))) == 2
    assert "is not a checkpoint that can be loaded" in capsys.readouterr().err


def test_a_checkpoint_holds_all_of_a_run(finished):
    from torchreid_spectral.engine.checkpoints import CheckpointFolder

    found = CheckpointFolder(finished.checkpoint("")).load("last")
    state = found.state
    assert {"progress", "models", "losses", "scaler", "averages", "loader", "rng", "meters",
            "skipped", "versions", "config", "seed", "commit"} <= state.keys()  # fmt: skip
    assert state["models"]["model"].keys() == {"kinds", "optimizer", "scheduler"}
    assert state["loader"][0].keys() >= {"order", "position", "base_seed", "slots"}
    assert json.loads(state["rng"][0]).keys() >= {"python", "numpy", "torch"}
    assert state["config"]["train"]["batch_size"] == 16 and state["versions"]["torch"]
    assert "classifier.prototypes" in found.weights


def test_not_finite_right_after_going_on_names_the_checkpoint(trained):
    """Not "none yet": the one that the run has gone on from."""
    from torchreid_spectral.engine.checkpoints import CheckpointFolder
    from torchreid_spectral.errors import RunError

    engine = build_engine(trained)
    engine.resume(CheckpointFolder(trained.checkpoint("")).latest())
    engine.set_model_mode("train")
    data = next(iter(engine.train_loader))
    with pytest.raises(RunError, match=r"good checkpoint: .*/checkpoints/last.safetensors.*jpg"):
        engine.forward_backward({**data, "img": data["img"] * float("inf")})


@contextlib.contextmanager
def as_nobody():
    """Give up the rights of root, whom no permission stops."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_folder_without_permission_keeps_the_checkpoint_before(torchreid, capfd):
    from torchreid_spectral.engine.checkpoints import Checkpoint, CheckpointFolder
    from torchreid_spectral.errors import RunError

    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own are closed to others
        folder = CheckpointFolder(name)
        folder.save(Checkpoint({"w": torch.ones(10)}, {}, {"step": 1}))
        os.chmod(name, 0o555)
        with as_nobody(), pytest.raises(RunError, match=r"Permission denied.*intact") as seen:
            folder.save(Checkpoint({"w": torch.ones(10)}, {}, {"step": 2}))
        os.chmod(name, 0o755)
        assert folder.latest().state["step"] == 1
    report(capfd, "folder without permission", 1, ["Permission denied", "intact"], 1,
           str(seen.value))  # fmt: skip


def test_a_full_disk_leaves_the_checkpoint_before(torchreid, tmp_path, capfd):
    """The size limit of the process stands for the disk: the write fails half-way."""
    from torchreid_spectral.engine.checkpoints import Checkpoint, CheckpointFolder
    from torchreid_spectral.errors import RunError

    folder = CheckpointFolder(tmp_path)
    folder.save(Checkpoint({"w": torch.ones(10)}, {}, {"step": 1}))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(RunError, match=r"could not be written.*before it is intact") as seen:
            folder.save(Checkpoint({"w": torch.ones(10**6)}, {}, {"step": 2}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert folder.latest().state["step"] == 1
    assert not list(tmp_path.glob(".*.tmp"))
    words = ["could not be written", "The one before it is intact"]
    report(capfd, "disk full in a save", 1, words, 1, str(seen.value))


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [2, 6, 9, 13, 16])
def test_a_run_on_a_disk_that_is_filled(place, tmp_path, megabytes, capfd):
    """A file system of that size, in a mount namespace: what was saved is whole, or nothing is."""
    command = [sys.executable, "-W", "ignore", "tools/main.py", *place.arguments,
               "train.max_epoch", "4", "test.eval_freq", "1"]  # fmt: skip
    look = (
        "from torchreid_spectral.engine.checkpoints import CheckpointFolder as C; "
        f"found = C({str(place.log / 'checkpoints')!r}).latest(); "
        "print('epochs', found.state['progress']['epoch'] if found else 0)"
    )
    script = (
        f"mount -t tmpfs -o size={megabytes}m none {place.log} || exit 77; "
        f"{shlex.join(command)}; echo status $?; {sys.executable} -W ignore -c {shlex.quote(look)}"
    )
    place.log.mkdir()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, cwd=REPOSITORY
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("needs the right to mount")
    words = ["No space left", "model.resume auto"]
    seen = 1 if "status 1\nepochs " in done.stdout else -1
    report(capfd, f"disk of {megabytes} MB filled by a run", 1, words, seen, done.stderr)
    assert "status 1\nepochs " in done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written" in done.stderr or "could not be written" in done.stderr
    assert "No space left" in done.stderr and "model.resume auto" in done.stderr


@pytest.mark.parametrize("saves", [0, 1, 2])
@pytest.mark.parametrize("killed_at", range(10))
def test_killed_at_any_rename_a_whole_checkpoint_is_left(tmp_path, monkeypatch, killed_at, saves):
    """Stop before the n-th rename of a save, go on, save again: never without a checkpoint."""
    from torchreid_spectral import _files
    from torchreid_spectral.engine.checkpoints import Checkpoint, CheckpointFolder

    folder, renames = CheckpointFolder(tmp_path), [0]
    replace = os.replace

    class Killed(BaseException):
        pass

    def counted(source, target):
        renames[0] += 1
        if renames[0] == killed_at + 1:
            raise Killed
        replace(source, target)

    def save(step):
        weights = {"w": torch.full((3,), float(step))}
        folder.save(Checkpoint(weights, {"w": -weights["w"]}, {"step": step}), best=True)

    for step in range(saves):
        save(step)
    monkeypatch.setattr(_files.os, "replace", counted)
    try:
        save(saves)
    except Killed:
        pass
    monkeypatch.undo()
    found = folder.latest()
    if found is None:  # killed in the first save: a resumed run starts afresh
        assert saves == 0 and killed_at < 3
    else:
        assert found.state["step"] in (saves - 1, saves)
        for each in (found, folder.load("best")):
            step = each.state["step"]
            assert float(each.weights["w"][0]) == step == -float(each.averaged["w"][0])
        assert folder.load("best").state["step"] == found.state["step"]
    save(9)
    assert folder.latest().state["step"] == 9


def test_a_dead_worker_is_reported(place, monkeypatch, capfd):
    """Killed as the kernel kills when memory is short."""
    from torchreid_spectral.data import loading

    load = loading.NamedItems._load

    def killed(self, index, skipped):
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, index, skipped)

    monkeypatch.setattr(loading.NamedItems, "_load", killed)
    seen = place.run("data.workers", "1")
    shown = capfd.readouterr().err
    report(capfd, "worker killed", 1, ["workers died or hang"], seen, shown)
    assert seen == 1
    assert "workers died or hang" in shown and "data.workers" in shown


@pytest.mark.slow
def test_a_hanging_worker_is_reported(place, monkeypatch, capfd):
    import time

    from torchreid_spectral.data import loading

    def hangs(self, index, skipped):
        time.sleep(60)

    monkeypatch.setattr(loading.NamedItems, "_load", hangs)
    seen = place.run("data.workers", "1", "data.timeout", "1.0")
    shown = capfd.readouterr().err
    report(capfd, "worker hangs", 1, ["timed out"], seen, shown)
    assert seen == 1 and "timed out" in shown


def test_a_test_that_fails_leaves_the_trained_weights(place, monkeypatch, capsys):
    def broken(*args, **kwargs):
        raise OSError("no room")

    monkeypatch.setattr("torchreid_spectral.engine.outcome.write_json", broken)
    with pytest.raises(OSError, match="no room"):
        place.run()
    assert place.checkpoint().exists()


def test_skipped_step_leaves_no_trace(torchreid, place):
    """Neither weights nor the statistics of BatchNorm know of it."""
    from torchreid_spectral.engine.options import TrainingOptions

    engine = build_engine(place)
    engine.options = TrainingOptions(on_nan="skip")
    engine.set_model_mode("train")
    data = next(iter(engine.train_loader))
    engine.forward_backward(data)
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    engine.forward_backward({**data, "img": data["img"] * float("inf")})
    assert engine.guard.skipped == 1
    assert all(torch.equal(value, before[k]) for k, value in engine.model.state_dict().items())
    engine.forward_backward(data)
    assert not torch.equal(before["conv1.conv.weight"], engine.model.conv1.conv.weight)


def test_a_skipped_step_leaves_the_epochs_means_finite(torchreid, place, capsys):
    from torchreid_spectral.engine.options import TrainingOptions

    engine = build_engine(place)
    engine.options = TrainingOptions(on_nan="skip")
    step, count = engine.forward_backward, []

    def second_is_broken(data):
        count.append(0)
        return step({**data, "img": data["img"] * float("inf")} if len(count) == 2 else data)

    engine.forward_backward = second_is_broken
    engine.epoch, engine.max_epoch, engine.writer = 0, 1, None
    engine.train(print_freq=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch:")]
    assert len(lines) >= 3 and engine.guard.skipped == 1
    assert not any("nan" in line or "inf" in line for line in lines)


def test_signals_of_one_moment_are_one_wish(monkeypatch, request):
    """A scheduler tells every process of a job, and torchrun passes its own on."""
    from torchreid_spectral.engine import faults

    now, before = [100.0], signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))  # ignored in a background
    monkeypatch.setattr(faults.time, "monotonic", lambda: now[0])
    with pytest.raises(KeyboardInterrupt), faults.StopSignals() as stop:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(signum)
            now[0] += 1
        assert stop.received == signal.SIGINT
        now[0] += 1.5
        signal.raise_signal(signal.SIGINT)  # somebody who does not want to wait
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_rate_that_is_shown_is_that_of_new_layers(torchreid, place):
    more = ["spectral.pooling", "gem", "train.staged_lr", "True", "train.lr", "0.01",
            "train.new_layers", "['classifier']", "train.base_lr_mult", "0.1"]  # fmt: skip
    engine = build_engine(place, *more)
    rates = [group["lr"] for group in engine.optimizer.param_groups]
    assert len(rates) == 3 and rates[-1] == min(rates)
    assert engine.get_current_lr() == max(rates) == pytest.approx(10 * rates[-1])


def test_a_cache_in_ram_is_told_to_be_one_a_process(torchreid, place, monkeypatch, caplog):
    from torchreid_spectral.config import get_default_config, merge_options
    from torchreid_spectral.config.data import build_cache

    data = build_engine(place).datamanager
    cfg = get_default_config()
    merge_options(cfg, ["data.cache", "ram", "data.height", "64", "data.width", "32"])
    build_cache(cfg, data)
    assert "data.cache" not in caplog.text
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    build_cache(cfg, data)
    assert "held by each of 8 processes" in caplog.text and "data.cache disk" in caplog.text


def build_engine(place, *more):
    from torchreid_spectral.config import (
        build,
        engines,
        get_default_config,
        merge_file,
        merge_options,
    )

    cfg = get_default_config()
    merge_file(cfg, REPOSITORY / OPTIONS[1])
    merge_options(cfg, [*place.arguments[2:], *more])
    cfg.use_gpu = False
    import torchreid_spectral as ts

    with build.active_defaults(cfg):
        data = build.build_datamanager(cfg)
        model = ts.build_model(cfg.model.name, data.num_train_pids, cfg.loss.name, False)
        optimizer = build.build_optimizer(cfg, model)
        scheduler = build.build_scheduler(cfg, optimizer)
        return engines.build_engine(cfg, data, model, optimizer, scheduler)


def test_replaced_images_keep_the_batch(place):
    """P x K stays: the next readable image of the identity takes the place."""
    truncate(place.images()[0])
    engine = build_engine(place, "data.on_error", "skip")
    for batch in engine.train_loader:
        assert batch["img"].shape[0] == 16
        assert batch["pid"].view(-1, 4).unique(dim=1).shape[1] == 1
    assert len(engine.train_loader.skipped) <= 1


def test_only_bad_steps_in_a_row_stop_a_run():
    """Twenty of them; scattered among good ones there may be any number."""
    from torchreid_spectral.engine.faults import NotFinite
    from torchreid_spectral.errors import RunError

    bad, good = {"loss": float("nan")}, {"loss": 1.0}
    guard = NotFinite("skip")
    for _ in range(25):
        assert not guard.allows(bad, {}) and guard.allows(good, {})
    assert guard.skipped == 25
    for _ in range(20):
        guard.allows(bad, {})
    with pytest.raises(RunError):
        guard.allows(bad, {})
