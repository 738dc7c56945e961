"""The documentation is true: code runs, files and names exist, the config reference is fresh."""

import re
from pathlib import Path

import pytest

from ..tools.test_main import load_tool

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
TABLE = re.findall(
    r"^\| `([a-z_/]+\.py)` \| `(\w+)` \| (.+) \|$",
    (REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_runs(page, factory):
    text = page.read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, str(page), "exec"), {})


@pytest.mark.parametrize("page", [*PAGES, README, README.with_name("CHANGELOG.md")],
                         ids=lambda page: page.stem)  # fmt: skip
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links + re.findall(r"^\[[^\]]+\]: (\S+)", text, re.MULTILINE):
        file, _, head = link.partition("#")
        if link.startswith("https:"):
            continue
        other = page.parent / file if file else page
        assert other.exists(), link
        assert not head or head in heads(other), link


def heads(page):
    """What a page's headings are called in links to them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in found}


def test_files_and_formulas():
    assert len(TABLE) > 25
    for file, name, formula in TABLE:
        source = (REPOSITORY / "torchreid_spectral" / file).read_text(encoding="utf-8")
        assert re.search(rf"^(def|class) {name}\b", source, re.MULTILINE), (file, name)
        assert formula.strip()


@pytest.mark.parametrize("room", ["losses", "rerank"])
def test_every_loss_and_reranker_has_its_formula(torchreid, room):
    import torchreid_spectral.losses.registry as losses
    from torchreid_spectral.rerank import RERANKERS

    tables = {
        "losses": losses.ID_LOSSES | losses.METRIC_LOSSES | losses.DISTILLATION_LOSSES,
        "rerank": {name: kind for name, kind in RERANKERS.items() if name != "none"},
    }
    named = {name for file, name, _ in TABLE if file.startswith(room)}
    missing = {kind.__name__ for kind in tables[room].values()} - named - {"ScaledSoftmaxLoss"}
    assert not missing, f"add {sorted(missing)} to the table of docs/README.md"


def test_config_reference_is_fresh():
    tool = load_tool("config_reference")
    assert tool.main(["--check"]) == 0


def test_config_reference_has_every_key_and_note():
    from torchreid_spectral.config import get_default_config
    from torchreid_spectral.config.merging import leaves

    text = (REPOSITORY / "docs" / "config.md").read_text(encoding="utf-8")
    keys = re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)
    assert sorted(keys) == sorted(key for key, _ in leaves(get_default_config()))
    assert "steps inf is the closed form" in text


def test_stale_reference_is_noticed(monkeypatch, tmp_path, capsys):
    tool = load_tool("config_reference")
    monkeypatch.setattr(tool, "PAGE", tmp_path / "config.md")
    assert tool.main([]) == 0 and tool.main(["--check"]) == 0
    changed = tool.PAGE.read_text().replace("| `use_gpu` | `True`", "| `use_gpu` | `0`")
    tool.PAGE.write_text(changed)
    assert tool.main(["--check"]) == 1
    assert "is stale" in capsys.readouterr().err
