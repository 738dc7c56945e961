"""Several processes: the loss and the gradients of one, an evaluation of one, one writer."""

import json
import os
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

import torchreid_spectral as ts
from torchreid_spectral.engine import distributed
from torchreid_spectral.losses.registry import ID_LOSSES, METRIC_LOSSES

REPOSITORY = Path(__file__).parents[2]
TIMEOUT = 240

# In each process: two steps of its rows, BatchNorm and dropout off; the first saves what it got.
STEP = """
import os
import sys
import torch
import torchreid_spectral as ts
from torchreid_spectral.config import build, engines, get_default_config, merge_options
from torchreid_spectral.engine import distributed
from torchreid_spectral.engine.base import ReportingMixin

out, teacher, *cases = sys.argv[1:]
gpu = "ON_GPU" in os.environ
ts.register()
torch.set_num_threads(1)


def config(options):
    cfg = get_default_config()
    merge_options(cfg, options.replace("TEACHER", teacher).split())
    cfg.use_gpu = gpu
    return cfg


class Data:
    num_train_pids, sources, train_loader, test_loader = 4, [], None, {}


def step(options):
    cfg = config(options)
    torch.manual_seed(0)
    with build.active_defaults(cfg):
        model = ts.build_model(cfg.model.name, 4, cfg.loss.name, False, gpu).double()
        model = model.cuda() if gpu else model
        optimizer = build.build_optimizer(cfg, model)
        ReportingMixin._loader = lambda self, loader: loader
        engine = engines.build_engine(cfg, Data, model, optimizer, None)
    if getattr(engine, "distillation", None) is not None:
        engine.distillation.teacher.double()
    model.train()  # in float64, so that what differs is a mistake, and no order of sums
    for module in model.modules():
        kind = type(module).__name__
        if "Dropout" in kind or ("BatchNorm" in kind and not cfg.train.sync_bn):
            module.eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 16, 3, 64, 32, generator=generator).double()
    pids = torch.arange(4).repeat_interleave(4)
    rows = slice(distributed.rank() * 16 // distributed.world_size(),
                 (distributed.rank() + 1) * 16 // distributed.world_size())
    engine.prepare_step()
    for batch in images:  # the first fills the memory of the walk, where there is one
        shown = engine.forward_backward({"img": batch[rows], "pid": pids[rows]})
    gradients = {name: p.grad.cpu().clone() for name, p in model.named_parameters()
                 if p.grad is not None}
    return shown, gradients


with distributed.process_group(gpu):
    found = {case: step(case) for case in cases}
    if distributed.rank() == 0:
        torch.save(found, out)
"""

SGD = "train.optim sgd train.lr 0.0"
SPECTRAL = f"model.name spectral_osnet_x0_25 loss.name spectral {SGD}"
TRIPLET = f"loss.name triplet loss.triplet.weight_x 1.0 {SGD}"
WALKS = [
    "heads 4",
    "heads 4 spectral.group_shuffling True",
    "top_k 5",
    "top_k 5 spectral.mutual True",
    "normalization symmetric",
    "self_loops False",
    "detach_transition True",
    "learn_temperature True",
    "steps 3 spectral.restart 0.2",
    "steps inf spectral.restart 0.2",
    "memory 8",
    "memory 40 spectral.steps inf spectral.restart 0.2",
    "supervision walked",
    "stripes 2",
]
LOSSES = [
    *(f"{SPECTRAL} loss.metric ['{name}'] loss.metric_on both" for name in METRIC_LOSSES),
    *(f"{SPECTRAL} distill.teacher osnet_x0_25 distill.weights TEACHER distill.kind {kind}"
      for kind in ("soft", "hard")),
    f"{SPECTRAL} spectral.memory 8 train.chunk_size 4 loss.metric ['triplet']",
    f"model.name osnet_x0_25 {TRIPLET}",
]  # fmt: skip
MORE = [
    *(f"{SPECTRAL} loss.id {name}" for name in ID_LOSSES),
    f"model.name spectral_osnet_x0_25 {TRIPLET}",
    f"model.name osnet_x0_25 loss.name contrastive {SGD}",
    *(f"{SPECTRAL} spectral.{walk} loss.metric ['triplet'] loss.metric_on walked"
      for walk in WALKS),
    f"{SPECTRAL} model.attention [{{'after':'conv4','over':'samples'}}]",
    f"{SPECTRAL} model.name spectral_pcb_p4",
    f"{SPECTRAL} train.chunk_size 4 loss.metric ['triplet']",
]  # fmt: skip
ON_GPUS = [*LOSSES, f"{SPECTRAL} train.sync_bn True loss.metric ['triplet']"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch(arguments, processes, **environment):
    """Start processes as torchrun would on one machine."""
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **environment}
    world = {"WORLD_SIZE": str(processes)}
    return finished([
        start(arguments, **rendezvous, **world, RANK=str(number), LOCAL_RANK=str(number))
        for number in range(processes)
    ])  # fmt: skip


def torchrun(*commands):
    """Start the documented command once a host; the hosts are process groups on loopback."""
    how = ["-m", "torch.distributed.run", f"--nnodes={len(commands)}", "--nproc_per_node=1",
           "--master_addr=127.0.0.1", f"--master_port={free_port()}"]  # fmt: skip
    return finished(
        [start([*how, f"--node_rank={number}", *each]) for number, each in enumerate(commands)]
    )


def start(arguments, **environment):
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as on a host of its own
    )


def finished(started):
    """Wait for all; if one does not end, none is left that would hold a port of later tests."""
    try:
        return [(process.communicate(timeout=TIMEOUT), process.returncode) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


@pytest.fixture(scope="module")
def steps(torchreid, tmp_path_factory):
    """Loss and gradients of several cases, by one process and by two."""
    folder = tmp_path_factory.mktemp("steps")
    script, teacher = folder / "step.py", folder / "teacher.pt"
    script.write_text(STEP)
    torch.manual_seed(2)
    model = ts.build_model("osnet_x0_25", 4, "softmax", False)
    torch.save({"state_dict": model.state_dict()}, teacher)

    @cache
    def measure(cases, **environment):
        found = []
        for processes in (1, 2):
            out = folder / f"{processes}.pt"
            for (_, errors), status in launch(
                [script, out, teacher, *cases], processes, **environment
            ):
                assert status == 0, errors
            found.append(torch.load(out))
        return found

    return measure


@pytest.mark.parametrize("case", [
    *LOSSES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE)])  # fmt: skip
def test_two_processes_are_one(steps, case, capsys):
    """BatchNorm frozen, B/2 images each: loss and gradients to 1e-5, each of its largest entry."""
    compare(steps(tuple(LOSSES if case in LOSSES else MORE)), case, capsys)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("case", ON_GPUS)
def test_two_gpus_are_one(steps, case, capsys):
    """The same through NCCL, also with BatchNorm synchronised."""
    compare(steps(tuple(ON_GPUS), ON_GPU="1"), case, capsys)


def compare(found, case, capsys):
    (one, gradients), (two, gradients_of_two) = (each[case] for each in found)
    assert one.keys() == two.keys()
    for name in gradients_of_two.keys() - gradients.keys():  # an output that no loss looks at
        assert not gradients_of_two[name].any()
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    errors = {
        name: float((gradients_of_two[name] - gradient).abs().max() / gradient.abs().max())
        for name, gradient in gradients.items()
        if gradient.abs().max() > 1e-9 * largest  # others are noise about zero
    }
    if os.environ.get("SHOW_FIGURES"):
        with capsys.disabled():
            short = case.removeprefix(SPECTRAL).replace(SGD, "")
            sys.stdout.write(f"| {short} | {total(one):.9f} | {total(two):.9f} | "
                             f"{max(errors.values()):.1e} |\n")  # fmt: skip
    assert largest > 0
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-5, abs=1e-9), name
    assert max(errors.values()) <= 1e-5


def total(shown):
    """Give the loss, or the sum of torchreid's two."""
    return shown.get("loss", shown.get("loss_t", 0) + shown.get("loss_x", 0))


@pytest.fixture
def command(torchreid, tiny_options):
    def build(folder, *more):
        return ["tools/main.py", "--config-file", "configs/spectral_demo.yaml", *tiny_options,
                "model.name", "spectral_osnet_x0_25", "data.save_dir", str(folder),
                "rerank.local_blurring.k",
                "5", "report.ranked_lists", "0", *more]  # fmt: skip

    return build


def figures(folder):
    return json.loads((folder / "metrics.json").read_text())["metrics"]


@pytest.mark.slow
def test_two_hosts_train_test_and_go_on(command, tmp_path):
    """Each has a disk of its own: only the first one's has the checkpoint."""
    folders = tmp_path / "host0", tmp_path / "host1"
    done = torchrun(*(command(folder) for folder in folders))
    assert [status for _, status in done] == [0, 0], done[0][0][1] + done[1][0][1]
    (first, _), (second, _) = (streams for streams, _ in done)
    assert "mAP" in first and "epoch: [1/1]" in first
    assert second == ""  # one writer
    assert len(list(tmp_path.glob("*/events.*"))) == 1
    assert not list(folders[1].glob("checkpoints/*"))
    more = ["train.max_epoch", "2", "model.resume", "auto", "test.eval_freq", "1"]
    done = torchrun(*(command(folder, *more) for folder in folders))
    assert [status for _, status in done] == [0, 0], done[0][0][1]
    assert "epoch: [2/2]" in done[0][0][0] and "epoch: [1/2]" not in done[0][0][0]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["train.chunk_size", "4", "data.augment", "device"]])
def test_the_saved_model_is_the_tested_one(command, tmp_path, options):
    """In the test BatchNorm has the first one's statistics; shared, it is that of one process."""
    done = launch(command(tmp_path / "two", *options), 2)
    assert all(status == 0 for _, status in done), done[0][0][1]
    weights = tmp_path / "two" / "checkpoints" / "last.safetensors"
    for processes in (1, 2):
        folder = tmp_path / f"again{processes}"
        again = command(folder, "test.evaluate", "True", "model.load_weights", str(weights))
        done = launch(again, processes)
        assert all(status == 0 for _, status in done), done[0][0][1]
        assert figures(folder) == figures(tmp_path / "two")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_again(command, tmp_path):
    """Every process has a seed of its own, and the same one in every run."""
    weights = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        done = launch(command(folder), 2)
        assert all(status == 0 for _, status in done), done[0][0][1]
        weights.append((folder / "checkpoints" / "last.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared(command, tmp_path):
    done = launch(command(tmp_path, "train.batch_size", "12"), 2)
    assert {status for _, status in done} == {2}
    assert "sampler.num_instances" in done[0][0][1]


def test_data_parallel_is_refused(torchreid):
    model = ts.build_model("spectral_osnet_x0_25", 4, "spectral", False).train()
    model._is_replica = True
    with pytest.raises(RuntimeError, match=r"DataParallel would cut.*torchrun"):
        model(torch.rand(4, 3, 64, 32))


def test_a_problem_of_the_first_process_is_raised_in_all():
    """Here in the one process that there is; the hosts above go on with its result."""
    from torchreid_spectral.errors import InputError

    def missing():
        raise InputError("there is no such file")

    with pytest.raises(InputError, match="no such file"):
        distributed.first_result(missing)
    assert distributed.first_result(lambda: 3) == 3


def test_after_an_error_no_process_waits_for_the_others(monkeypatch):
    """NCCL takes a group down together: of one process alone it would hang."""
    ended = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *args, **options: None)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: ended.append(True))
    with pytest.raises(KeyError), distributed.process_group(use_gpu=False):
        raise KeyError
    assert ended == []
    with distributed.process_group(use_gpu=False):
        pass
    assert ended == [True]


TOGETHER = """
import sys
import time
from pathlib import Path
import torch
from torchreid_spectral.engine import distributed
from torchreid_spectral.errors import InputError, RunError, UnknownNameError

written = Path(sys.argv[1])


def full():
    raise RunError("the disk is full")


def unknown():
    raise UnknownNameError("figure", "map", ["mAP"])


with distributed.process_group(use_gpu=False):
    number = distributed.rank()
    distributed.first_result(lambda: (time.sleep(1), written.touch()))
    assert written.exists(), "went on before the first had written"
    try:
        distributed.first_result(full)
    except RunError as error:
        assert str(error) == "the disk is full"
    else:
        raise AssertionError("the others know nothing of the error")
    try:
        distributed.first_result(unknown)
    except InputError as error:
        assert str(error).startswith("Unknown figure")
    network = torch.nn.Linear(2, 2)
    network.weight.data.fill_(number)
    distributed.share_parameters(network)
    assert network.weight.eq(0).all()
"""


def test_what_the_first_process_does_the_others_wait_for(tmp_path):
    """A save, which nobody may outrun: torchrun ends the first when another has ended."""
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    for (_, errors), status in launch([script, tmp_path / "written"], 2):
        assert status == 0, errors
