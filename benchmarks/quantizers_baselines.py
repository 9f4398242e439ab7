"""What the quantizers are compared with: small NumPy versions of other rules, one tensor each.

The authors' rules are those of Bai, Wang, Liberty (arXiv:1810.00861) and their code. The rules
of PARQ are those of Jin et al. (arXiv:2503.15748) and its code, written anew from the formulas;
they are PARQ's in what they compute, not in how.
"""

import itertools

import numpy as np


def authors_ternary(weights, threshold=0.7):
    """0 below 0.7 mean |w|, else the mean of its side. Codes by threshold, not by distance."""
    delta = threshold * np.abs(weights).mean()
    high, low = weights >= delta, weights <= -delta
    quantized = np.zeros_like(weights)
    quantized[high] = weights[high].mean() if high.any() else 0
    quantized[low] = weights[low].mean() if low.any() else 0
    return quantized


def authors_alternating(weights, bits, rounds=3):
    """Greedy scales; then least squares for the codes and greedy codes for the scales, in turn."""
    flat = weights.ravel()
    scales, rest = [], flat
    for _ in range(bits):
        scales.append(np.abs(rest).mean())
        rest = rest - np.where(rest >= 0, 1, -1) * scales[-1]
    for _ in range(rounds):
        codes, rest = [], flat
        for scale in scales:
            codes.append(np.where(rest >= 0, 1.0, -1.0))
            rest = rest - scale * codes[-1]
        scales = np.linalg.lstsq(np.stack(codes, axis=1), flat, rcond=None)[0]
    return (flat - rest).reshape(weights.shape)


def best_of_restarts(weights, bits, restarts=20, rounds=300, seed=0):
    """The best of 20 random starts, each alternated with the nearest codes to convergence."""
    random = np.random.default_rng(seed)
    sizes = np.sort(np.abs(weights).ravel())
    sums = np.concatenate([[0], np.cumsum(sizes)])
    signs = np.array([(1, *rest) for rest in itertools.product((-1, 1), repeat=bits - 1)], float)
    best, best_levels = np.inf, None
    for _ in range(restarts):
        scales, last = np.abs(random.normal(size=bits)) * weights.std(), np.inf
        for _ in range(rounds):
            values = signs @ scales
            order = np.argsort(np.abs(values))
            codes = signs[order] * np.where(values[order] < 0, -1, 1)[:, None]
            levels = np.abs(values[order])
            cuts = np.searchsorted(sizes, (levels[1:] + levels[:-1]) / 2)
            cuts = np.concatenate([[0], cuts, [len(sizes)]])
            counts, totals = np.diff(cuts), np.diff(sums[cuts])
            loss = np.sum(levels * (counts * levels - 2 * totals))
            if last - loss <= 1e-12 * abs(loss):
                break
            last = loss
            gram = codes.T @ (counts[:, None] * codes)
            scales = np.linalg.lstsq(gram, codes.T @ totals, rcond=None)[0]
        if loss < best:
            best, best_levels = loss, np.concatenate([-levels[::-1], levels])
    return nearest(weights, best_levels)


def parq_greedy(weights, bits):
    """PARQ's least-squares binary quantizer by default: greedy, and its greedy codes."""
    rest = weights
    for _ in range(bits):
        rest = rest - np.where(rest >= 0, 1, -1) * np.abs(rest).mean()
    return weights - rest


def parq_ternary(weights, multiplier=1.1):
    """PARQ's ternary rule by default: a = 1.1 mean |w|."""
    scale = multiplier * np.abs(weights).mean()
    return nearest(weights, np.array([-scale, 0, scale]))


def parq_optimal_ternary(weights):
    """PARQ's "optimal" ternary per tensor.

    Its candidates are v = half the mean of the sizes above v; levels +-2v would be the means
    themselves, but the levels it uses are +-v.
    """
    sizes = np.sort(np.abs(weights).ravel())
    tails = np.cumsum(sizes[::-1])[::-1] / np.arange(len(sizes), 0, -1)
    below = np.concatenate([[0], sizes[:-1]])
    candidates = tails[(below <= tails / 2) & (tails / 2 < sizes)] / 2
    found = [nearest(weights, np.array([-v, 0, v])) for v in candidates]
    return min(found, key=lambda quantized: np.sum((quantized - weights) ** 2))


def parq_uniform(weights, bits):
    """PARQ's uniform quantizer by default: levels +-.5, +-1.5 ... s up to min(bits mean, max)."""
    sizes = np.abs(weights)
    half = 2 ** (bits - 1)
    scale = min(bits * sizes.mean(), sizes.max()) / (half - 0.5)
    return nearest(weights, scale * (np.arange(-half, half) + 0.5))


def max_scaled(weights, codes):
    """Whole multiples of the scale that takes the largest code to max |w|."""
    codes = np.asarray(codes, "float64")
    return nearest(weights, codes * np.abs(weights).max() / codes[-1])


def best_scale(weights, codes, candidates=2000):
    """The best of many scales whose largest level lies between mean |w| / 2 and max |w|."""
    codes = np.asarray(codes, "float64")
    sizes = np.abs(weights)
    scales = np.geomspace(sizes.mean() / 2, sizes.max(), candidates) / codes[-1]
    flat, errors = weights.ravel(), []
    for scale in scales:
        rounded = scale * np.clip(np.floor(flat / scale + 0.5), codes[0], codes[-1])
        errors.append(np.sum((rounded - flat) ** 2))
    return nearest(weights, codes * scales[np.argmin(errors)])


def nearest(weights, levels):
    """The nearest level, a midpoint going up."""
    return levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, weights, side="right")]
