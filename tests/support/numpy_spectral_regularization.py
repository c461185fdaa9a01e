"""Adam with spectral regularisation in NumPy, from the penalty of arXiv 2406.06811."""

import numpy as np
from numpy_adam import NumpyAdam


class NumpySpectralRegularization:
    """For one dense layer; the first right vector is given, or None for exact singular values."""

    def __init__(self, params, rate, strength, k, vector, **adam):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.adam = {name: NumpyAdam(p.shape, **adam) for name, p in self.params.items()}
        self.rate, self.strength, self.k = rate, strength, k
        self.v = None if vector is None else np.asarray(vector, np.float64)

    def triple(self):
        """The largest singular value of the kernel, and its vectors."""
        w = self.params["kernel"]
        if self.v is None:
            u, sigma, vt = np.linalg.svd(w)
            return u[:, 0], sigma[0], vt[0]
        u = w @ self.v
        u = u / np.linalg.norm(u)
        v = w.T @ u
        self.v = v / np.linalg.norm(v)
        return u, u @ w @ self.v, self.v

    def pulls(self):
        u, sigma, v = self.triple()
        k, bias = self.k, self.params["bias"]
        return {
            "kernel": 2 * k * (sigma**k - 1) * sigma ** (k - 1) * np.outer(u, v),
            "bias": 2 * k * np.linalg.norm(bias) ** (2 * k - 2) * bias,
        }

    def step(self, grads):
        pulls = self.pulls()
        for name, adam in self.adam.items():
            g = np.asarray(grads[name], np.float64) + self.strength * pulls.get(name, 0.0)
            self.params[name] = self.params[name] - self.rate * adam.step(g)
        return self.params
