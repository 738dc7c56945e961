"""Export trained weights to ONNX, TorchScript or safetensors, each with a model card beside.

Example:
    python tools/export.py log/spectral_demo --format onnx --normalization
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchreid_spectral._files import show_any_name
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
    show_any_name()
    try:
        print(run(args))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot be read or written: {error}", file=sys.stderr)
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
    from torchreid_spectral._files import keep_inputs, write_text
    from torchreid_spectral.inference.export import export, model_card
    from torchreid_spectral.inference.weights import latest_weights, open_model, read_config

    weights = latest_weights(args.weights) if args.weights.is_dir() else args.weights
    names = ("model_name", "height", "width")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    model, settings = open_model(weights, **given)
    out = args.out or weights.with_name(f"{settings.model_name}{ENDINGS[args.form]}")
    keep_inputs("--out", out, [weights])  # whose classifier would go
    config = read_config(weights)
    export(model, settings, out, form=args.form, normalization=args.normalization, config=config)
    inside = ", normalisation inside" if args.normalization else ""
    files = f"`{out.name}` ({args.form}{inside})"
    card = model_card(settings, config, metrics_of(weights, model, settings), files)
    write_text(out.with_name(f"{out.name}.md"), card)  # one of each file: they differ
    return out


def metrics_of(weights: Path, model: Any, settings: Any) -> Any:
    """Find the metrics of the weights' run, where its last test is of them and these settings."""
    from torchreid_spectral.inference.weights import read_metrics

    for folder in list(weights.resolve().parents)[:2]:
        content = read_metrics(folder)
        if content:
            return content.get("metrics", {}) if tested_alike(content, model, settings) else {}
    return {}


def tested_alike(content: Any, model: Any, settings: Any) -> bool:
    """Say whether a test was of these weights, and of features as these settings give them."""
    from torchreid_spectral.config.inference import inference_settings
    from torchreid_spectral.models.feature_weights import feature_digest

    if content.get("weights_sha256") != feature_digest(model):
        return False
    config = content.get("config", {})
    asked = {**inference_settings(config), "options": settings.options}
    return type(settings)(**asked) == settings


if __name__ == "__main__":
    raise SystemExit(main())
