"""MARS, AdamW form, in NumPy, float64, from the equations."""

import numpy as np


class NumpyMars:
    def __init__(
        self,
        learning_rate,
        b1=0.95,
        b2=0.99,
        eps=1e-8,
        gamma=0.025,
        decay=0.0,
        betas_1d=(0.9, 0.95),
        decay_1d=0.1,
        optimize_1d=False,
    ):
        self.rate, self.betas, self.eps, self.gamma = learning_rate, (b1, b2), eps, gamma
        self.decay, self.betas_1d, self.decay_1d = decay, betas_1d, decay_1d
        self.optimize_1d = optimize_1d
        self.m, self.v, self.last, self.t = {}, {}, {}, 0

    def step(self, params, grads, previous_gradient=None):
        """`previous_gradient` makes it the exact form; its first one counts for nothing."""
        self.t += 1
        after = {}
        for name, theta in params.items():
            g = np.float64(grads[name])
            matrix = self.optimize_1d or theta.ndim == 2
            b1, b2 = self.betas if matrix else self.betas_1d
            decay = self.decay if matrix else self.decay_1d
            if previous_gradient is None:
                old = self.last.get(name, 0.0 * g)
            else:
                old = g if self.t == 1 else np.float64(previous_gradient[name])
            c = g
            if matrix:
                c = g + self.gamma * b1 / (1 - b1) * (g - old)
                norm = np.sqrt((c**2).sum())
                if norm > 1:
                    c = c / norm
            self.last[name] = g
            self.m[name] = b1 * self.m.get(name, 0.0) + (1 - b1) * c
            self.v[name] = b2 * self.v.get(name, 0.0) + (1 - b2) * c**2
            m_hat = self.m[name] / (1 - b1**self.t)
            root = np.sqrt(self.v[name]) / np.sqrt(1 - b2**self.t)
            after[name] = theta - self.rate * (m_hat / (root + self.eps) + decay * theta)
        return after
