"""The README's code runs, and its commands are the ones that CI and newcomers use."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_code_runs(torchreid, code):
    exec(compile(code, "README.md", "exec"), {})


def test_two_commands():
    commands = re.findall(r"<!-- (run|test) command -->\n```bash\n(.*?)\n```", README)
    assert [kind for kind, _ in commands] == ["run", "test"]
    assert "configs/spectral_demo.yaml" in commands[0][1]
    assert (REPOSITORY / ".ci" / "run").read_text().count("<!-- test command -->") == 1


KEYS = re.findall(r"^\| `((?:spectral|loss|train|sampler)\.[a-z_.]+)`", README, re.MULTILINE)


@pytest.mark.parametrize("key", KEYS)
def test_config_keys_exist(key):
    from torchreid_spectral.config import get_default_config
    from torchreid_spectral.config.defaults import _leaves

    assert key in dict(_leaves(get_default_config()))


def test_map_names_what_is_there():
    rooms = {path.name for path in (REPOSITORY / "torchreid_spectral").iterdir() if path.is_dir()}
    rooms.discard("__pycache__")
    assert rooms == set(re.findall(r"^\| `([a-z]+)/`", README, re.MULTILINE))


def test_every_reranker_has_a_row():
    from torchreid_spectral import list_rerankers

    for name in list_rerankers():
        assert re.search(rf"^\| `{name}` \|", README, re.MULTILINE)
