"""Re-ranking of exported features with NumPy and SciPy alone: neither torch nor torchreid.

The same results as ``rerank/``, for places where only features and their ranking are needed; tests
compare the two. As there is no torch here, a walk is computed once more, as on the sparse graphs
of ``rerank/``.
"""

from torchreid_spectral.portable.features import load_features
from torchreid_spectral.portable.graph_walk import graph_walk
from torchreid_spectral.portable.local_blurring import local_blurring

__all__ = ["graph_walk", "load_features", "local_blurring"]
