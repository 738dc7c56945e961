"""Test of benchmarks/extraction.py: equal features, a row a contestant."""

import importlib.util
import json
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "extraction.py"


def test_rows_and_features(torchreid, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("benchmark_extraction", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path / "found.json"
    arguments = ["--images", "20", "--height", "64", "--width", "32", "--repeats", "2",
                 "--out", str(out)]  # fmt: skip
    assert module.main(arguments) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [name.partition(", osnet")[0] for name in rows] == [
        "torchreid's `FeatureExtractor`", "`SpectralReID`, amp off", "`SpectralReID`, amp bf16"
    ]  # fmt: skip
    for row in rows.values():
        assert row["images_per_second"] == 20 / row["seconds"] > 0
