"""How far ONNX Runtime is from PyTorch, for one backbone of each of torchreid's families.

Each model has random weights, and running statistics after one batch of noise; it is exported as
tools/export.py does, with features of unit length, and run on a batch that the export has not
seen. Shown are the largest difference, and the same relative to the largest feature.

Example:
    python benchmarks/onnx_parity.py --out parity.json
    python benchmarks/onnx_parity.py --models osnet_x1_0 resnet50
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from torchreid_spectral.errors import InputError

FAMILIES = {
    "ResNet": "resnet18",
    "ResNeXt": "resnext50_32x4d",
    "ResNet-IBN": "resnet50_ibn_a",
    "ResNet-mid": "resnet50mid",
    "SE-ResNet": "se_resnet50",
    "DenseNet": "densenet121",
    "Inception-ResNet": "inceptionresnetv2",
    "Inception-v4": "inceptionv4",
    "Xception": "xception",
    "NASNet": "nasnsetmobile",
    "MobileNetV2": "mobilenetv2_x1_0",
    "ShuffleNet": "shufflenet",
    "ShuffleNetV2": "shufflenet_v2_x0_5",
    "SqueezeNet": "squeezenet1_0",
    "MuDeep": "mudeep",
    "HACNN": "hacnn",
    "PCB": "pcb_p6",
    "MLFN": "mlfn",
    "OSNet": "osnet_x0_25",
    "OSNet-IBN": "osnet_ibn_x1_0",
    "OSNet-AIN": "osnet_ain_x0_25",
}
SIZES = {"hacnn": (160, 64), "mudeep": (256, 128), "inceptionv4": (160, 96),
         "inceptionresnetv2": (160, 96), "xception": (160, 96)}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: Command line.

    Returns:
        Exit status: 1 where a model differs by more than 1e-4 or cannot be exported.
    """
    args = parse(argv)
    import torchreid_spectral as ts
    from torchreid_spectral.engine.results import provenance, write_json
    from torchreid_spectral.inference.export import TOLERANCE

    warnings.simplefilter("ignore")
    ts.register()
    known = {name: family for family, name in FAMILIES.items()}
    rows = []
    print(f"{'family':<18}{'model':<20}{'difference':>11}{'relative':>10}{'s':>7}")
    for name in args.models or FAMILIES.values():
        row = {"family": known.get(name, "-"), "model": name, **measure(name, args.batch)}
        rows.append(row)
        start = f"{row['family']:<18}{name:<20}"
        if "error" in row:
            print(start + row["error"], flush=True)
        else:
            print(f"{start}{row['difference']:11.1e}{row['relative']:10.1e}{row['seconds']:7.1f}",
                  flush=True)  # fmt: skip
    if args.out:
        write_json({"models": rows} | provenance(), Path(args.out))
    return int(any(row.get("relative", 1.0) > TOLERANCE for row in rows))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="*", help="torchreid names; default: one a family")
    parser.add_argument("--batch", type=int, default=5, help="images that are compared")
    parser.add_argument("--out", default="", help="JSON file to write")
    return parser.parse_args(argv)


def measure(name: str, batch: int) -> dict[str, Any]:
    """Export one spectral model and compare it."""
    import torchreid_spectral as ts
    from torchreid_spectral.inference import Settings
    from torchreid_spectral.inference.export import export, onnx_difference
    from torchreid_spectral.inference.network import FeatureNetwork

    torch.manual_seed(0)
    size = SIZES.get(name, (128, 64))
    model = ts.build_model(f"spectral_{name}", 4, pretrained=False, use_gpu=False)
    with torch.no_grad():
        model(torch.randn(8, 3, *size))  # in training mode: moves the running statistics
    model.eval()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            export(model, Settings(name, *size, normalize=True), path, form="onnx")
        except InputError as error:
            return {"error": str(error)}
        seconds = time.perf_counter() - started
        network, images = FeatureNetwork(model, unit=True), torch.randn(batch, 3, *size)
        difference, largest = onnx_difference(path, network, images)
    return {"difference": difference, "relative": difference / largest, "seconds": seconds}


if __name__ == "__main__":
    sys.exit(main())
