"""Adam with Parseval regularisation in NumPy, from the loss of arXiv 2412.07224."""

import numpy as np
from numpy_adam import NumpyAdam


def parseval_gradient(weight, strength, scale, width):
    """Of a matrix with one row for each output, as the paper writes it."""
    outputs, _ = weight.shape
    gram = weight @ weight.T - scale * np.eye(outputs)
    return 4 * strength * (width / outputs) ** 2 * gram @ weight


class NumpyParseval:
    """For one dense layer."""

    def __init__(self, params, rate, strength, scale, width, **adam):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.adam = {name: NumpyAdam(p.shape, **adam) for name, p in self.params.items()}
        self.rate, self.numbers = rate, (strength, scale, width)

    def step(self, grads):
        for name, adam in self.adam.items():
            g = np.asarray(grads[name], np.float64)
            if name == "kernel":
                g = g + parseval_gradient(self.params[name].T, *self.numbers).T
            self.params[name] = self.params[name] - self.rate * adam.step(g)
        return self.params
