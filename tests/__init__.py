"""Tests; the tree mirrors torchreid_spectral/."""

from beartype import BeartypeConf, beartype

# The run-time type checker (pyproject.toml): shapes and types of every annotated call. An int is
# welcome where a float is asked for, as everywhere in Python.
typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))
