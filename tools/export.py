"""Export trained weights to ONNX, TorchScript or safetensors, with a model card beside.

Example:
    python tools/export.py log/spectral_demo --format onnx --normalization
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchreid_spectral.errors import InputError

ENDINGS = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Command line without the program's name.

    Returns:
        Exit status: 0, or 2 where the user can mend something.
    """
    args = parse(argv)
    try:
        print(run(args))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", type=Path, help="trained weights, or the log folder of a run")
    parser.add_argument("--format", required=True, choices=sorted(ENDINGS), dest="form")
    parser.add_argument("--out", type=Path, help="file to write; default: beside the weights")
    parser.add_argument("--normalization", action="store_true",
                        help="bake the normalisation in: RGB in [0, 1] comes in")  # fmt: skip
    parser.add_argument("--model-name", help="where nothing is saved with the weights")
    parser.add_argument("--height", type=int, help="of the model's input")
    parser.add_argument("--width", type=int, help="of the model's input")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> Path:
    """Export and write the card."""
    from torchreid_spectral._files import write_whole
    from torchreid_spectral.inference.export import export, model_card
    from torchreid_spectral.inference.weights import latest_weights, open_model, read_config

    weights = latest_weights(args.weights) if args.weights.is_dir() else args.weights
    names = ("model_name", "height", "width")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    model, settings = open_model(weights, **given)
    out = args.out or weights.with_name(f"{settings.model_name}{ENDINGS[args.form]}")
    config = read_config(weights)
    export(model, settings, out, form=args.form, normalization=args.normalization, config=config)
    inside = ", normalisation inside" if args.normalization else ""
    files = f"`{out.name}` ({args.form}{inside})"
    card = model_card(settings, config, metrics_of(weights, settings), files)
    write_whole(out.with_suffix(".md"), lambda path: path.write_text(card, encoding="utf-8"))
    return out


def metrics_of(weights: Path, settings: Any) -> Any:
    """Find the metrics of the weights' run, where its last test is of them and these settings."""
    from torchreid_spectral.inference.weights import latest_weights

    for folder in list(weights.resolve().parents)[:2]:
        path = folder / "metrics.json"
        if path.is_file():
            try:
                tested = latest_weights(folder)
            except InputError:  # the run's checkpoints are elsewhere
                return {}
            if tested.resolve() != weights.resolve():
                return {}
            content = json.loads(path.read_text(encoding="utf-8"))
            alike = tested_alike(content, weights, settings)
            return content.get("metrics", {}) if alike else {}
    return {}


def tested_files(cfg: Any, weights: Path) -> list[Path]:
    """List the files whose weights a run that only tested may have been of."""
    if not cfg.model.resume:
        return [Path(cfg.model.load_weights).expanduser().resolve()]
    if cfg.model.resume == "auto":
        place, name = weights.resolve().parent, "last"
    else:
        given = Path(cfg.model.resume).expanduser().resolve()
        place, name = given.parent, given.name.split(".")[0]
        if "safetensors" not in given.name and not given.name.endswith(".state.pt"):
            return [given]  # of torchreid
    averaged = place / f"{name}.ema.safetensors"
    if cfg.train.ema_decay and averaged.is_file():
        return [averaged]
    return [place / f"{name}.safetensors"]


def trained_on(weights: Path, epochs: int) -> bool:
    """Say whether a checkpoint's weights were trained after the epochs that were tested."""
    from torchreid_spectral import _compat

    state = weights.with_name(f"{weights.name.split('.')[0]}.state.pt")
    if not state.is_file():
        return False
    found = _compat.load_checkpoint(state)
    steps = found["loader"][0]["position"]  # of the next epoch
    return bool(found["progress"]["epoch"] != epochs or steps)


def tested_alike(content: Any, weights: Path, settings: Any) -> bool:
    """Say whether a test was of these weights, and of features as these settings give them."""
    from torchreid_spectral.config.inference import inference_settings
    from torchreid_spectral.config.merging import merged_config

    config = content.get("config", {})
    cfg = merged_config(config)
    if cfg.test.evaluate and weights.resolve() not in tested_files(cfg, weights):
        return False
    if not cfg.test.evaluate and trained_on(weights, content["epochs"]):
        return False
    asked = {**inference_settings(config), "options": settings.options}
    return cfg.test.whitening == "none" and type(settings)(**asked) == settings


if __name__ == "__main__":
    raise SystemExit(main())
