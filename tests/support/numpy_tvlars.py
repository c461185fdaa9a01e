"""TVLARS in NumPy, from the equations of arXiv 2309.14053."""

import math

import numpy as np


class NumpyTVLARS:
    """`curve` is the function of t = 1, 2, ... that multiplies the ratio."""

    def __init__(self, params, rate, momentum, weight_decay, trust, max_norm, curve):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.buffer = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.rate, self.momentum, self.weight_decay = rate, momentum, weight_decay
        self.trust, self.max_norm, self.curve = trust, max_norm, curve
        self.t = 0

    def step(self, grads):
        self.t += 1
        for name, w in self.params.items():
            g = np.asarray(grads[name], np.float64) + self.weight_decay * w
            a = min(math.sqrt(np.sum(w**2)), self.max_norm)
            b = min(math.sqrt(np.sum(g**2)), self.max_norm)
            ratio = self.trust * a / b * self.curve(self.t) if a > 0 and b > 0 else 1.0
            self.buffer[name] = self.momentum * self.buffer[name] + ratio * g
            self.params[name] = w - self.rate * self.buffer[name]
        return dict(self.params)
