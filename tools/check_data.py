"""Check a folder or CSV of your own images before you train on it.

Example:
    python tools/check_data.py my_crops
    python tools/check_data.py labels.csv --json --picture distribution.png --write-split split.csv

Exit status: 0 fine (warnings are no errors), 1 something must be mended, 2 nothing could be read.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchreid_spectral._files import keep_inputs, show_any_name
from torchreid_spectral.errors import InputError

PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Command line without the program's name.

    Returns:
        Exit status.
    """
    args = parse(argv)
    show_any_name()
    try:
        return run(args)
    except InputError as error:
        if args.json:
            print(json.dumps({"root": str(args.root), "exit_code": 2, "error": str(error)}))
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot be read or written: {error}", file=sys.stderr)
        return 2


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(
        description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("root", help="folder, or CSV of path,pid,camid[,split]")
    parser.add_argument("--type", choices=("image", "video"), default="image", help="data.type")
    parser.add_argument("--batch-size", type=int, default=64, help="train.batch_size, P x K")
    parser.add_argument("--num-instances", type=int, default=4, help="K")
    parser.add_argument("--one-camera", action="store_true", help="there is one camera only")
    parser.add_argument("--no-read", action="store_true", help="do not open the files")
    parser.add_argument("--workers", type=int, default=4, help="threads that read")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--picture", type=Path,
                        help="draw the distribution to this PNG, SVG, PDF or JPEG")  # fmt: skip
    parser.add_argument("--write-split", type=Path, help="write the proposed split as CSV")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Check and show."""
    from torchreid_spectral.data.check import check
    from torchreid_spectral.data.folder import scan

    if min(args.num_instances, args.batch_size) < 1:
        raise InputError(
            f"--batch-size and --num-instances must be >= 1, got {args.batch_size} and "
            f"{args.num_instances}."
        )
    if args.workers < 1:
        raise InputError(f"--workers must be >= 1, got {args.workers}.")
    if args.picture and args.picture.suffix.lower() not in PICTURES:
        raise InputError(f"--picture takes {' or '.join(PICTURES)}, got {str(args.picture)!r}.")
    found = scan(args.root, args.type)
    inputs = [Path(args.root).expanduser()]
    inputs += (Path(name) for item in found.items for name in item.files)
    for option, out in (("--picture", args.picture), ("--write-split", args.write_split)):
        if out:
            keep_inputs(option, out, inputs)
    report = check(
        found,
        batch_size=args.batch_size,
        num_instances=args.num_instances,
        one_camera=args.one_camera,
        read_files=not args.no_read,
        workers=args.workers,
        progress=not args.json,
    )
    if args.picture:
        from torchreid_spectral.report.distribution import draw_distribution

        noun = "images" if args.type == "image" else "tracklets"
        draw_distribution(args.picture, report.per_identity, report.per_camera,
                          num_instances=args.num_instances, noun=noun)  # fmt: skip
    shown = json.dumps(report.as_dict(), indent=2) if args.json else text(report, args)
    print(shown)
    if args.write_split and report.proposal is None:
        print("No split was written: there is no proposal, as splits are given or none fits.",
              file=sys.stderr)  # fmt: skip
    elif args.write_split:
        write_split(args.write_split, report, args.type, found.distractors)
    return report.exit_code


def write_split(path: Path, report: Any, kind: str, distractors: str) -> None:
    """Write the proposal as a CSV that ``folder.path`` takes."""
    from torchreid_spectral._files import write_whole
    from torchreid_spectral.data.folder import NOBODY

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "pid", "camid", "split", "tracklet"][: 4 + (kind == "video")])
            for number, item in enumerate(report.proposal):
                person = NOBODY if distractors and item.pid == distractors else item.pid
                for name in item.files:
                    row = [_seen_from(path, name), person, item.camid, item.split]
                    rows.writerow([*row, number] if kind == "video" else row)

    try:
        write_whole(path, write)
    except UnicodeEncodeError as error:
        name = str(error.object).encode("utf-8", "backslashreplace").decode()
        raise InputError(f"{name!r} is not UTF-8, as a CSV must be: rename the file.") from error


def _seen_from(table: Path, name: str) -> str:
    """Give a file's path from the folder of a table, wherever links lead; else the whole path."""
    absolute = os.path.abspath(name)
    try:
        found = os.path.relpath(absolute, os.path.realpath(table.parent))
        return Path(found).as_posix()  # one table for all systems
    except ValueError:  # on another drive
        return absolute


def text(report: Any, args: argparse.Namespace) -> str:
    """Show the report."""
    noun = "images" if report.kind == "image" else "tracklets"
    lines = [f"{report.root}", f"{'split':<10}{noun:>11}{'identities':>12}{'cameras':>9}"]
    proposal = report.as_dict()["proposal"]
    for title, counts in (("", report.counts), ("proposed ", proposal or {})):
        for split, row in counts.items():
            figures = f"{row['items']:>11}{row['identities']:>12}{row['cameras']:>9}"
            lines.append(f"{title + split:<10}" + figures)
    sizes = sorted(sum(row.values()) for row in report.per_identity.values())
    lines.append(f"{noun} an identity: {sizes[0]} to {sizes[-1]}, median {sizes[len(sizes) // 2]}")
    cameras = ", ".join(f"{c} {sum(row.values())}" for c, row in report.per_camera.items())
    lines.append(f"{noun} a camera: {cameras}")
    for finding in report.findings:
        lines.append(f"{finding.severity}: {finding.text}")
        lines += [f"    {example}" for example in finding.examples]
        if 0 < len(finding.examples) < finding.count:
            lines.append(f"    ... and {finding.count - len(finding.examples)} more")
    if report.proposal and not args.write_split:
        lines.append("Keep the proposed split with --write-split split.csv")
    lines.append("ok" if not report.exit_code else "not ready: see the errors above")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
