"""Adam with projection to given norms in NumPy, from arXiv 2407.01800 and 2502.15280."""

import numpy as np
from numpy_adam import NumpyAdam


class NumpyNormalizeProject:
    """For one dense layer, whose kernel alone is projected."""

    def __init__(self, params, rate, norms, **adam):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.adam = {name: NumpyAdam(p.shape, **adam) for name, p in self.params.items()}
        self.rate, self.norms = rate, norms
        self.rho = np.linalg.norm(self.params["kernel"])

    def step(self, grads):
        for name, adam in self.adam.items():
            u = adam.step(np.asarray(grads[name], np.float64))
            theta = self.params[name] - self.rate * u
            if name == "kernel" and self.norms == "initial":
                theta = self.rho * theta / np.linalg.norm(theta)
            elif name == "kernel":
                for j in range(theta.shape[1]):
                    theta[:, j] /= np.linalg.norm(theta[:, j])
            self.params[name] = theta
        return self.params
