"""Loops over scalars, for torchreid_spectral.losses; written from the papers' formulas."""

import itertools
import math

import numpy as np

from tests.references.similarity import cosine, squared_euclidean


def cross_entropy(logits, targets, smoothing: float = 0.0) -> float:
    """Average -sum_j q_j log softmax_j, q smoothed over all classes."""
    total = 0.0
    for row, target in zip(logits, targets):
        rest = math.log(math.fsum(math.exp(value) for value in row))
        for j, value in enumerate(row):
            share = smoothing / len(row) + (1 - smoothing) * (j == target)
            total -= share * (value - rest)
    return total / len(targets)


def am_softmax(cosines, targets, margin: float, scale: float) -> float:
    """Take the margin off the right class's cosine."""
    logits = [
        [scale * (c - margin * (j == target)) for j, c in enumerate(row)]
        for row, target in zip(cosines, targets)
    ]
    return cross_entropy(logits, targets)


def arcface(cosines, targets, margin: float, scale: float) -> float:
    """Add the margin to the right class's angle; beyond pi, go on falling."""

    def moved(c: float) -> float:
        angle = math.acos(c)
        if angle + margin <= math.pi:
            return math.cos(angle + margin)
        return c - margin * math.sin(margin)

    logits = [
        [scale * (moved(c) if j == target else c) for j, c in enumerate(row)]
        for row, target in zip(cosines, targets)
    ]
    return cross_entropy(logits, targets)


def psi(angle: float, margin: int) -> float:
    """Compute (-1)^k cos(m angle) - 2k, with k the piece of [0, pi] the angle is in."""
    k = min(int(angle * margin / math.pi), margin - 1)
    return (-1) ** k * math.cos(margin * angle) - 2 * k


def multiplicative(embeddings, weights, targets, margin: int, share: float, weight_norms: bool):
    """Compute L-Softmax (weight norms count) or A-Softmax (they do not); share is lambda."""
    cosines = cosine(embeddings, weights)
    logits = []
    for row, x, target in zip(cosines, embeddings, targets):
        values = []
        for j, c in enumerate(row):
            length = math.sqrt(math.fsum(x * x))
            length *= math.sqrt(math.fsum(weights[j] * weights[j])) if weight_norms else 1.0
            if j == target:
                c = (share * c + psi(math.acos(c), margin)) / (1 + share)
            values.append(length * c)
        logits.append(values)
    return cross_entropy(logits, targets)


def circle(similarities, positive, margin: float, scale: float) -> float:
    """Average log(1 + sum_n exp(..) sum_p exp(..)) over rows that have both; masks, not labels."""
    losses = []
    for row, is_positive in zip(similarities, positive):
        near = far = 0.0
        for s, yes in zip(row, is_positive):
            if yes is None:
                continue
            if yes:
                near += math.exp(-scale * max(0.0, 1 + margin - s) * (s - (1 - margin)))
            else:
                far += math.exp(scale * max(0.0, s + margin) * (s - margin))
        if near and far:
            losses.append(math.log(1 + near * far))
    return sum(losses) / len(losses) if losses else 0.0


def contrastive(x, targets, margin: float) -> float:
    """Sum the means, over pairs that count, of d^2 and of max(0, m - d)^2."""
    distances = np.sqrt(squared_euclidean(x, x))
    pulled, pushed = [], []
    for i, j in itertools.permutations(range(len(x)), 2):
        d = distances[i, j]
        if targets[i] == targets[j]:
            pulled.append(d * d)
        elif d < margin:
            pushed.append((margin - d) ** 2)
    return sum(sum(terms) / len(terms) for terms in (pulled, pushed) if terms)


def triplet(x, targets, margin: float, soft: bool) -> float:
    """Average the hinge, or softplus, of farthest positive minus nearest negative."""
    distances = np.sqrt(squared_euclidean(x, x))
    losses = []
    for a in range(len(x)):
        near = [distances[a, j] for j in range(len(x)) if targets[j] != targets[a]]
        far = [distances[a, j] for j in range(len(x)) if targets[j] == targets[a] and j != a]
        if near and far:
            gap = max(far) - min(near)
            losses.append(math.log1p(math.exp(gap)) if soft else max(0.0, gap + margin))
    return sum(losses) / len(losses) if losses else 0.0


def quadruplet(x, targets, margin: float, margin_pairs: float, adaptive: bool) -> float:
    """Average both hinges over the quadruplets that violate them."""
    d = squared_euclidean(x, x)
    n = range(len(x))
    pairs = [(i, j) for i in n for j in n if i != j]
    same = [d[i, j] for i, j in pairs if targets[i] == targets[j]]
    other = [d[i, j] for i, j in pairs if targets[i] != targets[j]]
    if adaptive and same and other:
        gap = sum(other) / len(other) - sum(same) / len(same)
        margin, margin_pairs = margin * gap, margin_pairs * gap
    first, second = [], []
    for i, j in pairs:
        if targets[i] != targets[j]:
            continue
        first += [d[i, j] - d[i, k] + margin for k in n if targets[k] != targets[i]]
        second += [
            d[i, j] - d[l, k] + margin_pairs
            for l, k in pairs  # noqa: E741 (the paper's letters)
            if len({targets[i], targets[l], targets[k]}) == 3
        ]
    hard = [[term for term in terms if term > 0] for terms in (first, second)]
    return sum(sum(terms) / len(terms) for terms in hard if terms)


def nca(x, targets, scale: float) -> float:
    """Average -log of the softmax mass on one's own identity, oneself left out."""
    similarity = cosine(x, x)
    losses = []
    for i in range(len(x)):
        powers = [math.exp(scale * similarity[i, j]) if j != i else 0.0 for j in range(len(x))]
        own = math.fsum(p for j, p in enumerate(powers) if targets[j] == targets[i])
        if own > 0:
            losses.append(-math.log(own / math.fsum(powers)))
    return sum(losses) / len(losses) if losses else 0.0


def normalized_cut(x, cosines, targets, temperature: float, scale: float) -> float:
    """Average p_c' S (1 - p_c) / p_c' S 1 over the classes of the batch."""
    similarity = cosine(x, x)
    n = range(len(x))
    probabilities = []
    for row in cosines:
        powers = [math.exp(scale * c) for c in row]
        probabilities.append([p / math.fsum(powers) for p in powers])
    ratios = []
    for c in sorted(set(targets)):
        cut = volume = 0.0
        for i in n:
            for j in n:
                edge = math.exp((similarity[i, j] - 1) / temperature)
                cut += probabilities[i][c] * edge * (1 - probabilities[j][c])
                volume += probabilities[i][c] * edge
        ratios.append(cut / volume)
    return sum(ratios) / len(ratios)


def escape(x, targets, temperature: float) -> float:
    """Average the share of moves that end at another identity."""
    similarity = cosine(x, x)
    total = 0.0
    for i in range(len(x)):
        moves = {j: math.exp(similarity[i, j] / temperature) for j in range(len(x)) if j != i}
        away = math.fsum(p for j, p in moves.items() if targets[j] != targets[i])
        total += away / math.fsum(moves.values())
    return total / len(x)


def order_probability(scores) -> float:
    """Multiply the shares of each score among itself and those after it."""
    probability = 1.0
    for i in range(len(scores)):
        probability *= math.exp(scores[i]) / math.fsum(math.exp(s) for s in scores[i:])
    return probability


def dark_rank(student, teacher, kind: str, scale: float, power: float, length: int) -> float:
    """Compare the orders in which student and teacher draw the neighbours of each image."""

    def scores(features):
        unit = features / np.sqrt((features * features).sum(1, keepdims=True))
        distances = squared_euclidean(unit, unit)
        return [[-scale * math.sqrt(max(d, 0.0)) ** power for d in row] for row in distances]

    s, t = scores(student), scores(teacher)
    total = 0.0
    for q in range(len(student)):
        order = sorted((j for j in range(len(student)) if j != q), key=lambda j: -t[q][j])
        if kind == "hard":
            total -= math.log(order_probability([s[q][j] for j in order]))
            continue
        for permutation in itertools.permutations(order[:length]):
            known = order_probability([t[q][j] for j in permutation])
            total -= known * math.log(order_probability([s[q][j] for j in permutation]))
    return total / len(student)
