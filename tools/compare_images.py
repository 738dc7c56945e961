"""Say whether two images show the same person: distance, calibrated threshold, its error rate.

Example:
    python tools/compare_images.py weights.safetensors a.jpg b.jpg
    python tools/compare_images.py weights.safetensors a.jpg b.jpg --calibrate labelled-gallery/
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from extract import add_model_arguments, open_reid

from torchreid_spectral._files import show_any_name
from torchreid_spectral.errors import InputError


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
        run(args)
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
    parser.add_argument("weights", help="trained weights")
    parser.add_argument("first", help="an image")
    parser.add_argument("second", help="another one")
    parser.add_argument("--calibration", help="a saved calibration; default: beside the weights")
    parser.add_argument("--calibrate", metavar="GALLERY",
                        help="calibrate on a gallery with ids (tools/extract.py --dataset) and "
                             "save calibration.json beside the weights")  # fmt: skip
    parser.add_argument("--false-match-rate", type=float, default=0.001, help="for --calibrate")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_model_arguments(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Compare and print."""
    from torchreid_spectral.inference import Gallery

    reid = open_reid(args, calibration=args.calibration)
    found = None
    if args.calibrate:
        found = reid.calibrate(
            Gallery.open(args.calibrate), false_match_rate=args.false_match_rate
        )
    answer = reid.same_person(args.first, args.second)
    print(json.dumps(asdict(answer), indent=2) if args.json else answer)
    if answer.calibration is None and not args.json:
        print("Calibrate on labelled images that were not trained on: --calibrate GALLERY")
    if found is not None:
        place = Path(args.weights)
        found.save((place if place.is_dir() else place.parent) / "calibration.json")


if __name__ == "__main__":
    raise SystemExit(main())
