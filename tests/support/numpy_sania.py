"""SANIA, AdamSQR and AdagradSQR, in NumPy, float64, from the equations."""

import math

import numpy as np


class NumpySania:
    def __init__(self, rate=1.0, kind="adam", b2=0.999, eps=0.1, f_min=0.0, root=False):
        self.rate, self.kind, self.b2, self.eps = rate, kind, b2, eps
        self.f_min, self.root = f_min, root
        self.v, self.t = {}, 0

    def step(self, params, grads, *, value):
        self.t += 1
        d, n = {}, 0.0
        for name in params:
            g = np.float64(grads[name])
            if self.kind == "adam":
                self.v[name] = self.b2 * self.v.get(name, 0.0) + (1 - self.b2) * g**2
                scale = self.v[name] / (1 - self.b2**self.t)
            else:
                self.v[name] = self.v.get(name, 0.0) + g**2
                scale = self.v[name]
            scale = np.maximum(scale, self.eps)
            d[name] = g / np.sqrt(scale) if self.root else g / scale
            n += (g * d[name]).sum()
        gap = max(float(value) - self.f_min, 0.0)
        step = 1.0 if 2 * gap > n or n == 0 else 1 - math.sqrt(1 - 2 * gap / n)
        return {name: theta - self.rate * step * d[name] for name, theta in params.items()}
