"""Main module of the workers that a launched script spawns: register, then what they import.

A spawned worker imports its parent's script anew, and that script may import torchreid at its top.
The launcher names this module as the script's, so that workers come here first; the script's own
path comes in an environment variable, as multiprocessing passes a name and no more.
"""

from __future__ import annotations

import os
import runpy

from torchreid_spectral.registry import register

__all__ = ["SCRIPT_VARIABLE"]

SCRIPT_VARIABLE = "TORCHREID_SPECTRAL_SCRIPT"

if __name__ == "__mp_main__":
    register()
    globals().update(runpy.run_path(os.environ[SCRIPT_VARIABLE], run_name="__mp_main__"))
