"""UPGD-W and AdaUPGD in NumPy, float64, from the equations, without noise."""

import numpy as np


def sigmoid(x):
    return np.exp(-np.logaddexp(0.0, -x))


def norm_of_units(u):
    """Of the weights into each unit: flax has units last."""
    if u.ndim < 2:
        return np.sqrt(np.sum(u**2))
    return np.sqrt(np.sum(u**2, axis=tuple(range(u.ndim - 1)), keepdims=True))


class NumpyUPGD:
    """`adam` is None or (b1, b2, eps); `utility` is "global", "code" or "local"."""

    def __init__(self, rate, beta=0.999, weight_decay=1e-3, utility="global", adam=None):
        self.rate, self.beta, self.decay = rate, beta, weight_decay
        self.utility, self.adam = utility, adam
        self.t, self.u, self.m, self.v = 0, {}, {}, {}

    def keep_share(self, name):
        """1 minus the scaled utility."""
        correction = 1 - self.beta**self.t
        corrected = {key: u / correction for key, u in self.u.items()}
        if self.utility == "local":
            most = np.maximum(norm_of_units(corrected[name]), 1e-12)
        else:
            source = corrected if self.utility == "global" else self.u
            most = max(np.max(u) for u in source.values())
            most = max(most, np.finfo(np.float32).tiny)
        return 1 - sigmoid(corrected[name] / most)

    def direction(self, name, g):
        if self.adam is None:
            return g
        b1, b2, eps = self.adam
        m = self.m[name] = b1 * self.m.get(name, 0.0) + (1 - b1) * g
        v = self.v[name] = b2 * self.v.get(name, 0.0) + (1 - b2) * g**2
        return m / (1 - b1**self.t) / (np.sqrt(v / (1 - b2**self.t)) + eps)

    def step(self, params, grads):
        self.t += 1
        for name, theta in params.items():
            utility = -np.float64(grads[name]) * theta
            self.u[name] = self.beta * self.u.get(name, 0.0) + (1 - self.beta) * utility
        after = {}
        for name, theta in params.items():
            step = self.keep_share(name) * self.direction(name, np.float64(grads[name]))
            after[name] = (1 - self.rate * self.decay) * theta - 2 * self.rate * step
        return after
