"""Write report.html of a finished run: test its last weights and draw the figures anew.

Example:
    python tools/report.py log/spectral_demo --baseline log/baseline_demo
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from torchreid_spectral._exit import exit_status
from torchreid_spectral._files import show_any_name
from torchreid_spectral._run_files import training_metrics
from torchreid_spectral.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Command line without the program's name.

    Returns:
        Exit status: 0; 1 where no report could be written; 2 where the user can mend something;
        128 and the signal's number where it was told to stop.
    """
    args, paths = parse(argv), []
    show_any_name()
    status = exit_status(lambda: paths.append(run(args)), "Make room, or mend the permissions.")
    if status:
        return status
    print(paths[0] or "No report could be written: see the messages above.")
    return 0 if paths[0] else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="log folder of a run")
    parser.add_argument("--weights", help="other weights than the last ones of the folder")
    parser.add_argument("--baseline", default="", help="log folder of a baseline to draw beside")
    parser.add_argument("--root", default="", help="folder that holds the datasets")
    parser.add_argument(
        "--set", action="extend", nargs="*", default=[], metavar="KEY VALUE", help="config options"
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> Path | None:
    """Test and write."""
    import torchreid_spectral as ts
    from torchreid_spectral.config import build, engines, merge_options, report
    from torchreid_spectral.config.assemble import assemble, set_backends
    from torchreid_spectral.config.check import check_config
    from torchreid_spectral.config.merging import merged_config
    from torchreid_spectral.data.catalog import check_available
    from torchreid_spectral.inference.weights import latest_weights

    try:
        saved = json.loads(training_metrics(args.folder).read_text(encoding="utf-8"))
        cfg = merged_config(saved["config"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{args.folder} is no log folder of a run ({error!r}).") from error
    ts.register()
    cfg.test.evaluate, cfg.report.html = True, True
    cfg.report.baseline = args.baseline or cfg.report.baseline
    cfg.model.pretrained, cfg.model.resume, cfg.use_gpu = False, "", False
    cfg.train.amp = "off"  # half precision is slow on a CPU
    cfg.distill.teacher = cfg.distill.weights = ""  # nothing is taught
    cfg.model.load_weights = str(args.weights or latest_weights(args.folder))
    cfg.data.root = args.root or cfg.data.root
    cfg.data.save_dir = str(args.folder)
    merge_options(cfg, args.set)
    check_config(cfg)
    check_available(cfg.data.root, {*cfg.data.sources, *cfg.data.targets}, cfg.data.type)
    with build.active_defaults(cfg), tempfile.TemporaryDirectory() as elsewhere:
        set_backends(cfg)
        engine = assemble(cfg, commit=saved.get("commit"))
        made = {name: saved[name] for name in ("versions", "epochs") if name in saved}
        engine.record |= made
        engine.provenance |= made
        finish = report.start_report(cfg, engine)
        # the run's own metrics.json stays as it is
        engine.run(**{**engines.run_kwargs(cfg), "save_dir": elsewhere})
        return finish()


if __name__ == "__main__":
    raise SystemExit(main())
