"""Test of benchmarks/onnx_parity.py: a row a model; the exit status says whether all fit."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "onnx_parity.py"


def test_rows_and_status(torchreid, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    spec = importlib.util.spec_from_file_location("benchmark_onnx", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path / "parity.json"
    arguments = ["--models", "osnet_x0_25", "--out", str(out)]
    assert module.main(arguments) == 0
    (row,) = json.loads(out.read_text())["models"]
    assert row["family"] == "OSNet" and 0 < row["relative"] <= 1e-4
    assert len(set(module.FAMILIES.values())) >= 10
    monkeypatch.setattr(module, "measure", lambda *args: {"error": "cannot"})
    assert module.main(["--models", "osnet_x0_25"]) == 1
    assert "cannot" in capsys.readouterr().out
