"""Images a second from files to features: `SpectralReID` beside torchreid's `FeatureExtractor`.

Drawn pedestrians on disk, and for all contestants the weights of one model, random or, with
--weights, trained. They take turns, each over all images, so that what else the machine does falls
on all of them.

Example:
    python benchmarks/extraction.py --models osnet_x0_25 resnet50 --out extraction.json
    python benchmarks/extraction.py --weights model.pth.tar-26 --models spectral_osnet_x0_25
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from losses import in_turns  # beside this file

BATCH = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: Command line.

    Returns:
        Exit status.
    """
    args = parse(argv)
    import torchreid_spectral as ts
    from torchreid_spectral.data.synthetic import SyntheticSpec, generate, list_images
    from torchreid_spectral.engine.results import provenance, write_json

    warnings.simplefilter("ignore")
    ts.register()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        people = -(-args.images // 12)  # some of an identity's 16 images are queries
        spec = SyntheticSpec(num_train_ids=2, num_test_ids=max(2, people))
        drawn = generate(folder, spec)
        paths = [row[0] for row in list_images(drawn / "bounding_box_test")]
        if len(paths) < args.images:
            raise SystemExit(f"Only {len(paths)} images were drawn for {args.images}.")
        for model in args.models:
            found = measured(model, paths[: args.images], Path(folder), args)
            rows |= {f"{name}, {model}": row for name, row in found.items()}
    for name, row in rows.items():
        row["images_per_second"] = row.pop("images") / row["seconds"]
        print(f"{name:<44}{row['images_per_second']:9.1f} images/s{row['relative']:7.2f}")
    if args.out:
        size = {"images": args.images, "height": args.height, "width": args.width}
        about = {"device": args.device, "threads": torch.get_num_threads(), "batch": BATCH} | size
        about["weights"] = "random" if args.weights is None else "trained"
        write_json({"rows": rows} | about | provenance(), Path(args.out))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["osnet_x0_25"], help="of torchreid")
    parser.add_argument("--weights", type=Path, help="trained ones, of the one model given")
    parser.add_argument("--images", type=int, default=512, help="files")
    parser.add_argument("--height", type=int, default=256, help="of the model's input")
    parser.add_argument("--width", type=int, default=128, help="of the model's input")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that count, at least two")
    parser.add_argument("--out", default="", help="JSON file to write")
    return parser.parse_args(argv)


def measured(
    model: str, paths: list[str], folder: Path, args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Time all contestants with one model.

    Args:
        model: torchreid's name; of a trained one as its weights were saved.
        paths: Of the images.
        folder: For the weights.
        args: Command line.

    Returns:
        Of each what :func:`losses.in_turns` gives, and how many images it took.

    Raises:
        SystemExit: If features differ, other than by their precision.
    """
    import torchreid_spectral as ts
    from torchreid_spectral import _compat

    name, weights = model, args.weights
    if weights is None:
        name, weights = f"spectral_{model}", folder / f"{model}.pth"
        torch.manual_seed(0)
        torch.save(ts.build_model(name, 1, pretrained=False).state_dict(), weights)
    size = {"height": args.height, "width": args.width}
    theirs = _compat.load().utils.FeatureExtractor(
        name, str(weights), image_size=(args.height, args.width), device=args.device, verbose=False
    )
    precisions = ("off", "bf16") if args.device == "cpu" else ("off", "bf16", "fp16")
    ours = {
        f"`SpectralReID`, amp {amp}": ts.SpectralReID(
            weights, model_name=name, device=args.device, amp=amp, batch_size=BATCH, **size
        )
        for amp in precisions
    }
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]

    def peer() -> np.ndarray[Any, Any]:
        return np.concatenate([theirs(batch).cpu().numpy() for batch in batches])

    actions: dict[str, Callable[[], Any]] = {"torchreid's `FeatureExtractor`": peer}
    actions |= {title: lambda reid=reid: reid.features(paths) for title, reid in ours.items()}
    alike = [units(action()) for action in actions.values()]
    worst = min(float((alike[0] * other).sum(axis=1).min()) for other in alike[1:])
    if not worst >= 0.99:  # NaN is not
        raise SystemExit(f"The features of {model} differ: smallest cosine {worst:.4f}.")
    timed = in_turns(actions, 0, args.repeats)
    workers = {title: reid.workers for title, reid in ours.items()}
    return {title: row | {"images": len(paths), "workers": workers.get(title, 0)}
            for title, row in timed.items()}  # fmt: skip


def units(features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Scale rows to unit length."""
    scaled: np.ndarray[Any, Any] = features / np.linalg.norm(features, axis=1, keepdims=True)
    return scaled


if __name__ == "__main__":
    sys.exit(main())
