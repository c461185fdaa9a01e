"""Adam in NumPy, float64, and gradients that are hard on optimizers."""

import numpy as np

SHAPES = {"kernel": (4, 3), "bias": (3,), "scale": ()}


class NumpyAdam:
    """The moments of one tensor; `step` gives the direction, without the learning rate."""

    def __init__(self, shape, b1=0.9, b2=0.999, eps=1e-8):
        self.b1, self.b2, self.eps = b1, b2, eps
        self.m, self.v, self.t = np.zeros(shape), np.zeros(shape), 0

    def step(self, g):
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * g**2
        m_hat, v_hat = self.m / (1 - self.b1**self.t), self.v / (1 - self.b2**self.t)
        return m_hat / (np.sqrt(v_hat) + self.eps)


def awkward_gradients(steps=14, seed=0):
    """Normal ones, then zero, tiny, huge, flipped, and a mixture of sizes; float32 values."""
    rng = np.random.default_rng(seed)
    trace = []
    for i in range(steps):
        grads = {}
        for name, shape in SHAPES.items():
            g = rng.normal(size=shape)
            if i % 7 == 2:
                g = 0 * g
            elif i % 7 == 3:
                g = 1e-10 * g
            elif i % 7 == 4:
                g = 1e5 * g
            elif i % 7 == 5:
                g = -np.float64(trace[-1][name])
            elif i % 7 == 6:
                g = g * 10.0 ** rng.integers(-4, 4, size=shape)
            grads[name] = np.asarray(g, np.float32)
        trace.append(grads)
    return trace


def initial_params(seed=1):
    rng = np.random.default_rng(seed)
    return {n: np.asarray(rng.normal(size=shape), np.float32) for n, shape in SHAPES.items()}
