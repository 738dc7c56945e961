"""Train and test: the command line of torchreid's scripts/main.py, with the plugin's configs.

Example:
    python tools/main.py --config-file configs/spectral_demo.yaml
    python tools/main.py --config-file configs/spectral_market1501.yaml --root reid-data \
        train.seed 2 test.rerank True
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from torchreid_spectral.errors import InputError, RunError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""What the operating system says of a disk that is full or closed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Command line without the program's name.

    Returns:
        Exit status: 0; 2 where the user can mend something; 1 where the run could not go on; 128
        and the signal's number where it was told to stop, with everything saved.
    """
    args = parse(argv)
    try:
        run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        signum = getattr(error, "signum", 0)
        print(error if signum else f"error: {error}", file=sys.stderr)
        return 128 + signum if signum else 1
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(
            f"error: {error.filename or 'data.save_dir'} cannot be written ({error.strerror}). "
            "Checkpoints are intact: make room or mend the permissions, and go on with "
            "model.resume auto.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:  # before training has begun, or for the second time
        return 130
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config-file", default="", help="path to config file")
    parser.add_argument("-s", "--sources", nargs="+", help="source datasets, by space")
    parser.add_argument("-t", "--targets", nargs="+", help="target datasets, by space")
    parser.add_argument("--transforms", nargs="+", help="data augmentation")
    parser.add_argument("--root", default="", help="folder that holds the datasets")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config options, KEY VALUE ...")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> Any:
    """Train and test as the config says.

    Returns:
        The test's metrics, or None if no test was run.
    """
    cfg = effective_config(args)
    # Imported late: a wrong key is reported in half a second.
    import torch

    import torchreid_spectral as ts
    from torchreid_spectral import _compat
    from torchreid_spectral.config import build, report
    from torchreid_spectral.config.check import check_config
    from torchreid_spectral.data.catalog import check_available
    from torchreid_spectral.engine import distributed

    warnings.filterwarnings("ignore", message="Cython evaluation", category=UserWarning)
    ts.register()
    cfg.use_gpu = cfg.use_gpu and torch.cuda.is_available()
    check_config(cfg)
    check_available(cfg.data.root, {*cfg.data.sources, *cfg.data.targets}, cfg.data.type)
    torchreid = _compat.load()
    with distributed.process_group(cfg.use_gpu):
        rank = distributed.rank()
        torchreid.utils.set_random_seed(cfg.train.seed)
        kind = "test" if cfg.test.evaluate else "train"
        log = Path(cfg.data.save_dir) / f"{kind}.log{time.strftime('-%Y-%m-%d-%H-%M-%S')}"
        with tee(Path(os.devnull), silent=True) if rank else tee(log), build.active_defaults(cfg):
            print(f"Show configuration\n{cfg}\n")
            set_backends(cfg)
            try:
                engine = assemble(cfg)
            except (AssertionError, ValueError) as error:  # torchreid's checks of its options
                raise InputError(str(error) or "torchreid refused the config") from error
            if rank:  # models begin alike, augmentation and dropout differ
                torchreid.utils.set_random_seed(cfg.train.seed + rank)
            resume_own(cfg, engine)
            write_report = report.start_report(cfg, engine)
            result = engine.run(**build.run_kwargs(cfg))
            write_report()
            if result is not None:
                print(table(result))
    return result


def set_backends(cfg: Any) -> None:
    """Choose what PyTorch's backends may do, and say so."""
    import torch

    if cfg.train.deterministic:
        # CUDA's own libraries need this too; what still differs on a GPU raises an error.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if not cfg.use_gpu:
        print(
            f"CPU, {torch.get_num_threads()} threads, oneDNN {torch.backends.mkldnn.enabled}, "
            f"deterministic {cfg.train.deterministic}"
        )
    else:
        torch.backends.cudnn.benchmark = not cfg.train.deterministic
        torch.backends.cudnn.deterministic = cfg.train.deterministic
        print(
            f"cuDNN benchmark {torch.backends.cudnn.benchmark}, deterministic "
            f"{cfg.train.deterministic}, TF32 matmul {torch.backends.cuda.matmul.allow_tf32}, "
            f"TF32 convolutions {torch.backends.cudnn.allow_tf32}"
        )


def resume_own(cfg: Any, engine: Any) -> None:
    """Go on from this program's checkpoints: the last one, or a named one.

    The first process reads it for all of them: on other machines its folder may not be there.
    """
    from torchreid_spectral.engine import distributed

    given = cfg.model.resume
    if given != "auto" and not is_own(given):
        return
    checkpoint = distributed.first_result(lambda: read_own(cfg))
    if checkpoint is None:
        print(f"No checkpoint in {cfg.data.save_dir}: starting afresh.")
        return
    changed = changes(checkpoint.state.get("config", {}), to_dict(cfg))
    if changed:
        print(f"The config has changed since the checkpoint: {', '.join(changed)}")
    engine.resume(checkpoint)
    steps = checkpoint.state["loader"][0]["position"]
    print(f"Resumed in epoch {engine.progress.epoch + 1} after {steps} of its steps.")


def read_own(cfg: Any) -> Any:
    """Load the checkpoint that ``model.resume`` asks for; None where there is none yet."""
    from torchreid_spectral.engine.checkpoints import FOLDER, CheckpointFolder

    if cfg.model.resume == "auto":
        return CheckpointFolder(Path(cfg.data.save_dir) / FOLDER).latest()
    path = Path(cfg.model.resume).expanduser()
    require_file("model.resume", str(path))
    return CheckpointFolder(path.parent).load(path.name.split(".")[0])


def is_own(path: str) -> bool:
    """Tell this program's checkpoints from torchreid's by their names."""
    return path.endswith((".safetensors", ".state.pt"))


def changes(before: Any, now: Any, prefix: str = "") -> list[str]:
    """List what differs between two configs; where a run lies and goes on from may."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += changes(old, new, f"{prefix}{name}.")
        elif old != new and f"{prefix}{name}" not in ("model.resume", "data.save_dir"):
            found.append(f"{prefix}{name} {old} -> {new}")
    return found


def effective_config(args: argparse.Namespace) -> Any:
    """Merge defaults, file and command line, in torchreid's order."""
    from torchreid_spectral.config import get_default_config, merge_file, merge_options

    cfg = get_default_config()
    if args.config_file:
        merge_file(cfg, args.config_file)
    if args.root:
        cfg.data.root = args.root
    for name in ("sources", "targets", "transforms"):
        if getattr(args, name):
            setattr(cfg.data, name, getattr(args, name))
    merge_options(cfg, args.opts)
    return cfg


def assemble(cfg: Any) -> Any:
    """Build data, model, optimiser, schedule and engine, drawing random numbers as torchreid."""
    from torchreid_spectral import _compat
    from torchreid_spectral.config import build
    from torchreid_spectral.engine.results import commit_of

    torchreid = _compat.load()
    datamanager = load_data(cfg)
    print(f"Building model: {cfg.model.name}")
    model = build_network(cfg, datamanager.num_train_pids)
    size = (1, 3, cfg.data.height, cfg.data.width)
    num_params, flops = torchreid.utils.compute_model_complexity(model, size)
    print(f"Model complexity: params={num_params:,} flops={flops:,}")
    if cfg.model.load_weights:
        require_file("model.load_weights", cfg.model.load_weights)
        load_weights(model, cfg.model.load_weights)
    if cfg.use_gpu:
        model = to_gpu(model, one=cfg.train.amp == "bf16" or bool(cfg.train.compile))
    optimizer = build.build_optimizer(cfg, model)
    scheduler = build.build_scheduler(cfg, optimizer)
    if cfg.model.resume and cfg.model.resume != "auto" and not is_own(cfg.model.resume):
        require_file("model.resume", cfg.model.resume)
        cfg.train.start_epoch = _compat.resume_from_checkpoint(
            cfg.model.resume, model, optimizer, scheduler
        )
    print(f"Building {cfg.loss.name}-engine for {cfg.data.type}-reid")
    record = {"config": to_dict(cfg), "seed": cfg.train.seed, "commit": commit_of(__file__)}
    return build.build_engine(cfg, datamanager, model, optimizer, scheduler, record=record)


def load_data(cfg: Any) -> Any:
    """Build the data manager; what torchreid misses in a dataset becomes one clear message."""
    from torchreid_spectral.config import build
    from torchreid_spectral.data.catalog import missing_message

    try:
        return build.build_datamanager(cfg)
    except (RuntimeError, OSError, IndexError) as error:
        if isinstance(error, RuntimeError) and "is not found" not in str(error):
            raise
        names = [*cfg.data.sources, *cfg.data.targets]
        folders = {name: folder_of(name, cfg.data.type) for name in names}
        guilty = [name for name, folder in folders.items() if f"/{folder}" in str(error)]
        name = (guilty or names)[0]
        raise InputError(
            missing_message(name, cfg.data.root, folders[name], f"torchreid: {error}")
        ) from error


def folder_of(name: str, kind: str) -> str:
    """Give the folder that torchreid reads a dataset from."""
    from torchreid_spectral import _compat

    return str(getattr(_compat.dataset_tables()[kind][name], "dataset_dir", None) or name)


def build_network(cfg: Any, num_classes: int) -> Any:
    """Build the model; a failed download of its first weights becomes a clear message."""
    import torchreid_spectral as ts

    try:
        return ts.build_model(
            cfg.model.name,
            num_classes,
            loss=cfg.loss.name,
            pretrained=cfg.model.pretrained,
            use_gpu=False,  # it is run on the CPU before to_gpu
        )
    except OSError as error:
        raise InputError(
            f"The ImageNet weights of {cfg.model.name} could not be downloaded ({error}). Start "
            "from a file with model.pretrained False model.load_weights FILE, or from random "
            "weights with model.pretrained False."
        ) from error
    except ValueError as error:  # an option of the group spectral is out of range
        raise InputError(str(error)) from error


def to_gpu(model: Any, *, one: bool) -> Any:
    """Wrap as torchreid does.

    A spectral model stays on one GPU, so that its graph is whole; so does, for ``one``, what
    DataParallel's threads would compute in fp16 or on the first GPU alone.
    """
    import torch

    from torchreid_spectral import _compat
    from torchreid_spectral.engine import distributed
    from torchreid_spectral.models import SpectralNet

    _compat.place_constants(model, use_gpu=True)
    if distributed.world_size() > 1:
        return model.cuda()
    count = torch.cuda.device_count()
    devices = list(range(count))
    spectral = isinstance(model, SpectralNet)
    if (spectral or one) and count > 1:
        why = "The graph spans the whole batch" if spectral else "train.amp bf16 or train.compile"
        print(
            f"{why}: using 1 of {count} GPUs. For all of them: torchrun "
            f"--nproc_per_node={count} tools/main.py ..."
        )
        devices = [0]
    return torch.nn.DataParallel(model, device_ids=devices).cuda()


def load_weights(model: Any, path: str) -> None:
    """Load what fits; stop where nothing does, while torchreid would go on with random weights."""
    from torchreid_spectral import _compat

    names, own = _compat.load_weights(path).keys(), model.state_dict().keys()
    if not names & own:
        raise InputError(
            f"model.load_weights {path} holds no weight of {type(model).__name__}: it has "
            f"{sorted(names)[:3]}, the model {sorted(own)[:3]}."
        )
    _compat.load().utils.load_pretrained_weights(model, path)


def require_file(key: str, path: str) -> None:
    """Stop where torchreid would only warn and go on with other weights."""
    if not Path(path).expanduser().is_file():
        raise InputError(f"{key} names a file that does not exist: {path}")


def to_dict(node: Any) -> Any:
    """Turn a config into plain dictionaries."""
    return {name: to_dict(value) if hasattr(value, "items") else value for name, value in
            node.items()}


def table(result: Any) -> str:
    """Show the metrics of all views side by side."""
    lines = [f"{'dataset':<24}{'post-processing':<20}{'mAP':>7}{'R1':>7}{'R5':>7}{'R10':>7}"]
    for name, views in result.datasets.items():
        for view, metrics in views.items():
            figures = [metrics.mAP, *(metrics.rank(k) for k in (1, 5, 10))]
            lines.append(f"{name:<24}{view:<20}" + "".join(f"{100 * f:7.1f}" for f in figures))
    return "\n".join(lines)


@contextlib.contextmanager
def tee(path: Path, silent: bool = False) -> Iterator[None]:
    """Write standard output to a file too, or to the file alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"data.save_dir {path.parent} cannot be written: {error}") from error
    stream: Any = file if silent else Tee(sys.stdout, file)
    with file, contextlib.redirect_stdout(stream):
        yield


class Tee:
    """A stream that writes to two."""

    def __init__(self, console: TextIO, file: TextIO) -> None:
        self.console, self.file = console, file

    def write(self, text: str) -> int:
        """Write to both."""
        self.file.write(text)
        written = self.console.write(text)
        if "\n" in text:  # a log that is followed, or cut off, is whole to the last line
            self.flush()
        return written

    def flush(self) -> None:
        """Flush both."""
        self.console.flush()
        self.file.flush()

    def isatty(self) -> bool:
        """Tell whether the console is a terminal."""
        return self.console.isatty()


if __name__ == "__main__":
    raise SystemExit(main())
