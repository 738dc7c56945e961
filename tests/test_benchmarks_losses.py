"""Test of benchmarks/losses.py: every loss is timed by the public path."""

import importlib.util
import json
from pathlib import Path

import torchreid_spectral as ts

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "losses.py"


def test_times_every_loss(torchreid, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("benchmark_losses", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path / "losses.json"
    arguments = ["--batch", "4", "--identities", "2", "--steps", "2", "--warm-up", "0"]
    assert module.main([*arguments, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    names = {name.removeprefix("+ ") for name in found["losses"]}
    assert names == set(ts.list_losses()) - {"dark_rank"}
    assert found["losses"]["softmax"]["relative"] == 1
    assert found["versions"]["torch"]
