"""Several processes: the loss and the gradients of one, an evaluation of one, one writer."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]
TIMEOUT = 240

# In each process: the step of its rows, with BatchNorm frozen; the first one saves what it got.
STEP = '''
import sys
import torch
import torchreid_spectral as ts
from torchreid_spectral import _compat
from torchreid_spectral.config import build, get_default_config, merge_options
from torchreid_spectral.engine import distributed
from torchreid_spectral.engine.step import unwrapped

out, *cases = sys.argv[1:]
ts.register()
torch.set_num_threads(1)


def config(options):
    cfg = get_default_config()
    merge_options(cfg, options.split())
    cfg.use_gpu = False
    return cfg


class Data:
    num_train_pids, sources, train_loader, test_loader = 4, [], None, {}


def step(options):
    cfg = config(options)
    torch.manual_seed(0)
    with build.active_defaults(cfg):
        model = ts.build_model(cfg.model.name, 4, cfg.loss.name, False).double()
        optimizer = build.build_optimizer(cfg, model)
        kind = build.image.ImageSpectralEngine
        kind._loader = lambda self, loader: loader
        engine = build.build_engine(cfg, Data, model, optimizer, None)
    model.train()  # in float64, so that what differs is a mistake, and no order of sums
    for module in model.modules():
        if "BatchNorm" in type(module).__name__:
            module.eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 3, 64, 32, generator=generator).double()
    pids = torch.arange(4).repeat_interleave(4)
    rows = slice(distributed.rank() * 16 // distributed.world_size(),
                 (distributed.rank() + 1) * 16 // distributed.world_size())
    engine.prepare_step()
    shown = engine.forward_backward({"img": images[rows], "pid": pids[rows]})
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()
                 if p.grad is not None}
    return shown, gradients


with distributed.process_group(False):
    found = {case: step(case) for case in cases}
    if distributed.rank() == 0:
        torch.save(found, out)
'''

SPECTRAL = "model.name spectral_osnet_x0_25 loss.name spectral train.optim sgd train.lr 0.0"
METRICS = ["contrastive", "triplet", "quadruplet", "nca", "circle_pairs", "normalized_cut"]
CASES = [
    SPECTRAL,
    *(f"{SPECTRAL} loss.metric ['{name}']" for name in METRICS),
    f"{SPECTRAL} loss.metric ['escape'] loss.metric_on both",
    f"{SPECTRAL} loss.metric ['triplet'] loss.metric_on walked spectral.steps 3 "
    "spectral.restart 0.2",
    f"{SPECTRAL} train.chunk_size 4 loss.metric ['triplet']",
    f"{SPECTRAL} spectral.memory 8",
]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch(arguments, processes=1, hosts=1):
    """Start processes as torchrun would, ``processes`` on each of ``hosts``."""
    port, world = free_port(), processes * hosts
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    started = []
    for number in range(world):
        environment = {
            **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RANK": str(number),
            "WORLD_SIZE": str(world), "LOCAL_RANK": str(number % processes),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        started.append(
            subprocess.Popen(
                [sys.executable, "-W", "ignore", *map(str, arguments)],
                cwd=REPOSITORY,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return [(process.communicate(timeout=TIMEOUT), process.returncode) for process in started]


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Loss and gradients of all cases, by one process and by two."""
    folder = tmp_path_factory.mktemp("steps")
    script = folder / "step.py"
    script.write_text(STEP)
    found = []
    for processes in (1, 2):
        out = folder / f"{processes}.pt"
        for (_, errors), status in launch([script, out, *CASES], processes):
            assert status == 0, errors
        found.append(torch.load(out))
    return found


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one(steps, case, capsys):
    """BatchNorm frozen, B/2 images each: loss and gradients to 1e-5."""
    (one, gradients), (two, gradients_of_two) = (found[case] for found in steps)
    assert one.keys() == two.keys() and gradients.keys() == gradients_of_two.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    worst = max(
        float((gradients_of_two[name] - gradient).abs().max())
        for name, gradient in gradients.items()
    )
    if os.environ.get("SHOW_FIGURES"):
        with capsys.disabled():
            sys.stdout.write(f"| {case.removeprefix(SPECTRAL)} | {one['loss']:.6f} | "
                             f"{two['loss']:.6f} | {worst / largest:.1e} |\n")  # fmt: skip
    assert largest > 0
    assert worst <= 1e-5 * largest


def run(folder, tiny_options, *more, **how):
    options = dict(zip(tiny_options[::2], tiny_options[1::2]))
    flat = [part for pair in options.items() for part in pair]
    return launch(
        ["tools/main.py", "--config-file", "configs/spectral_demo.yaml", *flat,
         "model.name", "spectral_osnet_x0_25", "data.save_dir", folder, "rerank.k", "5",
         "report.ranked_lists", "0", *more], **how)  # fmt: skip


@pytest.mark.slow
def test_two_hosts_train_test_and_go_on(torchreid, tiny_options, tmp_path):
    """Two process groups of one process each on loopback, as two machines would."""
    done = run(tmp_path, tiny_options, hosts=2)
    assert [status for _, status in done] == [0, 0], done[0][0][1] + done[1][0][1]
    (first, _), (second, _) = (streams for streams, _ in done)
    assert "mAP" in first and "epoch: [1/1]" in first
    assert second == ""  # one writer
    assert len(list(tmp_path.glob("events.*"))) == 1
    more = ["train.max_epoch", "2", "model.resume", "auto", "test.eval_freq", "1"]
    done = run(tmp_path, tiny_options, *more, hosts=2)
    assert [status for _, status in done] == [0, 0], done[0][0][1]
    assert "epoch: [2/2]" in done[0][0][0] and "epoch: [1/2]" not in done[0][0][0]


@pytest.mark.slow
def test_shared_evaluation_is_that_of_one_process(torchreid, tiny_options, tmp_path):
    import json

    figures = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        done = run(folder, tiny_options, "test.evaluate", "True", processes=processes)
        assert all(status == 0 for _, status in done), done[0][0][1]
        figures.append(json.loads((folder / "metrics.json").read_text())["metrics"])
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared(torchreid, tiny_options, tmp_path):
    done = run(tmp_path, tiny_options, "train.batch_size", "12", processes=2)
    assert {status for _, status in done} == {2}
    assert "sampler.num_instances" in done[0][0][1]


def test_data_parallel_is_refused(torchreid):
    import torchreid_spectral as ts

    model = ts.build_model("spectral_osnet_x0_25", 4, "spectral", False).train()
    model._is_replica = True
    with pytest.raises(RuntimeError, match=r"DataParallel would cut.*torchrun"):
        model(torch.rand(4, 3, 64, 32))
