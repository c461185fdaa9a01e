"""LinearOptim in NumPy, from its equations (arXiv 2302.01470), in float64."""

import numpy as np
from numpy_recurrent import gru, mlp


class NumpyLinearOptim:
    state_names = ("hidden",)

    def __init__(self, meta, params, rate, clip):
        self.meta, self.rate, self.clip = meta, rate, clip
        units = meta["rnn"]["hr"]["kernel"].shape[0]
        self.state = {"hidden": {k: np.zeros((*np.shape(p), units)) for k, p in params.items()}}

    def step(self, params, grads):
        updates = {}
        for leaf in params:
            g = np.clip(np.float64(grads[leaf]), -self.clip, self.clip)
            h = gru(self.meta["rnn"], self.state["hidden"][leaf], g[..., None])
            self.state["hidden"][leaf] = h
            o = mlp(self.meta["mlp"], h)
            linear = np.exp(o[..., 0]) * g + np.exp(o[..., 1]) * o[..., 2]
            updates[leaf] = -self.rate * linear
        return updates
