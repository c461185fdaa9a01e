"""Adam with weight clipping in NumPy, from the rule of arXiv 2407.01704."""

import numpy as np
from numpy_adam import NumpyAdam


class NumpyWeightClipping:
    """For one dense layer, of `kernel` and `bias`; what else there is is not clipped."""

    def __init__(self, params, rate, kappa, **adam):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.adam = {name: NumpyAdam(p.shape, **adam) for name, p in self.params.items()}
        self.rate = rate
        inputs, _ = self.params["kernel"].shape
        self.bound = kappa / np.sqrt(inputs)

    def step(self, grads):
        for name, adam in self.adam.items():
            u = adam.step(np.asarray(grads[name], np.float64))
            theta = self.params[name] - self.rate * u
            if name in ("kernel", "bias"):
                theta = np.minimum(np.maximum(theta, -self.bound), self.bound)
            self.params[name] = theta
        return self.params
