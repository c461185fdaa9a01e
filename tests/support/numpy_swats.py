"""SWATS in NumPy, from algorithm 1 of arXiv 1712.07628; all parameters are one vector."""

import math

import numpy as np


class NumpySWATS:
    def __init__(self, params, rate, b1, b2, eps, tolerance):
        self.shapes = {name: np.shape(value) for name, value in params.items()}
        self.w = self._flatten(params)
        self.m, self.v, self.buffer = (np.zeros_like(self.w) for _ in range(3))
        self.rate, self.b1, self.b2, self.eps, self.tolerance = rate, b1, b2, eps, tolerance
        self.average = 0.0
        self.sgd_rate = None
        self.switched_at = None
        self.t = 0

    def _flatten(self, tree):
        return np.concatenate([np.ravel(np.asarray(tree[n], np.float64)) for n in self.shapes])

    def step(self, grads):
        self.t += 1
        g = self._flatten(grads)
        if self.sgd_rate is not None:
            self.buffer = self.b1 * self.buffer + g
            self.w = self.w - (1 - self.b1) * self.sgd_rate * self.buffer
            return self._unflatten()
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * g**2
        correction = math.sqrt(1 - self.b2**self.t) / (1 - self.b1**self.t)
        p = -self.rate * correction * self.m / (np.sqrt(self.v) + self.eps)
        self.w = self.w + p
        if p @ g != 0:
            gamma = (p @ p) / -(p @ g)
            self.average = self.b2 * self.average + (1 - self.b2) * gamma
            corrected = self.average / (1 - self.b2**self.t)
            # A rate that is not positive is refused.
            if self.t > 1 and abs(corrected - gamma) < self.tolerance and corrected > 0:
                self.sgd_rate, self.switched_at = corrected, self.t
        return self._unflatten()

    def _unflatten(self):
        sizes = np.cumsum([math.prod(shape) for shape in self.shapes.values()])[:-1]
        parts = np.split(self.w, sizes)
        return {n: p.reshape(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}
