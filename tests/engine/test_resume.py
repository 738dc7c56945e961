"""A run that is killed and goes on ends with the weights of one that was not, bit for bit."""

import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

# Everything that has a state: augmentation, dropout of none, momentum, schedule, average, tests.
RUN = [
    "--config-file", "configs/spectral_demo.yaml",
    "model.name", "spectral_osnet_x0_25", "train.max_epoch", "2", "train.checkpoint_every", "1",
    "train.print_freq", "1", "test.eval_freq", "1", "report.ranked_lists", "0",
    "rerank.local_blurring.k", "5",
    "data.transforms", "['random_flip','random_crop','random_erase','color_jitter']",
    "train.ema_decay", "0.9", "train.clip_norm", "5.0",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums of several threads differ from those of one in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("tools_main", REPOSITORY / "tools" / "main.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def command(tiny_options):
    def build(folder, workers=0, *more):
        options = [*tiny_options, *RUN[2:], "train.deterministic", "True",
                   "data.save_dir", str(folder), "data.workers", str(workers)]  # fmt: skip
        return [*RUN[:2], *options, *more]

    return build


def fingerprint(folder, name="last"):
    digest = hashlib.sha256()
    for suffix in (".safetensors", ".ema.safetensors"):
        digest.update((Path(folder) / "checkpoints" / f"{name}{suffix}").read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(torchreid, main, command, tmp_path_factory):
    """The fingerprint of the run that nobody kills, and the seconds that it computes."""
    found = {}
    for workers in (0, 2):
        folder = tmp_path_factory.mktemp("whole")
        started = time.process_time()  # a busy machine kills early in the run, never after it
        assert main(command(folder, workers)) == 0
        found[workers] = fingerprint(folder), time.process_time() - started
    return found


def start(arguments):
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "tools/main.py", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process, words):
    shown = []
    for line in process.stdout:
        shown.append(line)
        if words in line:
            return "".join(shown)
    raise AssertionError("".join(shown) + process.stderr.read())


def test_killed_in_the_middle_of_an_epoch(main, command, uninterrupted, tmp_path, capfd):
    process = start(command(tmp_path))
    wait_for(process, "epoch: [1/2][2/")
    process.kill()
    process.communicate()
    assert main(command(tmp_path, 0, "model.resume", "auto")) == 0
    shown = capfd.readouterr().out
    assert "Resumed in epoch 1 after " in shown and "starting afresh" not in shown
    assert fingerprint(tmp_path) == uninterrupted[0][0]


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(10))
def test_killed_at_a_random_moment(main, command, uninterrupted, tmp_path, moment, capsys):
    workers = 2 * (moment % 2)
    expected, seconds = uninterrupted[workers]
    delay = random.Random(moment).uniform(0, 0.9 * seconds)
    for _ in range(4):
        process = start(command(tmp_path, workers))
        wait_for(process, "Start training" if moment > 7 else "[1/2][1/")
        time.sleep(delay)
        if process.poll() is None:
            break
        process.communicate()  # the machine has become faster and the run has ended before: again
        shutil.rmtree(tmp_path / "checkpoints")
        delay /= 2
    assert process.poll() is None
    process.kill()
    process.communicate()
    assert main(command(tmp_path, workers, "model.resume", "auto")) == 0
    with capsys.disabled():
        line = f"killed after {delay:.2f} s, {workers} workers: {fingerprint(tmp_path)[:16]}"
        sys.stdout.write(f"\n{line}, uninterrupted {expected[:16]}")
    assert fingerprint(tmp_path) == expected


@pytest.mark.parametrize(("signum", "tell"), [
    (signal.SIGTERM, os.killpg),  # as torchrun and job schedulers do: the workers are told too
    pytest.param(signal.SIGTERM, os.kill, marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, os.killpg, marks=pytest.mark.slow),
])  # fmt: skip
def test_told_to_stop_it_saves_and_exits(main, command, uninterrupted, tmp_path, signum, tell):
    arguments = command(tmp_path, 2, "train.checkpoint_every", "0")
    process = start(arguments)
    wait_for(process, "epoch: [1/2][1/")
    tell(process.pid, signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert "everything is saved" in errors and "Traceback" not in errors
    assert main([*arguments, "model.resume", "auto"]) == 0
    assert fingerprint(tmp_path) == uninterrupted[2][0]


def test_workers_draw_what_the_checkpoint_says(torchreid, main, command, uninterrupted, tmp_path):
    """Persistent workers are seeded anew each epoch, as fresh ones are."""
    assert main(command(tmp_path, 2, "data.persistent_workers", "True")) == 0
    assert fingerprint(tmp_path) == uninterrupted[2][0]


def test_going_on_after_the_end_changes_no_weight(torchreid, main, command, tmp_path, capsys):
    assert main(command(tmp_path, 0, "train.max_epoch", "1")) == 0
    before = load_file(tmp_path / "checkpoints" / "last.safetensors")
    assert main(command(tmp_path, 0, "train.max_epoch", "1", "model.resume", "auto")) == 0
    after = load_file(tmp_path / "checkpoints" / "last.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_auto_without_a_checkpoint_starts_afresh(torchreid, main, command, tmp_path, capsys):
    assert main(command(tmp_path, 0, "train.max_epoch", "1", "model.resume", "auto")) == 0
    assert "starting afresh" in capsys.readouterr().out


def test_a_longer_run_goes_on_from_a_named_checkpoint(torchreid, main, command, tmp_path, capsys):
    assert main(command(tmp_path, 0, "train.max_epoch", "1", "test.eval_freq", "-1")) == 0
    last = tmp_path / "checkpoints" / "last.safetensors"
    more = ["model.resume", str(last), "train.lr", "0.001", "test.eval_freq", "-1"]
    assert main(command(tmp_path / "more", 0, *more)) == 0
    shown = capsys.readouterr().out
    assert "train.lr 0.003 -> 0.001" in shown and "train.max_epoch 1 -> 2" in shown
    assert "epoch: [2/2][1/" in shown and shown.count("epoch: [1/2]") == 0
    straight = torchreid_rates(torchreid, 0.001)
    rates = [float(rate) for rate in re.findall(r"lr ([\d.]+)", shown.split("[2/2]", 1)[1])]
    assert rates == [pytest.approx(straight[1], abs=1e-6)] * len(rates) and rates


def torchreid_rates(torchreid, lr):
    """Rates of the demo's schedule in its first epochs."""
    from torchreid_spectral.engine.schedulers import warmup_multi_step

    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = warmup_multi_step(
        optimizer, milestones=[21, 28], warmup_epochs=2, warmup_factor=0.1
    )
    found = []
    for _ in range(3):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("scheduler", "another"),
    [("multi_step",) * 2, ("cosine",) * 2, ("warmup_multi_step",) * 2,
     ("warmup_multi_step", "warmup_cosine"), ("warmup_cosine", "warmup_multi_step")],
)  # fmt: skip
def test_changed_rates_are_those_of_the_new_config(torchreid, scheduler, another):
    """What a stopped run goes on with is what a fresh one of that config would have by then."""
    from types import SimpleNamespace

    from torchreid_spectral.engine import progress
    from torchreid_spectral.engine.checkpoints import Checkpoint
    from torchreid_spectral.engine.schedulers import warmup_defaults

    def engine(lr, scheduler):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = torchreid.optim.build_optimizer(model, optim="sgd", lr=lr)
        steps = [2, 4] if "multi" in scheduler else 3
        with warmup_defaults(warmup_epochs=2, warmup_factor=0.1):
            schedule = torchreid.optim.build_lr_scheduler(
                optimizer, lr_scheduler=scheduler, stepsize=steps, max_epoch=6
            )
        found = SimpleNamespace(
            _models={"model": model}, _optims={"model": optimizer}, _scheds={"model": schedule},
            record={"config": {"train": {"lr": lr, "lr_scheduler": scheduler}}},
        )  # fmt: skip
        return found

    def epochs(of, count):
        rates = []
        for _ in range(count):
            rates.append(of._optims["model"].param_groups[0]["lr"])
            of._models["model"](torch.ones(4, 3)).sum().backward()
            of._optims["model"].step()
            of._scheds["model"].step()
        return rates

    old, straight = engine(0.1, scheduler), engine(0.01, another)
    same_rate = engine(0.1, another)
    epochs(old, 3)
    state = {"models": {"model": progress._parts(old, "model")}, **old.record}
    for lr, expected in ((0.01, epochs(straight, 6)[3:]), (0.1, epochs(same_rate, 6)[3:])):
        new = engine(lr, another)
        checkpoint = Checkpoint(old._models["model"].state_dict(), {}, state)
        progress._apply_model(new, "model", checkpoint)
        momentum = [value["momentum_buffer"] for value in new._optims["model"].state.values()]
        kept = [value["momentum_buffer"] for value in old._optims["model"].state.values()]
        assert all(torch.equal(*pair) for pair in zip(momentum, kept, strict=True))
        assert epochs(new, 3) == pytest.approx(expected)


@pytest.mark.parametrize("scheduler", ["single_step", "multi_step", "cosine", "warmup_multi_step"])
@pytest.mark.parametrize("optimizer", ["adam", "amsgrad", "sgd", "rmsprop", "radam"])
def test_every_optimizer_and_schedule_has_a_safe_state(torchreid, optimizer, scheduler, tmp_path):
    from torchreid_spectral.engine.checkpoints import Checkpoint, CheckpointFolder

    model = torch.nn.Linear(3, 2)
    optim = torchreid.optim.build_optimizer(model, optim=optimizer)
    stepsize = [2, 4] if "multi" in scheduler else 3
    schedule = torchreid.optim.build_lr_scheduler(
        optim, lr_scheduler=scheduler, stepsize=stepsize, max_epoch=5
    )
    model(torch.rand(4, 3)).sum().backward()
    optim.step()
    schedule.step()
    state = {"optimizer": optim.state_dict(), "scheduler": schedule.state_dict()}
    folder = CheckpointFolder(tmp_path)
    folder.save(Checkpoint(model.state_dict(), {}, state))
    loaded = folder.load("last").state
    optim.load_state_dict(loaded["optimizer"])
    assert schedule.state_dict() == loaded["scheduler"] or scheduler == "warmup_multi_step"


def test_another_run_is_not_taken_for_the_last_one(torchreid, main, command, tmp_path, capsys):
    assert main(command(tmp_path, 0, "train.max_epoch", "1")) == 0
    other = ["train.max_epoch", "1", "train.seed", "7", "model.resume"]
    assert main(command(tmp_path, 0, *other, "auto")) == 2
    assert "is of another run: train.seed" in capsys.readouterr().err
    named = str(tmp_path / "checkpoints" / "last.safetensors")
    assert main(command(tmp_path, 0, *other, named)) == 0  # on purpose


def test_there_must_be_something_to_test(torchreid, main, command, tmp_path, capsys):
    asked = ["test.evaluate", "True", "model.resume", "auto"]
    assert main(command(tmp_path / "misspelt", 0, *asked)) == 2
    assert "there is nothing to test" in capsys.readouterr().err


def test_an_average_asked_for_later_begins_with_the_weights(torchreid, main, command, tmp_path):
    once = ["train.max_epoch", "1", "test.eval_freq", "-1", "train.ema_decay", "0.0"]
    assert main(command(tmp_path, 0, *once)) == 0
    before = load_file(tmp_path / "checkpoints" / "last.safetensors")
    more = ["train.ema_decay", "0.9", "model.resume", "auto", "test.eval_freq", "-1"]
    assert main(command(tmp_path, 0, "train.max_epoch", "1", *more)) == 0
    saved = torch.load(tmp_path / "model" / "model.pth.tar-1")["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in before.items())


def test_a_run_of_several_processes_is_tested_by_one(torchreid, main, command, tmp_path, capsys):
    """Nor do batch size, workers or optimiser matter to a test."""
    from torchreid_spectral.engine.checkpoints import CheckpointFolder

    once = ["train.max_epoch", "1", "test.eval_freq", "-1"]
    assert main(command(tmp_path, 0, *once)) == 0
    trained = capsys.readouterr().out.splitlines()[-2:]
    folder = CheckpointFolder(tmp_path / "checkpoints")
    checkpoint = folder.latest()
    for name in ("rng", "loader"):
        checkpoint.state[name] = checkpoint.state[name] * 2
    folder.save(checkpoint, best=False)
    asked = command(tmp_path, 0, *once, "model.resume", "auto")
    assert main(asked) == 2
    assert "Start as many" in capsys.readouterr().err
    other = ["train.optim", "sgd", "sampler.num_instances", "2", "test.evaluate", "True"]
    assert main([*asked, *other]) == 0
    shown = capsys.readouterr().out
    assert "Testing the weights after 1 epochs" in shown
    assert shown.splitlines()[-2:] == trained


def test_nothing_trained_is_shown_as_before_training(torchreid, main, command, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    html = ["report.html", "True", "test.eval_freq", "-1"]
    assert main(command(first, 0, *html, "train.max_epoch", "1")) == 0
    named = str(first / "checkpoints" / "last.safetensors")
    assert main(command(second, 0, *html, "model.resume", named)) == 0
    assert list(first.rglob("batch_before.npz"))
    assert not list(second.rglob("batch_before.npz"))


def test_who_begins_anew_in_a_runs_folder_is_told(torchreid, main, command, tmp_path, capsys):
    assert main(command(tmp_path, 0, "train.max_epoch", "1", "test.eval_freq", "-1")) == 0
    assert "holds the checkpoints of an earlier run" not in capsys.readouterr().out
    assert main(command(tmp_path, 0, "train.max_epoch", "1", "test.eval_freq", "-1")) == 0
    said = capsys.readouterr().out
    assert "of an earlier run: checkpoints_earlier is where they go" in said


def test_adam_does_not_go_on_from_amsgrad(torchreid, main, command, tmp_path, capsys):
    once = command(tmp_path, 0, "train.max_epoch", "1", "test.eval_freq", "-1")
    assert main([*once, "train.optim", "amsgrad"]) == 0
    assert main([*once, "train.optim", "adam", "model.resume", "auto"]) == 2
    said = capsys.readouterr().err
    assert "does not fit" in said and "'amsgrad']" in said


class Killed(BaseException):
    pass


def test_who_is_killed_before_the_first_save_does_not_go_on_from_an_earlier_run(
    torchreid, main, command, tmp_path, monkeypatch, capsys
):
    once = command(tmp_path, 0, "train.max_epoch", "1", "test.eval_freq", "-1")
    assert main(once) == 0
    earlier = (tmp_path / "checkpoints" / "last.safetensors").read_bytes()

    def kill(*_, **__):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("torchreid_spectral.engine.loop.LoopMixin.train", kill)
        main([*once, "train.lr", "0.001"])
    aside = tmp_path / "checkpoints_earlier" / "last.safetensors"
    assert aside.read_bytes() == earlier  # nothing is lost
    capsys.readouterr()
    assert main([*once, "train.lr", "0.001", "model.resume", "auto"]) == 0
    assert "starting afresh" in capsys.readouterr().out
    assert (tmp_path / "checkpoints" / "last.safetensors").read_bytes() != earlier
    assert main(once) == 0  # a second time it takes the place of the first
    assert aside.read_bytes() != earlier


def test_an_average_is_tested_where_it_was_trained(torchreid, main, command, tmp_path):
    once = command(tmp_path, 0, "train.max_epoch", "1", "test.eval_freq", "-1")
    assert main(once) == 0
    tested = json.loads((tmp_path / "metrics.json").read_text())["weights_sha256"]
    again = ["train.ema_decay", "0.0", "model.resume", "auto", "test.evaluate", "True"]
    assert main([*once, *again]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["weights_sha256"] == tested


def test_what_does_not_fit_is_named(torchreid, main, command, tmp_path, capsys):
    once = command(tmp_path, 0, "train.max_epoch", "1", "test.eval_freq", "-1")
    assert main(once) == 0
    assert main([*once, "spectral.learn_temperature", "True", "model.resume", "auto"]) == 2
    assert "log_temperature" in capsys.readouterr().err


def test_numbers_of_numpy_in_a_schedule_are_saved_as_python_s(tmp_path):
    from torchreid_spectral.engine.checkpoints import Checkpoint, CheckpointFolder

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=np.float64(0.1))
    steps = list(np.linspace(1, 3, 3).astype(int))
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, steps, gamma=np.float32(0.5))
    state = {"scheduler": schedule.state_dict(), "names": ("a", [np.int32(2)])}
    folder = CheckpointFolder(tmp_path)
    folder.save(Checkpoint({"w": torch.zeros(1)}, {}, state))
    found = torch.load(tmp_path / "last.state.pt")
    assert found["names"] == ("a", [2]) and type(found["names"][1][0]) is int
    milestones = found["scheduler"]["milestones"]
    assert milestones == schedule.milestones and {*map(type, milestones)} == {int}
    schedule.load_state_dict(folder.load("last").state["scheduler"])
    assert sorted(schedule.milestones.elements()) == [1, 2, 3]


def test_weights_of_other_people_are_told(torchreid, main, command, tmp_path, capsys, caplog):
    once = command(tmp_path, 0, "train.max_epoch", "1", "test.eval_freq", "-1")
    assert main(once) == 0
    check = [*once, "model.resume", "auto", "test.evaluate", "True"]
    assert main(check) == 0
    said = "people of theirs may be among the queries"
    assert said not in caplog.text + capsys.readouterr().err
    file = tmp_path / "checkpoints" / "last.state.pt"
    state = torch.load(file)
    state["loader"][0]["data"] = ["another", "set"]
    torch.save(state, file)
    assert main(check) == 0
    assert said in caplog.text + capsys.readouterr().err
