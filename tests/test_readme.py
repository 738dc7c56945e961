"""The README's code runs, and its commands are the ones that CI and newcomers use."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .tools.test_main import load_tool

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
OPTIONS = (REPOSITORY / "docs" / "options.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_code_runs(torchreid, code):
    exec(compile(code, "README.md", "exec"), {})


def test_two_commands():
    commands = re.findall(r"<!-- (run|test) command -->\n```bash\n(.*?)\n```", README)
    assert [kind for kind, _ in commands] == ["run", "test"]
    assert "configs/spectral_demo.yaml" in commands[0][1]
    assert (REPOSITORY / ".ci" / "run").read_text().count("<!-- test command -->") == 1


KEYS = re.findall(r"^\| `((?:spectral|loss|train|sampler)\.[a-z_.]+)`", OPTIONS, re.MULTILINE)


@pytest.mark.parametrize("key", KEYS)
def test_config_keys_exist(key):
    from torchreid_spectral.config import get_default_config
    from torchreid_spectral.config.merging import leaves

    assert key in dict(leaves(get_default_config()))


SHOWN = re.search(r"<!-- demo output -->.*?```text\n(.*?)```", README, re.DOTALL)[1]


def table_of(text):
    """Names and figures of the rows of the table that tools/main.py ends with."""
    rows = re.findall(r"^(synthetic\w+) +(\w+) +([\d. ]+)$", text, re.MULTILINE)
    return {row[:2]: [float(figure) for figure in row[2].split()] for row in rows}


def test_demo_ends_as_shown(torchreid, tiny_options, tmp_path, capsys):
    given = ["--config-file", "configs/spectral_demo.yaml", *tiny_options,
             "rerank.local_blurring.k", "5",
             "report.ranked_lists", "0", "data.save_dir", str(tmp_path)]  # fmt: skip
    assert load_tool("main").main(given) == 0
    found = capsys.readouterr().out
    assert SHOWN.splitlines()[0] in found.splitlines()
    assert list(table_of(found)) == list(table_of(SHOWN))
    assert [len(figures) for figures in table_of(found).values()] == [4, 4]


@pytest.mark.slow
def test_demo_gives_the_figures_shown(tmp_path):
    command = re.search(r"python (tools/main.py .*)", README)[1].split()
    options = ["data.save_dir", str(tmp_path / "log"), "data.root", str(tmp_path / "data")]
    run = subprocess.run([sys.executable, *command, *options], cwd=REPOSITORY, text=True,
                         env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "2"},
                         stdout=subprocess.PIPE, check=True)  # fmt: skip
    found = table_of(run.stdout)
    for row, figures in table_of(SHOWN).items():
        assert found[row] == pytest.approx(figures, abs=4), row
    assert (tmp_path / "log" / "report.html").is_file()


def test_map_names_what_is_there():
    rooms = {path.name for path in (REPOSITORY / "torchreid_spectral").iterdir() if path.is_dir()}
    rooms.discard("__pycache__")
    assert rooms == set(re.findall(r"^\| `([a-z]+)/`", README, re.MULTILINE))


def test_every_reranker_has_a_row():
    from torchreid_spectral import list_rerankers

    for name in list_rerankers():
        assert re.search(rf"^\| `{name}` \|", README, re.MULTILINE)
