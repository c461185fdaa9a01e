"""Cautious AdamW in NumPy, from the equations of arXiv 2411.16085."""

import numpy as np
from numpy_adam import NumpyAdam


class NumpyCautiousAdamW:
    def __init__(self, params, rate, b1=0.9, b2=0.999, eps=1e-6, decay=0.0, scale="mean"):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.adam = {n: NumpyAdam(p.shape, b1, b2, eps) for n, p in self.params.items()}
        self.rate, self.decay, self.scale = rate, decay, scale

    def step(self, grads):
        for name, theta in self.params.items():
            g = np.asarray(grads[name], np.float64)
            u = self.adam[name].step(g)
            phi = np.where(u * g > 0, 1.0, 0.0)
            if self.scale == "mean":
                phi = phi / max(phi.mean(), 1e-3)
            else:
                phi = phi * phi.size / (phi.sum() + 1)
            theta = theta * (1 - self.rate * self.decay)
            self.params[name] = theta - self.rate * u * phi
        return self.params
