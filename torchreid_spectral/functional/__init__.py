"""Pure tensor functions, features → similarity → transition → walk: no config, no torchreid."""

from torchreid_spectral.functional.cut import affinity_matrix, escape_probability, normalized_cut
from torchreid_spectral.functional.distance import (
    cosine_distance,
    euclidean_distance,
    squared_euclidean_distance,
)
from torchreid_spectral.functional.ranking import rank_top_k, top_k
from torchreid_spectral.functional.similarity import (
    cosine_similarity,
    dot_product,
    scaled_dot_product,
    unit_rows,
)
from torchreid_spectral.functional.transition import softmax_transition, transition_matrix
from torchreid_spectral.functional.walk import random_walk, random_walk_limit
from torchreid_spectral.functional.whitening import WHITENINGS, whiten, whitening_matrix

__all__ = [
    "WHITENINGS",
    "affinity_matrix",
    "cosine_distance",
    "cosine_similarity",
    "dot_product",
    "escape_probability",
    "euclidean_distance",
    "normalized_cut",
    "random_walk",
    "random_walk_limit",
    "rank_top_k",
    "scaled_dot_product",
    "softmax_transition",
    "squared_euclidean_distance",
    "top_k",
    "transition_matrix",
    "unit_rows",
    "whiten",
    "whitening_matrix",
]
