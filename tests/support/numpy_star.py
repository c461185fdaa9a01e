"""STAR in NumPy, after arXiv 2209.11208 in the form of arXiv 2302.01470, in float64.

Features of every parameter lie along the last axis; one decay rate after the other.
"""

import numpy as np
from numpy_recurrent import mlp

TIMESCALES = [1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000]


def decays(starts, offsets):
    return [1 - np.exp(10 * (np.log(1 - d) / 10 + w)) for d, w in zip(starts, offsets, strict=True)]


def inverse_root(x):
    return 1 / np.sqrt(np.maximum(x, 1e-9))


class NumpySTAR:
    """State: `momentum[leaf][j]` and so on; `rows` lacks the largest axis, `columns` the next."""

    state_names = ("momentum", "square", "rows", "columns", "diagonal")

    def __init__(self, meta, params, rate, clip, nominal=1e-3):
        self.meta, self.rate, self.clip, self.nominal = meta, rate, clip, nominal
        self.count = 0
        zeros = {k: np.zeros(np.shape(p)) for k, p in params.items()}
        self.state = {name: {k: [0 * zeros[k]] * 3 for k in zeros} for name in self.state_names}
        self.state["square"] = dict(zeros)
        for k, zero in zeros.items():
            if zero.ndim < 2:
                continue
            second, first = np.argsort(zero.shape, kind="stable")[-2:]
            self.state["rows"][k] = [zero.sum(axis=first)] * 3
            self.state["columns"][k] = [zero.sum(axis=second)] * 3

    def step(self, params, grads):
        updates = {}
        for leaf in params:
            g = np.clip(np.float64(grads[leaf]), -self.clip, self.clip)
            updates[leaf] = self.step_leaf(leaf, np.float64(params[leaf]), g)
        self.count += 1
        return updates

    def step_leaf(self, leaf, theta, g):
        state = {name: self.state[name][leaf] for name in self.state_names}
        momentum_decays = decays([0.9, 0.99, 0.999], self.meta["momentum_decays"])
        factored_decays = decays([0.9, 0.99, 0.999], self.meta["adafactor_decays"])
        (d,) = decays([0.999], self.meta["rms_decays"])
        state["momentum"] = [
            d * m + (1 - d) * g for d, m in zip(momentum_decays, state["momentum"], strict=True)
        ]
        state["square"] = v = d * state["square"] + (1 - d) * g * g
        columns = [g, theta, *state["momentum"], v]
        adam = [m / np.sqrt(v + 1e-6) for m in state["momentum"]]
        columns += [*adam, 1 / np.sqrt(v + 1e-6)]

        of_gradient, of_momentum, rows, cols = [], [], [], []
        for j, d in enumerate(factored_decays):
            squares = g * g + 1e-30
            if g.ndim < 2:
                full = d * state["diagonal"][j] + (1 - d) * squares
                state["diagonal"] = [*state["diagonal"][:j], full, *state["diagonal"][j + 1 :]]
                rows.append(full)
                cols.append(full)
                of_gradient.append(g * inverse_root(full + 1e-9))
                of_momentum.append(state["momentum"][j] / np.sqrt(full + 1e-6))
                continue
            second, first = np.argsort(g.shape, kind="stable")[-2:]
            row = d * state["rows"][j] + (1 - d) * squares.mean(axis=first)
            column = d * state["columns"][j] + (1 - d) * squares.mean(axis=second)
            state["rows"] = [*state["rows"][:j], row, *state["rows"][j + 1 :]]
            state["columns"] = [*state["columns"][:j], column, *state["columns"][j + 1 :]]
            row, column = np.expand_dims(row, first), np.expand_dims(column, second)
            factor = inverse_root(row / (row.mean(axis=second, keepdims=True) + 1e-9))
            factor = factor * inverse_root(column)
            of_gradient.append(g * factor)
            of_momentum.append(state["momentum"][j] * factor)
            rows.append(np.broadcast_to(row, g.shape))
            cols.append(np.broadcast_to(column, g.shape))
        columns += of_gradient + rows + cols
        columns += [1 / np.sqrt(x + 1e-8) for x in rows + cols] + of_momentum

        scaled = [x / np.sqrt(1e-5 + np.mean(x * x)) for x in columns]
        time = [np.full(g.shape, np.tanh(self.count / scale - 1)) for scale in TIMESCALES]
        o = mlp(self.meta["mlp"], np.stack(scaled + time, axis=-1))
        for name in self.state_names:
            self.state[name][leaf] = state[name]
        learned = self.rate * o[..., 0] * np.exp(1e-3 * o[..., 1])
        return -learned - self.nominal * np.exp(1e-3) * sum(adam) / 3
