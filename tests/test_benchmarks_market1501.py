"""Tests of benchmarks/market1501.py and of the tables that are written from its figures."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from torchreid_spectral.config import get_default_config, merge_file, merge_options
from torchreid_spectral.config.check import check_config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load(ROOT / "benchmarks" / "market1501.py")


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_of(module, name, suite, size="small"):
    file, options = module.SUITES[suite][name]
    cfg = get_default_config()
    merge_file(cfg, ROOT / "configs" / f"{file}.yaml")
    merge_options(cfg, [*options, *module.schedule(size, options), *module.SIZES[size],
                        *module.SHARED])  # fmt: skip
    check_config(cfg)
    return cfg


def test_a_suite_changes_one_thing_at_a_time(torchreid, module):
    walk = config_of(module, "spectral", "ablation")
    for suite, variants in module.SUITES.items():
        for name in variants:
            cfg = config_of(module, name, suite)
            if suite in ("ablation", "temperature", "steps", "graph"):
                leaves = {key for key in cfg.spectral if cfg.spectral[key] != walk.spectral[key]}
                assert len(leaves) <= 1, name
                cfg.spectral, cfg.data.save_dir = walk.spectral, walk.data.save_dir
                assert cfg == walk, name


def test_baseline_and_control_have_no_walk(torchreid, module):
    found = [config_of(module, name, "ablation").spectral.supervision
             for name in module.SUITES["ablation"]]  # fmt: skip
    assert found == ["plain", "both", "plain_twice", "walked"]


def test_trainings_are_equally_long(torchreid, module):
    for size, epochs in module.EPOCHS.items():
        for suite, variants in module.SUITES.items():
            for name in variants:
                cfg = config_of(module, name, suite, size)
                identities = cfg.train.batch_size // cfg.sampler.num_instances
                steps = cfg.train.max_epoch * (751 // identities)
                assert steps == pytest.approx(epochs * module.STEPS_AN_EPOCH, rel=0.02), name
                assert cfg.train.batch_size == 128


@pytest.fixture
def trained(torchreid, tiny_options, tmp_path):
    """One tiny run where the benchmark looks for it."""
    folder = tmp_path / "out" / "small" / "spectral" / "seed_1"
    main = load(ROOT / "tools" / "main.py").main
    options = [*tiny_options, "data.save_dir", str(folder), "train.graph_every", "1",
               "train.max_epoch", "2", "loss.name", "spectral",
               "test.dist_metric", "cosine"]  # fmt: skip
    assert main(["model.name", "spectral_osnet_x0_25", *options]) == 0
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_finished_run_becomes_a_row(trained, module, data_root, tmp_path, monkeypatch, capsys):
    rows = load(ROOT / "benchmarks" / "market1501_rows.py")
    monkeypatch.setattr(module, "measure", rows.measure)
    monkeypatch.setattr(rows, "market", lambda root: rows.own(root))
    folder = str(data_root / "synthetic_pedestrians")
    out = tmp_path / "figures.json"
    earlier = {"seed": 2, "commit": "abc", "threads": 1}
    out.write_text(json.dumps({"rows": {"walk_alone/seed_2": earlier}}))
    command = ["ablation", "--weights", "none", "--root", folder, "--out", str(tmp_path / "out"),
               "--json", str(out), "--collect", "--transfer", "again", folder]  # fmt: skip
    assert module.main(command) == 0
    found = json.loads(out.read_text())
    assert list(found["rows"]) == ["spectral/seed_1", "walk_alone/seed_2"]  # none is lost
    row = found["rows"]["spectral/seed_1"]
    saved = json.loads((trained / "metrics.json").read_text())
    tested = saved["metrics"]["synthetic_pedestrians"]["none"]
    for figure in ("mAP", "rank-1"):  # by its own way, what the engine's test gave
        assert row["metrics"]["market1501"]["none"][figure] == pytest.approx(tested[figure])
    assert row["metrics"]["again"] == row["metrics"]["market1501"]
    assert set(row["metrics"]["market1501"]) == set(rows.METHODS)
    assert len(row["curves"]["escape"]) == len(row["curves"]["ncut"]) == 2
    assert row["commit"] == saved["commit"] and row["seconds_a_step"] > 0
    assert "is tested" in capsys.readouterr().out
    del found["rows"]["walk_alone/seed_2"]
    out.write_text(json.dumps(found))
    pictures = [tmp_path / "curves.png", tmp_path / "map.png"]
    asked = ["--plot", str(pictures[0]), "--plot-map", str(pictures[1])]
    assert module.main([*command, *asked]) == 0
    assert all(picture.stat().st_size > 10_000 for picture in pictures)
    assert "is tested" not in capsys.readouterr().out  # it is there already
    monkeypatch.setattr(rows, "market", None)  # what was tested is not tested again
    monkeypatch.setattr(rows, "market", lambda root: rows.own(root))
    assert module.main([*command, "--flip"]) == 0
    row = json.loads(out.read_text())["rows"]["spectral/seed_1"]
    monkeypatch.setattr(rows, "market", None)
    mirrored, plain = (row["metrics"][name]["none"]["mAP"] for name in
                       ("market1501_flip", "market1501"))  # fmt: skip
    assert 0 < mirrored != plain
    monkeypatch.setattr(rows, "market", lambda root: rows.own(root))
    assert module.main([*command, "--flip", "--cameras"]) == 0
    row = json.loads(out.read_text())["rows"]["spectral/seed_1"]
    monkeypatch.setattr(rows, "market", None)
    assert 0 < row["metrics"]["market1501_cameras"]["none"]["mAP"] != plain
    assert module.main([*command[:-2], "other", folder]) == 0
    row = json.loads(out.read_text())["rows"]["spectral/seed_1"]
    for figures in ("metrics", "seconds_of_test"):  # and nothing is lost
        assert set(row[figures]) == {"market1501", "market1501_flip", "market1501_cameras",
                                     "again", "other"}  # fmt: skip


def test_curves_have_a_value_an_epoch():
    """The last running mean of an epoch for the escape, what is there for Ncut."""
    from torchreid_spectral.report.history import Curve

    rows = load(ROOT / "benchmarks" / "market1501_rows.py")
    steps = np.arange(12)  # 3 epochs of 4 steps
    history = {"Train/loss": Curve(steps, steps * 1.0), "Train/escape": Curve(steps, steps / 100),
               "Graph/ncut": Curve(steps[::4], np.array([5.0, 4.0, 3.0]))}  # fmt: skip
    found = rows.curves(history, epochs=3)
    assert found == {"escape": [0.03, 0.07, 0.11], "ncut": [5.0, 4.0, 3.0]}
    assert rows.curves({name: history[name] for name in ("Train/loss",)}, epochs=3) == {}


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    module = load(ROOT / "tools" / "results_tables.py")
    return SimpleNamespace(**module.KINDS)


def test_tables_are_paired_by_seed(tables):
    def row(seed, value):
        found = {view: {"mAP": value, "mAP_trapezoidal": value - 0.01, "rank-1": value + 0.1}
                 for view in ("none", "graph_walk")}  # fmt: skip
        return {"seed": seed, "metrics": {"market1501": found},
                "curves": {"escape": [0.6, 0.4, 0.2], "ncut": [3, 2, 1]}}  # fmt: skip

    rows = {"baseline/seed_1": row(1, 0.5), "baseline/seed_2": row(2, 0.6),
            "baseline/seed_3": row(3, 0.1), "spectral/seed_1": row(1, 0.52),
            "spectral/seed_2": row(2, 0.64)}  # fmt: skip
    figures = {"rows": rows, "suites": {"ablation": ["baseline", "spectral", "walk_alone"]}}
    text = tables.suite(figures, "ablation")
    assert text[-1] == ("| `spectral` | +3.00 ± 1.00 | 57.00 ± 8.49 | 58.00 ± 8.49 | 68.00 ± 8.49 "
                        "| 58.00 ± 8.49 | 68.00 ± 8.49 | 2 |")  # fmt: skip
    assert len(text) == 4
    assert tables.brief(figures, "ablation")[2:] == [
        "| `baseline` | 40.0 ± 26.5 / 50.0 ± 26.5 | 40.0 ± 26.5 / 50.0 ± 26.5 | 3 |",
        "| `spectral` | 58.0 ± 8.5 / 68.0 ± 8.5 | 58.0 ± 8.5 / 68.0 ± 8.5 | 2 |",
    ]
    assert tables.walkers(figures, "ablation")[-1].endswith(
        "| 0.600 | 0.400 | 0.200 | 3.000 | 2.000 | 1.000 |"
    )


@pytest.fixture
def defaults(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load(ROOT / "benchmarks" / "rerank_defaults.py")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_defaults_are_measured_on_networks_and_on_features(
    defaults, trained, data_root, tmp_path, monkeypatch
):
    from market1501_rows import own  # beside the benchmark

    grid = {"none": [{}], "local_blurring": [{}, {"k": 5}]}
    monkeypatch.setattr(defaults, "GRID", grid)
    monkeypatch.setattr(defaults, "market", own)
    folder, out = str(data_root / "synthetic_pedestrians"), tmp_path / "figures.json"
    command = ["--root", folder, "--json", str(out)]
    assert defaults.main([str(trained), *command]) == 0
    network = json.loads(out.read_text())["rows"]["spectral_osnet_x0_25"]
    tested = json.loads((trained / "metrics.json").read_text())["metrics"]["synthetic_pedestrians"]
    assert network["figures"][0]["mAP"] == pytest.approx(tested["none"]["mAP"])
    assert network["trained"] == {"epochs": 2, "seed": 1, "weights": "random"}

    assert defaults.main([f"again={trained}", *command, "--own", "drawn", folder]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert rows.pop("again on drawn") == rows["spectral_osnet_x0_25"] == network
    out.write_text(json.dumps({"rows": rows}))

    generator = np.random.default_rng(0)
    data = {f"{part}{kind}": generator.integers(0, 4, 30) for part in ("q_", "g_")
            for kind in ("pids", "camids")}  # fmt: skip
    data |= {f"{part}f": generator.normal(size=(30, 8)) for part in "qg"}
    np.savez(tmp_path / "noise.npz", **data)
    assert defaults.main([str(tmp_path / "noise.npz"), *command]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["spectral_osnet_x0_25", "noise"]  # one beside the other
    assert [(row["method"], row["options"]) for row in rows["noise"]["figures"]] == [
        ("none", {}), ("local_blurring", {}), ("local_blurring", {"k": 5})]  # fmt: skip


def test_defaults_are_tabled_beside_what_a_change_adds(tables):
    rows = {}
    for name, shift in (("one", 0.0), ("two", 0.1)):
        figures = [{"method": "none", "options": {}, "mAP": 0.5 + shift, "rank-1": 0.7},
                   {"method": "local_blurring", "options": {}, "mAP": 0.6, "rank-1": 0.8},
                   {"method": "local_blurring", "options": {"k": 5}, "mAP": 0.59 + shift,
                    "rank-1": 0.8}]  # fmt: skip
        rows[name] = {"figures": figures}
    assert tables.defaults({"rows": rows}) == [
        "| | `one` | `two` |",
        "|---|---|---|",
        "| `none` | 50.00 / 70.00 | 60.00 / 70.00 |",
        "| `local_blurring` | 60.00 / 80.00 | 60.00 / 80.00 |",
        "| `k=5` | -1.00 | +9.00 |",
    ]


def test_only_some_of_a_suite(module, capsys):
    given = ["ablation", "parts", "--weights", "w.pth", "--only", "spectral", "parts_walk"]
    assert [*module.chosen(module.parse(given))] == ["spectral", "parts_walk"]
    with pytest.raises(SystemExit):
        module.parse([*given, "parts_wlak"])
    assert "parts_wlak is in none of these suites; they have baseline," in capsys.readouterr().err


def test_the_first_layers_rest_in_full_size(module):
    options = module.schedule("full", [])
    assert options[options.index("train.fixbase_epoch") + 1] == "51"
    assert options[options.index("train.max_epoch") + 1] == "64"
    options = module.schedule("small", [])
    assert options[options.index("train.fixbase_epoch") + 1] == "0"


@pytest.fixture
def cost(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load(ROOT / "benchmarks" / "market1501_cost.py")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_costs_of_trainings(torchreid, cost, tables, tmp_path, capsys):
    out = tmp_path / "cost.json"
    assert (
        cost.main(
            [
                "steps",
                "--repeats",
                "2",
                "--warm-up",
                "0",
                "--json",
                str(out),
                "--set",
                "train.batch_size",
                "16",
                "data.height",
                "64",
                "data.width",
                "32",
            ]
        )
        == 0
    )
    found = json.loads(out.read_text())
    assert list(found["rows"]) == ["baseline", "spectral", "classified_twice", "walk_alone",
                                   "steps_2", "steps_3"]  # fmt: skip
    assert found["images"] == 16
    for part in ("step", "test"):
        assert found["rows"]["baseline"][part]["relative"] == 1
        assert all(row[part]["seconds"] > 0 for row in found["rows"].values())
    lines = tables.cost(found)
    assert lines[2].startswith("| `baseline` | ") and lines[2].count("| 1.00 |") == 2
    assert "steps_3" in capsys.readouterr().out


def test_costs_are_of_all_suites_unless_some_are_named(module, cost, capsys):
    assert cost.whole.chosen(cost.parse([])).keys() == {
        name for suite in module.SUITES.values() for name in suite}  # fmt: skip
    with pytest.raises(SystemExit):
        cost.parse(["stpes"])
    assert "there is no suite stpes: ablation," in capsys.readouterr().err


def test_a_batch_has_the_groups_of_its_training(torchreid, cost):
    args = cost.parse(["batches"])
    for name, group in (("baseline", 8), ("images_4_walk", 4), ("images_16_walk", 16)):
        pids = cost.batch(cost.configured(args, name))["pid"]
        assert pids.unique(return_counts=True)[1].tolist() == [group] * (128 // group)
