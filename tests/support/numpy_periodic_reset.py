"""Adam with resets in NumPy, from the rule of arXiv 2306.17833."""

import numpy as np
from numpy_adam import NumpyAdam


class NumpyAdamReset:
    def __init__(self, params, rate, **adam):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.rate, self.options, self.adam = rate, adam, None

    def step(self, grads, new_objective):
        if new_objective or self.adam is None:
            self.adam = {n: NumpyAdam(p.shape, **self.options) for n, p in self.params.items()}
        for name, adam in self.adam.items():
            u = adam.step(np.asarray(grads[name], np.float64))
            self.params[name] = self.params[name] - self.rate * u
        return self.params
