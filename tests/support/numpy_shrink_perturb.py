"""Adam with Shrink & Perturb in NumPy, with the stored initial weights as noise."""

import numpy as np
from numpy_adam import NumpyAdam


class NumpyShrinkPerturb:
    def __init__(self, params, rate, shrink, perturb, new_adam, **adam):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.start = {name: value.copy() for name, value in self.params.items()}
        self.rate, self.shrink, self.perturb = rate, shrink, perturb
        self.new_adam, self.options = new_adam, adam
        self.adam = self.begin()

    def begin(self):
        return {name: NumpyAdam(p.shape, **self.options) for name, p in self.params.items()}

    def step(self, grads, event):
        for name, adam in self.adam.items():
            u = adam.step(np.asarray(grads[name], np.float64))
            self.params[name] = self.params[name] - self.rate * u
        if event:
            for name, theta in self.params.items():
                self.params[name] = (1 - self.shrink) * theta + self.perturb * self.start[name]
            if self.new_adam:
                self.adam = self.begin()
        return self.params
