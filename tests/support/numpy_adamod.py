"""AdaMod in NumPy, from the equations of arXiv 1910.12249."""

import math

import numpy as np


class NumpyAdaMod:
    """`rates` gives the learning rate of each step."""

    def __init__(self, params, rates, b1, b2, b3, eps, weight_decay):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.s = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.rates, self.b1, self.b2, self.b3, self.eps = rates, b1, b2, b3, eps
        self.weight_decay = weight_decay
        self.t = 0
        self.free, self.bounded = 0, 0

    def step(self, grads):
        rate = self.rates[self.t]
        self.t += 1
        for name, w in self.params.items():
            g = np.asarray(grads[name], np.float64)
            w = w - rate * self.weight_decay * w
            m = self.m[name] = self.b1 * self.m[name] + (1 - self.b1) * g
            v = self.v[name] = self.b2 * self.v[name] + (1 - self.b2) * g**2
            size = rate * math.sqrt(1 - self.b2**self.t) / (1 - self.b1**self.t)
            raw = size / (np.sqrt(v) + self.eps)
            s = self.s[name] = self.b3 * self.s[name] + (1 - self.b3) * raw
            self.free += np.sum(raw <= s)
            self.bounded += np.sum(raw > s)
            self.params[name] = w - np.minimum(raw, s) * m
        return dict(self.params)
