"""Trained models for production: ONNX, TorchScript or safetensors, with a model card beside."""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_spectral import _compat
from torchreid_spectral._files import write_bytes, write_whole
from torchreid_spectral.errors import InputError, UnknownNameError, require_extra
from torchreid_spectral.inference.network import FeatureNetwork
from torchreid_spectral.inference.weights import Settings, fingerprint

__all__ = ["FORMATS", "TOLERANCE", "export", "model_card", "onnx_difference"]

OPSET = 18
NAMED = "torchreid_spectral"
"""Under this name ONNX's metadata and TorchScript's extra files hold, as JSON, the settings,
whether the normalisation is inside, and the fingerprint that galleries of the weights carry."""
# pool with a kernel as large as the map, or (the last) fix the batch size
NOT_TRACED = {"HACNN", "NASNetAMobile", "PCB", "ShuffleNet", "ShuffleNetV2"}
TOLERANCE = 1e-4  # of ONNX Runtime against PyTorch, relative to the largest feature


def export(
    model: nn.Module,
    settings: Settings,
    path: str | Path,
    *,
    form: str,
    normalization: bool = False,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model.

    Args:
        model: Of :func:`~torchreid_spectral.inference.open_model`.
        settings: The same.
        path: The file to write.
        form: A key of :data:`FORMATS`.
        normalization: Bake the pixels' normalisation in: the input is RGB in [0, 1] then.
        config: Effective config, kept inside safetensors with the settings in it.

    Returns:
        The path.

    Raises:
        InputError: If ``normalization`` is asked of safetensors, which hold no computation.
        UnknownNameError: If there is no such format.
    """
    if form not in FORMATS:
        raise UnknownNameError("export format", form, FORMATS)
    path = Path(path)
    if form == "safetensors":
        if normalization:
            raise InputError("safetensors hold weights only: normalisation cannot be baked in.")
        from torchreid_spectral.config.inference import config_with

        _write_safetensors(model, path, config_with(config, vars(settings)))
        return path
    pixels = (settings.mean, settings.std) if normalization else (None, None)
    if any(parameter.is_cuda for parameter in model.parameters()):
        model = copy.deepcopy(model).cpu()
        _compat.place_constants(model, use_gpu=False)
    about = {NAMED: json.dumps({
        **{name: value for name, value in vars(settings).items() if name != "options"},
        "normalization_inside": normalization,
        "fingerprint": fingerprint(model, settings),
    })}  # fmt: skip
    network = FeatureNetwork(model, *pixels, flip=settings.flip, unit=settings.normalize).eval()
    # two images: a batch of one would be taken for a constant
    example = torch.rand(2, 3, settings.height, settings.width)
    write_whole(path, lambda temporary: FORMATS[form](network, example, temporary, about))
    return path


def model_card(
    settings: Settings, config: Mapping[str, Any] | None, metrics: Mapping[str, Any], files: str
) -> str:
    """Describe a model: data, config, metrics, licence.

    Args:
        settings: Of the model.
        config: Effective config, if known.
        metrics: The ``metrics`` of its ``metrics.json``; may be empty.
        files: What was exported, in words.

    Returns:
        Markdown.
    """
    data = (config or {}).get("data", {})
    sources = ", ".join(data.get("sources", [])) or "not known"
    lines = [
        f"# {settings.model_name}",
        "",
        "Person re-identification: an image of one person in, a feature out; near features are "
        "taken for the same person.",
        "",
        f"- File: {files}",
        f"- Input: RGB, {settings.height} x {settings.width} (height x width), bilinear resize",
        f"- Pixels: mean {list(settings.mean)}, standard deviation {list(settings.std)} of [0, 1]",
        f"- Feature: {_feature(settings)}",
        f"- Distance: {settings.metric.replace('_', ' ')}",
        f"- Trained on: {sources}",
        f"- Started from: {_start((config or {}).get('model', {}))}",
        "",
        "## Metrics",
        "",
    ]
    if metrics:
        lines += ["| test set | post-processing | mAP | rank-1 |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {view} | {100 * values['mAP']:.1f} | {100 * values['rank-1']:.1f} |"
            for name, views in metrics.items()
            for view, values in views.items()
        ]
    else:
        lines.append("Not measured.")
    lines += [
        "",
        "## Licence and use",
        "",
        "The code is MIT. Weights come under the terms of the data they were trained on, mostly "
        "research only: read these before you use or pass them on. Recognising people may need "
        "a legal basis where you are. Accuracy on other cameras and people is lower than above.",
    ]
    if config is not None:
        lines += ["", "## Config", "", "```json", json.dumps(config, indent=1), "```"]
    return "\n".join(lines) + "\n"


@torch.no_grad()
def onnx_difference(path: str | Path, network: nn.Module, images: Tensor) -> tuple[float, float]:
    """Run an exported model and compare it with what it was exported from.

    Args:
        path: The ONNX file.
        network: In eval mode.
        images: ``(B, 3, H, W)``.

    Returns:
        The largest difference of a feature, and the largest feature of the network.

    Raises:
        InputError: If onnxruntime is not installed.
    """  # noqa: DOC502
    runtime = require_extra("onnxruntime", "export", "Running ONNX")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    expected = network(images)
    return float((found - expected).abs().max()), float(expected.abs().max())


def _write_onnx(network: nn.Module, example: Tensor, path: Path, about: Mapping[str, str]) -> None:
    """Write with the exporter that traces, or, where it cannot, with the newer one.

    The first takes a tenth of the time, but cannot write some backbones with a batch of any size
    and prints its whole graph then. What is written is run and compared before it is kept.

    Raises:
        InputError: If neither can.
    """
    require_extra("onnxruntime", "export", "Export to ONNX")
    onnx = require_extra("onnx", "export", "Export to ONNX")
    untraceable = NOT_TRACED & {kind.__name__ for kind in type(network.model).__mro__}
    for newer in (True,) if untraceable else (False, True):
        if newer:
            require_extra("onnxscript", "export", "Export of this backbone to ONNX")
        try:
            _export_onnx(network, example, path, newer=newer)
            difference = _worst_difference(network, example, path)
        except Exception as error:  # exporter and runtime raise kinds of their own
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            continue
        if difference <= TOLERANCE:
            written = onnx.load(str(path))
            onnx.helper.set_model_props(written, dict(about))
            onnx.save(written, str(path))
            return
        reason = f"ONNX Runtime differs from PyTorch by {difference:.1e}"
    raise InputError(f"The model cannot be exported to ONNX: {reason}. Try torchscript.")


def _export_onnx(network: nn.Module, example: Tensor, path: Path, *, newer: bool) -> None:
    names: dict[str, Any] = {
        "input_names": ["images"],
        "output_names": ["features"],
        "opset_version": OPSET,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters' own parts
        if newer:
            shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
            program = torch.onnx.export(
                network, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False, **names
            )
            program.save(str(path))  # type: ignore[union-attr]
            return
        axes = {"images": {0: "batch"}, "features": {0: "batch"}}
        torch.onnx.export(network, (example,), str(path), dynamo=False, dynamic_axes=axes, **names)


def _worst_difference(network: nn.Module, example: Tensor, path: Path) -> float:
    """Give the largest difference, relative to the largest feature, in batches of 1 and 3."""
    found = [
        onnx_difference(path, network, images)
        for images in (example[:1], torch.cat([example, 1 - example[:1]]))
    ]
    return max(difference / max(largest, 1e-12) for difference, largest in found)


def _write_torchscript(
    network: nn.Module, example: Tensor, path: Path, about: Mapping[str, str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
        content = io.BytesIO()  # torch's own writer of files aborts the process on a full disk
        torch.jit.save(traced, content, _extra_files=dict(about))  # type: ignore[no-untyped-call]
        path.write_bytes(content.getvalue())
        loaded = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    for images in (example[:1], torch.cat([example, 1 - example[:1]])):
        reason = _differs(network, loaded, images)
        if reason:
            raise InputError(
                f"The model cannot be exported to TorchScript: with {len(images)} images {reason}."
                " Export to onnx."
            )


@torch.no_grad()
def _differs(network: nn.Module, loaded: Any, images: Tensor) -> str:  # noqa: ANN401
    """Say how a traced network answers otherwise, if it does."""
    expected = network(images)
    try:
        found = loaded(images)
    except RuntimeError as error:  # a size of the example has become a constant
        return f"it stops ({str(error).strip().splitlines()[-1][:200]})"
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    return "" if difference <= TOLERANCE else f"it differs from PyTorch by {difference:.1e}"


def _feature(settings: Settings) -> str:
    words = "mean of the image's and its mirror image's" if settings.flip else "of the image"
    words += ", whitened" if settings.whitening else ""
    return f"{words}, scaled to unit length" if settings.normalize else words


def _start(model: Mapping[str, Any]) -> str:
    if model.get("load_weights"):
        return str(model["load_weights"])
    if "pretrained" not in model:
        return "not known"
    return "torchreid's weights of ImageNet" if model["pretrained"] else "random weights"


def _write_safetensors(model: nn.Module, path: Path, config: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    weights = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    metadata = {"config": json.dumps(config)}
    write_bytes(path, save(weights, metadata))


FORMATS: dict[str, Callable[..., None]] = {
    "onnx": _write_onnx,
    "torchscript": _write_torchscript,
    "safetensors": _write_safetensors,
}
"""Writers by format."""
