"""L2LGD2 in NumPy, after arXiv 1606.04474 in the form of arXiv 2302.01470, in float64."""

import math

import numpy as np
from numpy_recurrent import gru, mlp


def features(g):
    """Logarithm and sign of one number, or what stands in for them when it is tiny."""
    logarithm = math.log(abs(g) + 1e-8) / 10
    if logarithm >= -1:
        return [logarithm, float(np.sign(g))]
    return [-1.0, math.exp(10) * g]


class NumpyL2LGD2:
    state_names = ("hidden",)

    def __init__(self, meta, params, rate, clip):
        self.meta, self.rate, self.clip = meta, rate, clip
        units = meta["rnn"]["hr"]["kernel"].shape[0]
        self.state = {"hidden": {k: np.zeros((*np.shape(p), units)) for k, p in params.items()}}

    def step(self, params, grads):
        updates = {}
        for leaf in params:
            g = np.clip(np.float64(grads[leaf]), -self.clip, self.clip)
            x = np.array([features(entry) for entry in g.ravel()]).reshape(*g.shape, 2)
            h = gru(self.meta["rnn"], self.state["hidden"][leaf], x)
            self.state["hidden"][leaf] = h
            updates[leaf] = -self.rate * np.exp(mlp(self.meta["mlp"], h)[..., 0]) * g
        return updates
