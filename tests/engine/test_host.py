"""What the mixins take for granted in torchreid's ``Engine`` is there."""

import ast
import inspect
from pathlib import Path

import pytest

from torchreid_spectral import _compat
from torchreid_spectral.engine import ReportingMixin, host
from torchreid_spectral.engine.stock import ImageSoftmaxReportingEngine


def declared() -> tuple[set[str], dict[str, ast.FunctionDef]]:
    """Read the attributes and the methods of the declaration: at run time it is ``object``."""
    tree = ast.parse(Path(host.__file__).read_text())
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    attributes = {
        node.target.id
        for node in found.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return attributes, {n.name: n for n in found.body if isinstance(n, ast.FunctionDef)}


def test_attributes_are_set_by_torchreid():
    source = ast.parse(inspect.getsource(_compat.load().engine.Engine))
    written = {
        node.attr
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    written.add("batch_idx")  # the variable of a loop: for self.batch_idx, data in …
    assert declared()[0] <= written


@pytest.mark.parametrize("name", sorted(declared()[1]))
def test_methods_take_what_is_declared(name: str):
    method, own = getattr(_compat.load().engine.Engine, name), declared()[1][name]
    if own.args.vararg is not None:  # as it is called is the business of its own tests
        assert callable(method)
        return
    theirs = list(inspect.signature(method).parameters)
    ours = [argument.arg for argument in own.args.args]
    assert ours == theirs[: len(ours)]


def test_nothing_stands_between_the_mixins_and_torchreids_engine():
    order = ImageSoftmaxReportingEngine.__mro__
    assert host.TorchreidEngine is object
    assert order.index(ReportingMixin) < order.index(_compat.load().engine.Engine)
