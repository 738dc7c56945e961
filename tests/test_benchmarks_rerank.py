"""Tests of benchmarks/rerank.py."""

import pytest

from tests.test_benchmarks_market1501 import ROOT, load


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load(ROOT / "benchmarks" / "rerank.py")


def test_rows_of_a_suite(module, tmp_path):
    args = module.parse(["growth", "--only", "none", "graph_walk"])
    rows = module.tasks(args, tmp_path)
    assert [row["row"] for row in rows] == ["none"] * 5 + ["graph_walk"] * 5


def test_a_row_that_the_suite_does_not_have(module, capsys):
    with pytest.raises(SystemExit):
        module.parse(["sensitivity", "--only", "k=10"])
    assert "--only k=10 is no row of sensitivity, which has graph_walk" in capsys.readouterr().err
