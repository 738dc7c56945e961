"""Tests of torchreid_spectral.report.comparison and history."""

import json
import math
import re
import statistics

import numpy as np
import pytest

from torchreid_spectral.errors import InputError
from torchreid_spectral.report.comparison import (
    Run,
    Spread,
    comparison_table,
    load_run,
    paired_difference,
    summarise,
)
from torchreid_spectral.report.comparison_page import write_comparison
from torchreid_spectral.report.history import read_history, seconds_a_step


def run(seed, mAP, rank1, view="none", seconds=0.5):
    figures = {"mAP": mAP, "rank-1": rank1, "queries": 5, "valid_queries": 5}
    return Run(seed, {"demo": {view: figures}}, seconds)


def test_spread_is_that_of_the_statistics_module():
    values = [0.2, 0.5, 0.9]
    spread = Spread.of(values)
    assert spread.mean == pytest.approx(statistics.mean(values))
    assert spread.std == pytest.approx(statistics.stdev(values))
    # the 97.5 % point of Student's t with two degrees of freedom, from a printed table
    assert spread.half_width == pytest.approx(4.303 * spread.std / math.sqrt(3), rel=1e-3)
    alone = Spread.of([0.3])
    assert alone.mean == 0.3 and math.isnan(alone.std) and math.isnan(alone.half_width)


def test_differences_are_paired_by_seed():
    difference = paired_difference({1: 0.5, 2: 0.7, 9: 0.0}, {2: 0.71, 1: 0.52, 7: 1.0})
    assert difference.values == pytest.approx((0.02, 0.01))
    assert difference.std < 0.01  # while the runs differ by 0.2
    with pytest.raises(InputError, match=r"share no seed: \[1\] and \[2\]"):
        paired_difference({1: 0.0}, {2: 0.0})


def test_summary_and_table():
    runs = {
        "base": [run(1, 0.5, 0.6), run(2, 0.7, 0.8)],
        "new": [run(1, 0.52, 0.59), run(2, 0.73, 0.83)],
        "walked": [run(1, 0.1, 0.2, view="local_blurring", seconds=None)],
    }
    summary = summarise(runs)
    assert json.loads(json.dumps(summary)) == summary
    rows = summary["datasets"]["demo"]["none"]
    assert list(rows) == ["base", "new"]
    assert rows["base"]["mAP"]["difference"] is None
    assert rows["new"]["mAP"]["by_seed"] == {"1": 0.52, "2": 0.73}
    assert rows["new"]["mAP"]["difference"]["mean"] == pytest.approx(0.025)
    assert rows["new"]["rank-1"]["difference"]["mean"] == pytest.approx(0.01)
    assert "queries" not in rows["new"]
    assert summary["seconds_a_step"] == {"base": 0.5, "new": 0.5, "walked": None}
    text = comparison_table(summary)
    assert "demo, without post-processing" in text and "demo, with local_blurring" in text
    line = next(line for line in text.splitlines() if line.startswith("new"))
    cells = ["62.50 ± 14.85", "71.00 ± 16.97", "+2.50 ± 0.71", "+1.00 ± 2.83", "0.500", "2"]
    assert [cell in line for cell in cells] == [True] * len(cells)
    assert "±" not in next(line for line in text.splitlines() if line.startswith("walked"))


def test_page_of_configs_with_odd_names(tmp_path):
    odd = 'walk "x" & <y>'
    summary = summarise({"base": [run(1, 0.5, 0.6)], odd: [run(1, 0.7, 0.8)]})
    (tmp_path / "report").mkdir()
    svg = '<?xml?><svg id="a"><path id="p"/><use xlink:href="#p"/></svg>'
    (tmp_path / "report" / "embedding.svg").write_text(svg)
    folders = {"base": [tmp_path], odd: [tmp_path]}
    page = write_comparison(summary, folders, tmp_path / "out").read_text()
    assert odd not in page and "walk &quot;x&quot; &amp; &lt;y&gt;" in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[\w.-]+", name) for name in ids)
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)


def test_history_of_a_folder_that_is_used_again(tmp_path):
    """A new training has none of the old one's curve; a resumed one none that was lost."""
    from torch.utils.tensorboard import SummaryWriter

    runs = [(range(9), 9.0), (range(6), 1.0), (range(3, 4), 2.0)]
    for attempt, (steps, value) in enumerate(runs):
        with SummaryWriter(str(tmp_path), filename_suffix=str(attempt)) as writer:
            for step in steps:
                writer.add_scalar("Train/loss", value, step)
                if attempt == 0:
                    writer.add_scalar("Graph/ncut", value, step)
        if attempt == 1:
            assert read_history(tmp_path)["Train/loss"].values.tolist() == [1.0] * 6
    history = read_history(tmp_path)
    assert history["Train/loss"].values.tolist() == [1.0, 1.0, 1.0, 2.0]
    assert "Graph/ncut" not in history


def test_history_takes_the_latest_value_of_a_step(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    for attempt, steps in enumerate([range(4), range(2, 6)]):
        with SummaryWriter(str(tmp_path), filename_suffix=str(attempt)) as writer:
            for step in steps:
                writer.add_scalar("Train/loss", 10 * attempt + step, step, walltime=attempt + 1)
                writer.add_scalar("Train/time", 9.0 if step == 0 else 0.25, step)
    history = read_history(tmp_path)
    np.testing.assert_array_equal(history["Train/loss"].steps, np.arange(6))
    np.testing.assert_array_equal(history["Train/loss"].values, [0, 1, 12, 13, 14, 15])
    assert seconds_a_step(history) == pytest.approx(0.25)
    assert read_history(tmp_path / "none") == {} and seconds_a_step({}) is None


def test_rejects_a_folder_without_result(tmp_path):
    with pytest.raises(InputError, match=r"metrics.json holds no result of tools/main.py"):
        load_run(tmp_path)


def test_the_summary_says_what_the_runs_were_made_by(tmp_path):
    content = {"config": {"train": {"seed": 1}}, "metrics": {}, "gpu": None}
    runs = []
    for commit, threads in (("abc", 1), ("abc", 2), ("def", None)):
        made = content | {"commit": commit} | ({"threads": threads} if threads else {})
        (tmp_path / "metrics.json").write_text(json.dumps(made))
        runs.append(load_run(tmp_path))
    summary = summarise({"base": runs[:2], "new": runs[2:]})
    assert (summary["commit"], summary["threads"]) == ("abc, def", "1, 2")
    assert "gpu" not in summary  # nothing ran on one
    assert "threads" not in summarise({"base": [run(1, 0.5, 0.6)]})  # of an earlier version


def test_runs_that_have_no_pair_are_told(tmp_path):
    runs = {"base": [run(1, 0.5, 0.6), run(2, 0.9, 0.8)],
            "new": [run(2, 0.91, 0.81), run(3, 0.99, 0.9)]}  # fmt: skip
    summary = summarise(runs)
    difference = summary["datasets"]["demo"]["none"]["new"]["mAP"]["difference"]
    assert difference["seeds"] == [2] and difference["mean"] == pytest.approx(0.01)
    text = comparison_table(summary)
    assert next(line for line in text.splitlines() if line.startswith("new")).endswith(
        "2 (1 paired)"
    )
    assert next(line for line in text.splitlines() if line.startswith("base")).endswith(" 2")
    page = write_comparison(summary, {name: [tmp_path] for name in runs}, tmp_path / "out")
    assert "2 (1 paired)" in page.read_text()
