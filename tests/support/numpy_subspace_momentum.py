"""Subspace momentum in NumPy, float64, from the equations."""

import numpy as np


def svd_rows(g, rank):
    return np.linalg.svd(g)[0][:, :rank].T


def topk_rows(g, rank):
    return np.eye(len(g))[np.argsort(-np.linalg.norm(g, axis=1))[:rank]]


class NumpySubspaceMomentum:
    def __init__(self, rate, choose, b1=0.9, rank=2, gap=5):
        """`choose(g, rank)` gives the rows of P for a matrix with no more rows than columns."""
        self.rate, self.choose, self.b1, self.rank, self.gap = rate, choose, b1, rank, gap
        self.p, self.m, self.t = {}, {}, 0

    def step(self, params, grads):
        after = {}
        for name, theta in params.items():
            g = np.float64(grads[name])
            if g.ndim != 2:
                self.m[name] = self.b1 * self.m.get(name, 0.0) + (1 - self.b1) * g
                after[name] = theta - self.rate * self.m[name]
                continue
            tall = g.shape[0] > g.shape[1]
            g = g.T if tall else g
            if self.t % self.gap == 0:
                self.p[name] = self.choose(g, min(self.rank, len(g)))
                self.m[name] = 0.0
            p = self.p[name]
            self.m[name] = self.b1 * self.m[name] + (1 - self.b1) * (p @ g)
            direction = p.T @ self.m[name] + (np.eye(len(g)) - p.T @ p) @ g
            after[name] = theta - self.rate * (direction.T if tall else direction)
        self.t += 1
        return after
