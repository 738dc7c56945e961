"""The tables of README.md and docs/results.md are those of the figures in results/."""

import importlib.util
import json
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = """# Results

<!-- table: rerank measured -->
old
<!-- end -->

between

<!-- table: comparison seeds -->
<!-- end -->

<!-- table: training steps -->
<!-- end -->
"""


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    path = REPOSITORY / "tools" / "results_tables.py"
    spec = importlib.util.spec_from_file_location("results_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_up_to_date(tables):
    assert tables.main(["--check"]) == 0


@pytest.fixture
def drawn(tables, tmp_path, monkeypatch):
    """A page of its own with figures of its own."""
    made = {"commit": "abc", "platform": "Linux", "versions": {"torch": "2.0"}, "threads": 2}
    row = {"row": "none", "options": {"k": 5}, "size": [3, 1000, 8], "seconds": 1.234,
           "peak_GB": 0.5, "mAP": 0.12345, "rank-1": 0.5}  # fmt: skip
    figures = {"rows": [row], "summary": {"a / b": 12.345}}
    shared = {"mean": 0.5, "std": 0.01, "difference": None}
    other = {"mean": 0.6, "std": None, "difference": {"mean": -0.1, "std": 0.02}}
    found = {"base": {"mAP": shared, "rank-1": shared}, "other": {"mAP": other, "rank-1": other}}
    seeds = {"seeds": {"base": [1], "other": [1]}, "datasets": {"market1501": {"none": found}}}
    engine = {
        "what": "ours",
        "images_per_second": 12.34,
        "spread": [11.0, 13.0],
        "waiting_for_data": 0.02,
        "peak_megabytes": 1234,
        "profile": {"aten::mm": 0.5},
    }
    steps = {"contestants": {"ours": engine}, "summary": {"ours / theirs": 2.0}}
    (tmp_path / "results").mkdir()
    for name, content in (("measured", figures), ("seeds", seeds), ("steps", steps)):
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(content | made))
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "PAGES", (page,))
    return page


def test_tables_are_written_between_their_comments(tables, drawn, capsys):
    assert tables.main(["--check"]) == 1
    assert "page.md is stale" in capsys.readouterr().err
    assert drawn.read_text() == PAGE
    assert tables.main([]) == 0
    text = drawn.read_text()
    assert "old" not in text and "\nbetween\n" in text
    assert "| `none` k=5 | 3 × 1,000 × 8 | 1.23 | 0.50 | 12.35 | 50.00 |" in text
    assert "| a / b | 12.3 |" in text
    assert "| `base` | 50.0 ± 1.0 | 50.0 ± 1.0 |  |" in text
    assert "| `other` | 60.0 | 60.0 | -10.0 ± 2.0 |" in text
    assert "| ours | 12.3 (11.0 to 13.0) | 2.0% | 1,234 | `aten::mm` 50% |" in text
    assert "| ours / theirs | 2 |" in text
    assert text.count("Commit abc, torch 2.0, Linux, 2 threads") == 3
    assert tables.main(["--check"]) == 0


def test_a_suite_names_the_commits_of_its_own_rows(tables):
    figures = {
        "commit": "a, b, c", "platform": "Linux", "versions": {"torch": "2.0"},
        "suites": {"some": ["one", "two"], "other": ["three"]},
        "rows": {"one/seed_1": {"commit": "b"}, "two/seed_1": {"commit": None},
                 "two/seed_2": {"commit": "b"}, "three/seed_1": {"commit": "c"}},
    }  # fmt: skip
    of_suite = tables.shown("suite", figures, ["some"])
    assert tables.circumstances(figures, of_suite) == "Commit b, not known, torch 2.0, Linux"
    assert not tables.shown("costs", figures, ["other_file"])
    assert {"baseline", "spectral"} < tables.shown("glance", figures, [])
    assert tables.circumstances(figures) == "Commit a, b, c, torch 2.0, Linux"


def test_pairs_of_a_suite(tables):
    """A pair a line, over the seeds that both have."""

    def row(seed, figure):
        return {"seed": seed, "metrics": {"market1501": {"none": {"mAP": figure}}}}

    figures = {
        "suites": {"some": ["baseline", "spectral", "a_baseline", "a_walk", "alone_baseline"]},
        "rows": {"baseline/seed_1": row(1, 0.4), "spectral/seed_1": row(1, 0.5),
                 "a_baseline/seed_1": row(1, 0.3), "a_walk/seed_1": row(1, 0.32),
                 "a_baseline/seed_2": row(2, 0.4), "a_walk/seed_2": row(2, 0.44),
                 "a_walk/seed_3": row(3, 0.9), "alone_baseline/seed_1": row(1, 0.1)},
    }  # fmt: skip
    head, _, *lines = tables.KINDS["gains"](figures, "some")
    assert head == "| | none: without | with | difference ± standard error | seeds |"
    assert lines == ["| `baseline` | 40.00 | 50.00 | +10.00 | 1 |",
                     "| `a` | 35.00 ± 7.07 | 38.00 ± 8.49 | +3.00 ± 1.00 | 2 |"]  # fmt: skip


def test_what_the_walk_adds_at_a_glance(tables):
    """A pair a line that both trainings of which are measured, each view's gain paired by seed."""

    def row(seed, plain, blurred):
        views = {"none": {"mAP": plain}, "local_blurring": {"mAP": blurred}}
        return {"seed": seed, "metrics": {"market1501": views}}

    figures = {
        "rows": {"baseline/seed_1": row(1, 0.4, 0.5), "spectral/seed_1": row(1, 0.5, 0.7),
                 "baseline/seed_2": row(2, 0.5, 0.6), "spectral/seed_2": row(2, 0.58, 0.76),
                 "spectral/seed_3": row(3, 0.9, 0.9), "softmax_baseline/seed_1": row(1, 0.1, 0.1)},
    }  # fmt: skip
    head, _, *lines = tables.KINDS["glance"](figures)
    assert head == ("| mAP of | without | with | none: walk adds | local_blurring: walk adds "
                    "| seeds |")  # fmt: skip
    assert lines == ["| AM-softmax, 8 images (the configs) | 45.0 ± 7.1 | 54.0 ± 5.7 | +9.0 ± 1.0 "
                     "| +18.0 ± 2.0 | 2 |"]  # fmt: skip


def test_whitening(tables):
    def row(covariance, eps, figure):
        return {"covariance": covariance, "eps": eps,
                "none": {"mAP": figure, "rank-1": figure + 0.1}}  # fmt: skip

    figures = {"rows": {"net": {"figures": [row(None, None, 0.5), row("within", 1.0, 0.512)]}}}
    assert tables.KINDS["whitening"](figures) == [
        "| network | whitening | none |", "|---|---|---|",
        "| `net` | `none` | 50.00 / 60.00 |", "| | `within`, eps 1 | +1.20 / +1.20 |",
    ]  # fmt: skip


def test_what_stands_in_the_glance_is_what_the_benchmark_trains(tables, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import market1501

    trained = {name for suite in market1501.SUITES.values() for name in suite}
    assert {name for pair in tables.tables_training.BESIDE.values() for name in pair} <= trained
