"""TRAC over Adam in NumPy, from the equations of arXiv 2405.16642."""

import numpy as np
from numpy_adam import NumpyAdam
from scipy.special import erfi


class NumpyTrac:
    """With `exact_reference` the displacement is worked out from the parameters."""

    def __init__(self, params, rate, s_prev=1e-8, eps=1e-8, exact_reference=False):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.start = dict(self.params)
        self.displacement = {name: np.zeros_like(p) for name, p in self.params.items()}
        self.adam = {name: NumpyAdam(p.shape) for name, p in self.params.items()}
        self.rate, self.s_prev, self.eps = rate, s_prev, eps
        self.exact_reference = exact_reference
        self.betas = [1 - 10.0**-k for k in range(1, 7)]
        self.v = [0.0] * 6
        self.sigma = [1e-8] * 6
        self.s = [0.0] * 6

    def step(self, grads):
        if self.exact_reference:
            for name, theta in self.params.items():
                moved = theta - self.start[name]
                self.displacement[name] = moved / (sum(self.s) + self.eps)
        h = 0.0
        for name, g in grads.items():
            h += float(np.vdot(self.displacement[name], np.asarray(g, np.float64)))
        for j, beta in enumerate(self.betas):
            self.v[j] = beta**2 * self.v[j] + h**2
            self.sigma[j] = beta * self.sigma[j] - h
            ratio = self.sigma[j] / (np.sqrt(2) * np.sqrt(self.v[j]) + self.eps)
            self.s[j] = self.s_prev / erfi(1 / np.sqrt(2)) * erfi(ratio)
        scale = max(sum(self.s), 0.0)
        for name, g in grads.items():
            u = -self.rate * self.adam[name].step(np.asarray(g, np.float64))
            self.displacement[name] = self.displacement[name] + u
            self.params[name] = self.start[name] + scale * self.displacement[name]
        return self.params
