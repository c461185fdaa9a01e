"""AdaBound and AMSBound in NumPy, from the equations of arXiv 1902.09843."""

import math

import numpy as np


class NumpyAdaBound:
    """`rates` gives the learning rate of each step, `base` the one that `final` belongs to."""

    def __init__(self, params, rates, base, b1, b2, eps, final, gamma, weight_decay, ams=False):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.largest = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.rates, self.base, self.b1, self.b2, self.eps = rates, base, b1, b2, eps
        self.final, self.gamma, self.weight_decay, self.ams = final, gamma, weight_decay, ams
        self.t = 0
        self.clipped = [0, 0]

    def step(self, grads):
        rate = self.rates[self.t]
        self.t += 1
        goal = self.final * rate / self.base
        low = goal * (1 - 1 / (self.gamma * self.t + 1))
        high = goal * (1 + 1 / (self.gamma * self.t))
        for name, w in self.params.items():
            g = np.asarray(grads[name], np.float64) + self.weight_decay * w
            m = self.m[name] = self.b1 * self.m[name] + (1 - self.b1) * g
            v = self.v[name] = self.b2 * self.v[name] + (1 - self.b2) * g**2
            if self.ams:
                v = self.largest[name] = np.maximum(self.largest[name], v)
            size = rate * math.sqrt(1 - self.b2**self.t) / (1 - self.b1**self.t)
            raw = size / (np.sqrt(v) + self.eps)
            self.clipped[0] += np.sum(raw < low)
            self.clipped[1] += np.sum(raw > high)
            self.params[name] = w - np.minimum(np.maximum(raw, low), high) * m
        return dict(self.params)
