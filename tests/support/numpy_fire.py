"""Adam with FIRE's projection in NumPy, from arXiv 2602.08040."""

import numpy as np
from numpy_adam import NumpyAdam


def fire(weight, steps):
    """Of a matrix with one row for each output, as the paper has it; None for all of the steps."""
    outputs, inputs = weight.shape
    if steps is None:
        u, _, vt = np.linalg.svd(weight, full_matrices=False)
        x = u @ vt
    else:
        x = weight / np.linalg.norm(weight)
        for _ in range(steps):
            x = 1.5 * x - 0.5 * x @ (x.T @ x)
    return np.sqrt(outputs / inputs) * x


class NumpyFire:
    """For one dense layer."""

    def __init__(self, params, rate, steps, new_adam, **adam):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.rate, self.steps, self.new_adam, self.options = rate, steps, new_adam, adam
        self.adam = self.begin()

    def begin(self):
        return {name: NumpyAdam(p.shape, **self.options) for name, p in self.params.items()}

    def step(self, grads, event):
        for name, adam in self.adam.items():
            u = adam.step(np.asarray(grads[name], np.float64))
            self.params[name] = self.params[name] - self.rate * u
        if event:
            self.params["kernel"] = fire(self.params["kernel"].T, self.steps).T
            if self.new_adam:
                self.adam = self.begin()
        return self.params
