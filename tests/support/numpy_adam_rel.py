"""Adam-Rel in NumPy, from the rule of arXiv 2412.17113."""

import numpy as np
from numpy_adam import NumpyAdam


class NumpyAdamRel:
    def __init__(self, params, rate, b1=0.9, b2=0.999, eps=1e-8):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.adam = {n: NumpyAdam(p.shape, b1, b2, eps) for n, p in self.params.items()}
        self.rate = rate

    def step(self, grads, new_objective):
        for name, adam in self.adam.items():
            if new_objective:
                adam.t = 0
            u = adam.step(np.asarray(grads[name], np.float64))
            self.params[name] = self.params[name] - self.rate * u
        return self.params
