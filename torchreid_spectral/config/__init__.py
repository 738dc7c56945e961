"""Configs: strict defaults, and the way from a config to objects."""

from torchreid_spectral.config.defaults import get_default_config
from torchreid_spectral.config.merging import merge_file, merge_options

__all__ = ["get_default_config", "merge_file", "merge_options"]
