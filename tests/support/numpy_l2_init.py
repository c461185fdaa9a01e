"""Adam with a penalty on the distance from the start in NumPy, from arXiv 2308.11958."""

import numpy as np
from numpy_adam import NumpyAdam


class NumpyL2Init:
    def __init__(self, params, rate, strength, penalty, **adam):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.start = {name: value.copy() for name, value in self.params.items()}
        self.adam = {name: NumpyAdam(p.shape, **adam) for name, p in self.params.items()}
        self.rate, self.strength, self.penalty = rate, strength, penalty

    def step(self, grads):
        away = {name: self.params[name] - self.start[name] for name in self.params}
        length = np.sqrt(sum(np.sum(d * d) for d in away.values()))
        for name, adam in self.adam.items():
            d = away[name]
            if self.penalty == "squared":
                pull = d
            elif self.penalty == "mean":
                pull = 2 * d / d.size
            else:
                pull = d / length if length else 0 * d
            g = np.asarray(grads[name], np.float64) + self.strength * pull
            self.params[name] = self.params[name] - self.rate * adam.step(g)
        return self.params
