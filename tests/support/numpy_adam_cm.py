"""Adam with critical momenta in NumPy, from the equations of arXiv 2307.09638.

The buffer is a list of (priority, momenta of all tensors), as the paper tells it.
"""

import math

import numpy as np


class NumpyAdamCM:
    def __init__(self, params, rate, b1, b2, eps, capacity, decay, weight_decay):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.rate, self.b1, self.b2, self.eps = rate, b1, b2, eps
        self.capacity, self.decay, self.weight_decay = capacity, decay, weight_decay
        self.buffer = []
        self.t = 0
        self.replaced, self.refused = 0, 0

    def step(self, grads):
        self.t += 1
        grads = {name: np.asarray(grads[name], np.float64) for name in self.params}
        priority = sum(np.linalg.norm(g.ravel()) for g in grads.values())
        for name, w in self.params.items():
            g, w = grads[name], w * (1 - self.rate * self.weight_decay)
            if self.t > 1:
                self.m[name] = self.b1 * self.m[name] + (1 - self.b1) * g
                mean = sum(momenta[name] for _, momenta in self.buffer) / len(self.buffer)
                total = self.m[name] + mean
                self.v[name] = self.b2 * self.v[name] + (1 - self.b2) * total**2
                denominator = np.sqrt(self.v[name]) / math.sqrt(1 - self.b2**self.t) + self.eps
                w = w - self.rate / (1 - self.b1**self.t) * total / denominator
            self.params[name] = w
        self._insert(priority, dict(self.m) if self.t > 1 else grads)
        self.buffer = [(self.decay * old, momenta) for old, momenta in self.buffer]
        return dict(self.params)

    def _insert(self, priority, momenta):
        if len(self.buffer) < self.capacity:
            self.buffer.append((priority, momenta))
            return
        lowest = min(range(self.capacity), key=lambda i: self.buffer[i][0])
        if priority > self.buffer[lowest][0]:
            self.buffer[lowest] = (priority, momenta)
            self.replaced += 1
        else:
            self.refused += 1
