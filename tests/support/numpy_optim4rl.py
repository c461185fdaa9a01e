"""Optim4RL in NumPy, from its equations (arXiv 2302.01470), in float64."""

import numpy as np
from numpy_recurrent import gru, mlp


class NumpyOptim4RL:
    state_names = ("first", "second")

    def __init__(self, meta, params, rate, clip):
        self.meta, self.rate, self.clip = meta, rate, clip
        hidden = meta["rnn1"]["hr"]["kernel"].shape[0]
        self.state = {
            name: {leaf: np.zeros((*np.shape(p), hidden)) for leaf, p in params.items()}
            for name in self.state_names
        }

    def step(self, params, grads):
        updates = {}
        for leaf in params:
            g = np.clip(np.float64(grads[leaf]), -self.clip, self.clip)
            first, second = (self.state[name] for name in self.state_names)
            first[leaf] = gru(self.meta["rnn1"], first[leaf], g[..., None])
            second[leaf] = gru(self.meta["rnn2"], second[leaf], (g * g)[..., None])
            o1 = mlp(self.meta["mlp1"], first[leaf])[..., 0]
            o2 = mlp(self.meta["mlp2"], second[leaf])[..., 0]
            updates[leaf] = -self.rate * np.sign(g) * np.exp(o1) / np.sqrt(np.exp(o2) + 1e-8)
        return updates
