"""Tests; the tree mirrors torchreid_spectral/."""

import sys
from random import Random, getrandbits

from beartype import BeartypeConf, beartype

# The run-time type checker (pyproject.toml): shapes and types of every annotated call. An int is
# welcome where a float is asked for, as everywhere in Python.
typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))

# Its checks pick random items with Python's global generator, whose draws the tests compare.
for _name, _module in list(sys.modules.items()):
    if _name.startswith("beartype.") and getattr(_module, "getrandbits", None) is getrandbits:
        _module.getrandbits = Random(0).getrandbits
