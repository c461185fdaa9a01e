"""Adam with subset norms in NumPy, float64, from the equations; subsets as lists of indices."""

import itertools
import math

import numpy as np


def heuristic_subsets(shape):
    """One for each index of the longer axis of a matrix, of the last where they are equal."""
    if len(shape) != 2:
        return [[index] for index in np.ndindex(*shape)]
    rows, columns = shape
    if rows > columns:
        return [[(i, j) for j in range(columns)] for i in range(rows)]
    return [[(i, j) for i in range(rows)] for j in range(columns)]


def generic_subsets(shape, largest=None):
    """Runs of neighbours in PyTorch's order: outputs, inputs, window."""
    if len(shape) < 2:
        return [[index] for index in np.ndindex(*shape)]
    *window, inputs, outputs = (range(length) for length in shape)
    order = [
        (*place, i, o)
        for o, i, place in itertools.product(outputs, inputs, [*np.ndindex(*shape[:-2])])
    ]
    assert len(window) == len(shape) - 2
    bound = math.sqrt(len(order)) / 2 if largest is None else largest
    size = max([k for k in range(1, len(order) + 1) if len(order) % k == 0 and k <= bound] or [1])
    return [order[start : start + size] for start in range(0, len(order), size)]


class NumpySubsetNorm:
    def __init__(self, rate, subsets, b1=0.9, b2=0.999, eps=1e-6, decay=0.0, accumulate=False):
        """`subsets` gives the lists of indices for a shape."""
        self.rate, self.subsets, self.b1, self.b2, self.eps = rate, subsets, b1, b2, eps
        self.decay, self.accumulate = decay, accumulate
        self.m, self.v, self.t = {}, {}, 0

    def step(self, params, grads):
        self.t += 1
        scale = 1 / (1 - self.b1**self.t)
        if not self.accumulate:
            scale *= math.sqrt(1 - self.b2**self.t)
        after = {}
        for name, theta in params.items():
            g = np.float64(grads[name])
            groups = self.subsets(g.shape)
            self.m[name] = self.b1 * self.m.get(name, 0.0) + (1 - self.b1) * g
            v = self.v.setdefault(name, [0.0] * len(groups))
            direction = np.zeros(g.shape)
            for k, group in enumerate(groups):
                total = sum(g[index] ** 2 for index in group)
                if self.accumulate:
                    v[k] += total
                else:
                    v[k] = self.b2 * v[k] + (1 - self.b2) * total
                for index in group:
                    direction[index] = scale * self.m[name][index] / (math.sqrt(v[k]) + self.eps)
            after[name] = theta - self.rate * (direction + self.decay * theta)
        return after
