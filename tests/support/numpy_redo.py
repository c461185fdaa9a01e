"""ReDo over Adam with a count for each entry, in NumPy, from the equations of arXiv 2302.12902.

Layers are a list of pairs of kernel and bias. Fresh kernels are given, since NumPy draws others.
"""

import numpy as np


class NumpyAdamGnT:
    """One tensor; the count is of each entry."""

    def __init__(self, shape, b1=0.9, b2=0.999, eps=1e-8):
        self.b1, self.b2, self.eps = b1, b2, eps
        self.m, self.v, self.t = np.zeros(shape), np.zeros(shape), np.zeros(shape)

    def step(self, g):
        self.t = self.t + 1
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * g**2
        m_hat, v_hat = self.m / (1 - self.b1**self.t), self.v / (1 - self.b2**self.t)
        return m_hat / (np.sqrt(v_hat) + self.eps)

    def forget(self, mask):
        self.m[mask] = self.v[mask] = self.t[mask] = 0


class NumpyRedo:
    def __init__(self, layers, rate, period, tau):
        self.layers = [[np.float64(k), np.float64(b)] for k, b in layers]
        self.adam = [[NumpyAdamGnT(x.shape) for x in layer] for layer in self.layers]
        self.rate, self.period, self.tau, self.count = rate, period, tau, 0
        self.renewed = 0

    def step(self, grads, activities, fresh):
        """`activities` and `fresh` kernels are of the hidden layers."""
        self.count += 1
        for layer, moments, of_layer in zip(self.layers, self.adam, grads, strict=True):
            for j in range(2):
                layer[j] = layer[j] - self.rate * moments[j].step(np.float64(of_layer[j]))
        if self.count % self.period:
            return
        dormant = [a / (np.mean(a) + 1e-9) <= self.tau for a in activities]
        for i, mask in enumerate(dormant):
            kernel, bias = self.layers[i]
            kernel[:, mask] = fresh[i][:, mask]
            bias[mask] = 0
            self.adam[i][0].forget(np.broadcast_to(mask, kernel.shape))
            self.renewed += mask.sum()
        for i, mask in enumerate(dormant):
            kernel = self.layers[i + 1][0]
            kernel[mask] = 0
            self.adam[i + 1][0].forget(np.broadcast_to(mask[:, None], kernel.shape))
