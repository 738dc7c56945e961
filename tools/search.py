"""Search a gallery for images: prints the ranked answer, as text or JSON.

Example:
    python tools/search.py weights.safetensors gallery/ query.jpg --top-k 20 \
        --rerank local_blurring
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # "| head" has seen enough; Python would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"error: cannot be read or written: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", help="trained weights")
    parser.add_argument("gallery", help="a gallery of tools/extract.py, or a folder of images")
    parser.add_argument("query", nargs="+", help="images to search for")
    parser.add_argument("--top-k", type=int, default=20, help="answers a query")
    parser.add_argument("--rerank", default="none", help="a re-ranker's name")
    parser.add_argument("--option", action="extend", nargs="+", default=[], metavar="NAME=VALUE",
                        help="of the re-ranker")  # fmt: skip
    parser.add_argument("--inductive", action="store_true",
                        help="answer each query as if it were alone")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_model_arguments(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> dict[str, list[Any]]:
    """Search and print."""
    from torchreid_spectral.rerank._inputs import named_options

    reid = open_reid(args)
    folder = Path(args.gallery)
    if not folder.exists():
        raise InputError(f"There is no gallery or folder of images {args.gallery!r}.")
    if (folder / "index.json").is_file():
        reid.open(folder)
    elif any(folder.glob("features-*.safetensors")):
        raise InputError(f"{folder} is not finished: run tools/extract.py once more.")
    else:
        reid.index(args.gallery)
    options = named_options(args.option)
    answers = reid.search(
        list(args.query), args.top_k, args.rerank, inductive=args.inductive, **options
    )
    found = dict(zip(args.query, answers))
    if args.json:
        plain = {query: [asdict(hit) for hit in hits] for query, hits in found.items()}
        print(json.dumps(plain, indent=2))
        return found
    for query, hits in found.items():
        print(query)
        for hit in hits:
            label = "" if hit.id is None else f"  id {hit.id}"
            print(f"{hit.rank:5d}  {hit.distance:.4f}  {hit.path}{label}")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
