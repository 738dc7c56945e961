"""One row for each loss by name: how its twin is called with the same batch."""

from tests.references import losses as twin
from tests.references.similarity import cosine

ID_CASES = {
    "softmax": (
        {"scale": 4.0, "label_smoothing": 0.1},
        lambda x, w, y: twin.cross_entropy(4.0 * cosine(x, w), y, 0.1),
    ),
    "am_softmax": (
        {"margin": 0.3, "scale": 15.0},
        lambda x, w, y: twin.am_softmax(cosine(x, w), y, 0.3, 15.0),
    ),
    "arcface": (
        {"margin": 0.5, "scale": 10.0},
        lambda x, w, y: twin.arcface(cosine(x, w), y, 0.5, 10.0),
    ),
    "a_softmax": (
        {"margin": 4, "minimum": 5.0, "base": 0.0},
        lambda x, w, y: twin.multiplicative(x, w, y, 4, 5.0, weight_norms=False),
    ),
    "l_softmax": (
        {"margin": 3, "minimum": 0.5, "base": 0.0},
        lambda x, w, y: twin.multiplicative(x, w, y, 3, 0.5, weight_norms=True),
    ),
    "circle": (
        {"margin": 0.25, "scale": 8.0},
        lambda x, w, y: twin.circle(
            cosine(x, w), [[j == t for j in range(len(w))] for t in y], 0.25, 8.0
        ),
    ),
}


def pairs(y):
    """Say of each pair whether it is positive; nothing of an image with itself."""
    n = range(len(y))
    return [[None if i == j else y[i] == y[j] for j in n] for i in n]


def unit(x):
    return x / (x * x).sum(1, keepdims=True) ** 0.5


METRIC_CASES = {
    "contrastive": (
        {"margin": 1.2},
        lambda x, w, y: twin.contrastive(unit(x), y, 1.2),
    ),
    "triplet": (
        {"margin": 0.3},
        lambda x, w, y: twin.triplet(x, y, 0.3, soft=False),
    ),
    "quadruplet": (
        {},
        lambda x, w, y: twin.quadruplet(unit(x), y, 1.0, 0.5, adaptive=True),
    ),
    "nca": (
        {"scale": 5.0},
        lambda x, w, y: twin.nca(x, y, 5.0),
    ),
    "circle_pairs": (
        {"margin": 0.25, "scale": 8.0},
        lambda x, w, y: twin.circle(cosine(x, x), pairs(y), 0.25, 8.0),
    ),
    "normalized_cut": (
        {"temperature": 0.3, "scale": 5.0},
        lambda x, w, y: twin.normalized_cut(x, cosine(x, w), y, 0.3, 5.0),
    ),
    "escape": (
        {"temperature": 0.3},
        lambda x, w, y: twin.escape(x, y, 0.3),
    ),
}

DISTILLATION_CASES = {
    "dark_rank": [
        ({"kind": "soft", "scale": 0.8, "power": 3.0, "list_length": 3}),
        ({"kind": "hard", "scale": 0.8, "power": 3.0, "list_length": 3}),
    ]
}
