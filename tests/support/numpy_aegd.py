"""AEGD and AEGDW in NumPy, float64, from the equations."""

import math

import numpy as np


class NumpyAegd:
    def __init__(self, rates, c=1.0, decay=0.0, decoupled=False, floor=1e-2):
        """`rates` holds one learning rate for each step."""
        self.rates, self.c, self.decay, self.decoupled = list(rates), c, decay, decoupled
        self.floor = floor
        self.r = {}

    def step(self, params, grads, *, value):
        rate = self.rates.pop(0)
        root = math.sqrt(max(float(value) + self.c, self.floor))
        after = {}
        for name, theta in params.items():
            q = np.float64(grads[name]) / (2 * root)
            if self.decoupled:
                theta = theta * (1 - rate * self.decay)
            else:
                q = q + self.decay * theta
            self.r.setdefault(name, np.full(theta.shape, root))
            self.r[name] = self.r[name] / (1 + 2 * rate * q**2)
            after[name] = theta - 2 * rate * self.r[name] * q
        return after
