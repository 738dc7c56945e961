"""Tests of the package as a whole: what importing does, and which room imports what."""

import ast
from pathlib import Path

import pytest

import torchreid_spectral as ts

PACKAGE = Path(ts.__file__).parent
PURE_ROOMS = ["functional", "layers", "losses", "rerank", "evaluation"]
ORDER = ["functional", "search", "layers", "losses", "rerank", "evaluation", "models", "data",
         "inference", "report", "engine", "config"]  # fmt: skip
# A saved config says what weights are of: read where a file is opened, by a function.
BACKWARDS = {("inference", "config")}


def imported_names(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_import_is_light_and_changes_nothing(python):
    code = (
        "import sys, time; started = time.perf_counter(); import torchreid_spectral; "
        "print(time.perf_counter() - started, 'torch' in sys.modules, "
        "'torchreid' in sys.modules, 'torchvision' in sys.modules)"
    )
    seconds, *loaded = python("-c", code).stdout.split()
    assert loaded == ["False", "False", "False"]
    assert float(seconds) < 0.3


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_pure_rooms_do_not_know_torchreid(room):
    for path in (PACKAGE / room).glob("*.py"):
        for name in imported_names(path):
            assert name.split(".")[0] != "torchreid", path
            assert not name.endswith("_compat"), path


def test_pure_rooms_work_without_torchreid(python, tmp_path):
    (tmp_path / "torchreid.py").write_text("raise ImportError('blocked by the test')")
    code = "import sys; sys.path.insert(0, sys.argv[1])\n" + "\n".join(
        f"import torchreid_spectral.{room}" for room in PURE_ROOMS
    )
    python("-c", code + "\nassert 'torchreid' not in sys.modules", tmp_path)


def test_only_compat_names_torchreid():
    for path in PACKAGE.rglob("*.py"):
        for name in imported_names(path):
            assert name.split(".")[0] != "torchreid", path


@pytest.mark.parametrize("room", ORDER)
def test_imports_go_one_way(room):
    later = {other for other in ORDER[ORDER.index(room) + 1 :] if (room, other) not in BACKWARDS}
    for path in (PACKAGE / room).glob("*.py"):
        for name in imported_names(path):
            parts = name.split(".")
            assert parts[0] != "torchreid_spectral" or not later & {*parts[1:2]}, (path, name)


def test_no_room_is_imported_backwards_at_the_start():
    for room, other in BACKWARDS:
        for path in (PACKAGE / room).glob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
                assert not module.startswith(f"torchreid_spectral.{other}"), path


def public_names(path):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            computed = any(isinstance(each, ast.Starred) for each in ast.walk(node.value))
            return None if computed else set(ast.literal_eval(node.value))
    return None


def test_what_others_import_is_listed_as_public():
    """``__all__`` tells a reader what a module is for."""
    places = {path: path.relative_to(PACKAGE.parent).with_suffix("") for path in
              PACKAGE.rglob("*.py")}  # fmt: skip
    modules = {".".join(place.parts).removesuffix(".__init__"): public_names(path)
               for path, place in places.items()}  # fmt: skip
    for path in places:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            listed = modules.get(node.module) if isinstance(node, ast.ImportFrom) else None
            for name in [alias.name for alias in node.names] if listed else []:
                known = name in listed or f"{node.module}.{name}" in modules
                assert known, f"{path} imports {name}, which {node.module} does not list"


def test_no_second_softmax_or_top_k_outside_functional():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "functional":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                written_again = {"softmax", "log_softmax", "topk", "cdist"}
                assert node.func.attr not in written_again, (path, node.lineno)


def test_public_names():
    assert set(dir(ts)) >= {"register", "build_model", "list_models", "build_reranker"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ts.nothing
