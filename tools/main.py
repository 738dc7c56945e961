"""Train and test: the command line of torchreid's scripts/main.py, with the plugin's configs.

Example:
    python tools/main.py --config-file configs/spectral_demo.yaml
    python tools/main.py --config-file configs/spectral_market1501.yaml --root reid-data \
        train.seed 2 test.rerank True
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from torchreid_spectral._exit import exit_status
from torchreid_spectral._files import show_any_name
from torchreid_spectral.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Command line without the program's name.

    Returns:
        Exit status: 0; 2 where the user can mend something; 1 where the run could not go on; 128
        and the signal's number where it was told to stop, with everything saved.
    """
    args = parse(argv)
    show_any_name()
    remedy = ("Checkpoints are intact: make room or mend the permissions, and go on with "
              "model.resume auto.")  # fmt: skip
    return exit_status(lambda: run(args), remedy)


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
    args = parser.parse_args(argv)
    give_options_back(args)
    return args


def give_options_back(args: argparse.Namespace) -> None:
    """Take config options out of the lists that stand before them: ``-t NAME KEY VALUE``."""
    from torchreid_spectral.config import get_default_config
    from torchreid_spectral.config.merging import leaves

    keys = {key for key, _ in leaves(get_default_config())}
    for name in ("sources", "targets", "transforms"):
        words = getattr(args, name) or []
        first = next((place for place, word in enumerate(words) if word in keys), len(words))
        if first and first < len(words):
            setattr(args, name, words[:first])
            args.opts = [*words[first:], *args.opts]


def run(args: argparse.Namespace) -> Any:
    """Train and test as the config says.

    Returns:
        The test's metrics, or None if no test was run.
    """
    cfg = effective_config(args)
    import torch

    import torchreid_spectral as ts
    from torchreid_spectral import _compat
    from torchreid_spectral._locks import alone_in_run
    from torchreid_spectral.config import build, engines, report
    from torchreid_spectral.config.assemble import arithmetic, assemble, set_backends
    from torchreid_spectral.config.check import check_config
    from torchreid_spectral.config.resume import resume_own
    from torchreid_spectral.data.catalog import check_available
    from torchreid_spectral.engine import distributed
    from torchreid_spectral.engine.results import commit_of_tool

    warnings.filterwarnings("ignore", message="Cython evaluation", category=UserWarning)
    ts.register()
    cfg.data.save_dir = os.path.expanduser(cfg.data.save_dir)
    cfg.use_gpu = cfg.use_gpu and torch.cuda.is_available()
    check_config(cfg)
    check_available(cfg.data.root, {*cfg.data.sources, *cfg.data.targets}, cfg.data.type)
    torchreid = _compat.load()
    with distributed.process_group(cfg.use_gpu), arithmetic(cfg):
        rank = distributed.rank()
        torchreid.utils.set_random_seed(cfg.train.seed)
        kind = "test" if cfg.test.evaluate else "train"
        log = Path(cfg.data.save_dir) / f"{kind}.log{time.strftime('-%Y-%m-%d-%H-%M-%S')}"
        with (
            tee(Path(os.devnull), silent=True) if rank else tee(log),
            build.active_defaults(cfg),
            contextlib.ExitStack() as held,
        ):
            if not cfg.test.evaluate:  # before anything of another run's is touched
                alone = alone_in_run(cfg.data.save_dir)
                distributed.first_result(lambda: held.enter_context(alone))
            print(f"Show configuration\n{cfg}\n")
            set_backends(cfg)
            commit = commit_of_tool(__file__, os.path.dirname(ts.__file__))
            engine = assemble(cfg, commit=commit)
            if rank:  # models begin alike, augmentation and dropout differ
                torchreid.utils.set_random_seed(cfg.train.seed + rank)
            resume_own(cfg, engine)
            write_report = report.start_report(cfg, engine)
            result = engine.run(**engines.run_kwargs(cfg))
            write_report()
            if result is not None:
                print(table(result))
    return result


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


def table(result: Any) -> str:
    """Show the metrics of all views side by side."""
    width = max([22, *map(len, result.datasets)]) + 2
    head = f"{'dataset':<{width}}{'post-processing':<20}"
    lines = [head + "".join(f"{name:>7}" for name in ("mAP", "R1", "R5", "R10"))]
    for name, views in result.datasets.items():
        for view, metrics in views.items():
            figures = [metrics.mAP, *(metrics.rank(k) for k in (1, 5, 10))]
            shown = "".join(f"{100 * figure:7.1f}" for figure in figures)
            lines.append(f"{name:<{width}}{view:<20}{shown}")
    return "\n".join(lines)


@contextlib.contextmanager
def tee(path: Path, silent: bool = False) -> Iterator[None]:
    """Write standard output to a file too, or to the file alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Names of files may hold what no text can: they must not end a run.
        file = path.open("a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"data.save_dir {path.parent} cannot be written: {error}") from error
    stream: Any = file if silent else Tee(sys.stdout, file)
    with file, contextlib.redirect_stdout(stream):
        yield


class Tee:
    """A stream that writes to two, and to the file alone once the console is gone."""

    def __init__(self, console: TextIO, file: TextIO) -> None:
        self.console: TextIO | None = console
        self.file = file

    def write(self, text: str) -> int:
        """Write to both."""
        self.file.write(text)
        self._tell(lambda console: console.write(text))
        if "\n" in text:  # a log that is followed, or cut off, is whole to the last line
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Flush both."""
        self.file.flush()
        self._tell(lambda console: console.flush())

    def isatty(self) -> bool:
        """Tell whether the console is a terminal."""
        return self.console is not None and self.console.isatty()

    def _tell(self, do: Callable[[TextIO], object]) -> None:
        """Do something with the console; one that is gone does not end a training."""
        try:
            if self.console is not None:
                do(self.console)
        except OSError as error:
            self.console = None
            self.file.write(f"The console is gone ({error}); this file goes on.\n")


if __name__ == "__main__":
    raise SystemExit(main())
