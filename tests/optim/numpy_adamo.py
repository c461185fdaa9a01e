"""AdamO in NumPy, written from the paper's equations, and the data made with it.

`python tests/optim/numpy_adamo.py` writes tests/optim/data/adamo_small.npz.
"""

import json
import math
import pathlib

import numpy as np

DATA = pathlib.Path(__file__).parent / "data" / "adamo_small.npz"
HYPER = {
    "learning_rate": 0.01,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-4,
    "kappa": 0.5,
    "tau": 0.1,
    "eps_r": 1e-8,
}
SHAPES = {"wide": (3, 5), "tall": (6, 4), "conv": (2, 2, 2, 3), "bias": (4,), "scale": ()}
STEPS = 5


class NumpyAdamO:
    """Takes and gives dicts of float64 arrays."""

    def __init__(self, hyper, params):
        self.hyper = hyper
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.t = 0

    def step(self, grads):
        """Updates the parameters; returns Adam's directions and the corrections."""
        h = self.hyper
        self.t += 1
        directions, corrections = {}, {}
        for name, grad in grads.items():
            g = np.asarray(grad, np.float64)
            self.m[name] = h["b1"] * self.m[name] + (1 - h["b1"]) * g
            self.v[name] = h["b2"] * self.v[name] + (1 - h["b2"]) * g**2
            m_hat = self.m[name] / (1 - h["b1"] ** self.t)
            v_hat = self.v[name] / (1 - h["b2"] ** self.t)
            u = m_hat / (np.sqrt(v_hat) + h["eps"])
            delta = np.zeros_like(u)
            if g.ndim >= 2:
                delta = self._correction(self.params[name], g, u)
            directions[name], corrections[name] = u, delta
            self.params[name] = self.params[name] - h["learning_rate"] * (u + delta)
        return directions, corrections

    def _correction(self, w, g, u):
        columns = w.shape[-1]
        matrix = w.reshape(-1, columns)
        rows = matrix.shape[0]
        if rows < columns:
            r = (matrix @ matrix.T - np.eye(rows)) @ matrix
        else:
            r = matrix @ (matrix.T @ matrix - np.eye(columns))
        r = r.reshape(w.shape)
        if self.hyper.get("pull") == "zero":
            r = w
        delta0 = self.hyper["kappa"] * norm(u) / (norm(r) + self.hyper["eps_r"]) * r
        if self.hyper["tau"] is None:
            return delta0
        budget = -self.hyper["tau"] * max(inner(g, u), 0.0)
        if inner(g, delta0) >= budget:
            return delta0
        return budget / inner(g, delta0) * delta0


def inner(x, y):
    return math.fsum((x * y).ravel())


def norm(x):
    return math.sqrt(inner(x, x))


def make_data():
    """A short run on random gradients; all but `init/...` has one row for each step."""
    rng = np.random.default_rng(20260501)
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    grads = {
        name: rng.normal(size=(STEPS, *shape)).astype(np.float32) for name, shape in SHAPES.items()
    }
    optimizer = NumpyAdamO(HYPER, params)
    trace = []
    for step in range(STEPS):
        _, corrections = optimizer.step({name: grads[name][step] for name in SHAPES})
        trace.append((dict(optimizer.params), corrections))
    data = {"hyper": np.array(json.dumps(HYPER))}
    for name in SHAPES:
        data[f"init/{name}"] = params[name]
        data[f"grad/{name}"] = grads[name]
        data[f"params/{name}"] = np.stack([params[name] for params, _ in trace])
        data[f"correction/{name}"] = np.stack([corrections[name] for _, corrections in trace])
    return data


if __name__ == "__main__":
    DATA.parent.mkdir(exist_ok=True)
    np.savez_compressed(DATA, allow_pickle=False, **make_data())
