"""AdaHessian in NumPy, float64, from the equations; the products H z are given."""

import numpy as np


class NumpyAdaHessian:
    def __init__(self, learning_rate, b1=0.9, b2=0.999, eps=1e-4, power=1.0, decay=0.0):
        self.hyper = learning_rate, b1, b2, eps, power, decay
        self.m, self.v, self.t = {}, {}, 0

    def step(self, params, grads, *, hvp):
        rate, b1, b2, eps, power, decay = self.hyper
        self.t += 1
        after = {}
        for name, theta in params.items():
            g, size = np.float64(grads[name]), np.abs(np.float64(hvp[name]))
            if size.ndim == 4:  # height, width, inputs, outputs
                for i in range(size.shape[2]):
                    for o in range(size.shape[3]):
                        size[:, :, i, o] = size[:, :, i, o].mean()
            self.m[name] = b1 * self.m.get(name, 0.0) + (1 - b1) * g
            self.v[name] = b2 * self.v.get(name, 0.0) + (1 - b2) * size**2
            root = np.sqrt(self.v[name]) / np.sqrt(1 - b2**self.t)
            direction = self.m[name] / (1 - b1**self.t) / (root**power + eps)
            after[name] = theta - rate * (direction + decay * theta)
        return after
