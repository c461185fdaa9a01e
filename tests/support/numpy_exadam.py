"""EXAdam in NumPy, from the equations of the author's present code (arXiv 2412.20302)."""

import numpy as np


class NumpyEXAdam:
    def __init__(self, params, rate, b1, b2, eps, weight_decay):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.rate, self.b1, self.b2, self.eps = rate, b1, b2, eps
        self.weight_decay = weight_decay
        self.t = 0

    def step(self, grads):
        self.t += 1
        b1_power, b2_power = self.b1**self.t, self.b2**self.t
        for name, w in self.params.items():
            g = np.asarray(grads[name], np.float64)
            w = w * (1 - self.rate * self.weight_decay)
            m = self.m[name] = self.b1 * self.m[name] + (1 - self.b1) * g
            v = self.v[name] = self.b2 * self.v[name] + (1 - self.b2) * g**2
            d1 = 1 + v / (v + self.eps) * b2_power
            d2 = 1 + m**2 / (m**2 + self.eps) * b1_power
            m_tilde = m / (1 - b1_power) * d1
            v_tilde = v / (1 - b2_power) * d2
            g_tilde = g / (1 - b1_power) * d1
            self.params[name] = w - self.rate * (m_tilde + g_tilde) / (np.sqrt(v_tilde) + self.eps)
        return dict(self.params)
