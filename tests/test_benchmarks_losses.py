"""Tests of benchmarks/losses.py and benchmarks/losses_compare.py."""

import importlib.util
import json
from pathlib import Path

import pytest

import torchreid_spectral as ts
from torchreid_spectral.config import get_default_config, merge_file, merge_options
from torchreid_spectral.config.check import check_config

ROOM = Path(__file__).parents[1] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOM / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_times_every_loss(torchreid, tmp_path, capsys):
    out = tmp_path / "losses.json"
    arguments = ["--batch", "4", "--identities", "2", "--steps", "2", "--warm-up", "0"]
    assert load("losses").main([*arguments, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    names = {name.removeprefix("+ ") for name in found["losses"]}
    assert names == {*ts.list_losses(), "softmax, no walk"}
    assert found["losses"]["softmax, no walk"]["relative"] == 1
    assert found["versions"]["torch"]


def test_compared_configs_differ_by_the_walk_or_the_teacher_alone(torchreid, tmp_path):
    module = load("losses_compare")
    configs = {}
    for name, file, *options in module.variants(tmp_path):
        cfg = get_default_config()
        merge_file(cfg, file)
        merge_options(cfg, [*options, *module.PLAIN, *module.SCHEDULE])
        check_config(cfg)
        configs[name] = cfg
    assert configs.keys() == {side for pair in module.pairs().values() for side in pair}
    for name, pair in module.pairs().items():
        without, given = (configs[side].clone() for side in pair)
        without.data.save_dir = given.data.save_dir = ""
        if name == "dark_rank":
            assert given.distill.teacher and not without.distill.teacher
            assert not given.loss.metric  # so that it does not matter what they are on
            given.distill, given.loss.metric_on = without.distill, without.loss.metric_on
        else:
            assert (without.spectral.supervision, given.spectral.supervision) == ("plain", "both")
            without.spectral.supervision = "both"
            if name != "strong":  # metric losses on X' too, as the identity loss is
                assert (without.loss.metric_on, given.loss.metric_on) == ("plain", "both")
                without.loss.metric_on = "both"
        assert without == given, name


def test_compares_pair_by_pair(monkeypatch, tmp_path, capsys):
    module = load("losses_compare")

    def fake(arguments):
        """Save runs in which the second of a pair is better by 0.1 and a tenth of the seed."""
        seeds = int(arguments[arguments.index("--seeds") + 1])
        for name in [value for flag, value in zip(arguments, arguments[1:])
                     if flag == "--variant"]:  # fmt: skip
            for seed in range(1, seeds + 1):
                better = name.endswith(("_walk", "_taught")) + name.endswith("_taught")
                value = 0.3 + better * (0.1 + seed / 10)
                folder = tmp_path / name / f"seed_{seed}"
                folder.mkdir(parents=True)
                content = {"commit": "abc", "config": {"train": {"seed": seed}},
                           "metrics": {"d": {"none": {"mAP": value, "rank-1": 0.5}}}}  # fmt: skip
                (folder / "metrics.json").write_text(json.dumps(content))
        return 0

    monkeypatch.setattr(module, "load_tool", lambda name: type("Tool", (), {"main": fake}))
    assert module.main(["--out", str(tmp_path), "--seeds", "3"]) == 0
    found = json.loads((tmp_path / "losses_compare.json").read_text())
    assert found["steps"] == 600 and found["versions"]["torch"]
    assert list(found["pairs"]) == list(module.pairs())
    (row,) = (r for n, r in found["pairs"]["dark_rank"]["datasets"]["d"]["none"].items()
              if n == module.STUDENT)  # fmt: skip
    assert row["mAP"]["difference"]["mean"] == pytest.approx(0.3)
    assert found["commit"] == "abc"
    assert "60.00 ± 10.00" in capsys.readouterr().out

    for name in ("strong_walk/seed_3", "softmax_walk/seed_1", "softmax_baseline/seed_2"):
        (tmp_path / name / "metrics.json").unlink()  # not finished yet
    path = tmp_path / "some.json"
    assert module.main(["--out", str(tmp_path), "--collect", "--json", str(path)]) == 0
    some = json.loads(path.read_text())["pairs"]
    assert set(map(tuple, some["strong"]["seeds"].values())) == {(1, 2)}
    assert set(map(tuple, some["softmax"]["seeds"].values())) == {(3,)}


def test_a_failed_run_stops_it(monkeypatch, tmp_path):
    module = load("losses_compare")
    tool = type("Tool", (), {"main": staticmethod(lambda arguments: 1)})
    monkeypatch.setattr(module, "load_tool", lambda name: tool)
    assert module.main(["--out", str(tmp_path)]) == 1
