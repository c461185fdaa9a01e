"""AdamP and SGDP in NumPy, from the equations of arXiv 2006.08217, for flax's layout."""

import math

import numpy as np


def project(g, q, w, eps, delta, wd_ratio):
    """The step without its radial part if the leaf seems scale-invariant, and the decay's factor.

    The views are matrices with one row for each output channel, then one row for all.
    """
    if w.ndim < 2:
        return q, 1.0
    for rows in (w.shape[-1], 1):
        view = [np.moveaxis(x, -1, 0).reshape(rows, -1) for x in (g, q, w)]
        cosines, tangents = [], []
        for g_row, q_row, w_row in zip(*view, strict=True):
            floored = max(np.linalg.norm(g_row), eps) * max(np.linalg.norm(w_row), eps)
            cosines.append(abs(g_row @ w_row) / floored)
            unit = w_row / (np.linalg.norm(w_row) + eps)
            tangents.append(q_row - unit * (unit @ q_row))
        if max(cosines) < delta / math.sqrt(view[0].shape[1]):
            channels_first = np.moveaxis(w, -1, 0).shape
            return np.moveaxis(np.reshape(tangents, channels_first), 0, -1), wd_ratio
    return q, 1.0


class NumpyAdamP:
    def __init__(self, params, rate, b1, b2, eps, delta, wd_ratio, weight_decay, nesterov):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.rate, self.b1, self.b2, self.eps = rate, b1, b2, eps
        self.delta, self.wd_ratio = delta, wd_ratio
        self.weight_decay, self.nesterov = weight_decay, nesterov
        self.t = 0
        self.projected = 0

    def step(self, grads):
        self.t += 1
        for name, w in self.params.items():
            g = np.asarray(grads[name], np.float64)
            m = self.m[name] = self.b1 * self.m[name] + (1 - self.b1) * g
            v = self.v[name] = self.b2 * self.v[name] + (1 - self.b2) * g**2
            denominator = np.sqrt(v) / math.sqrt(1 - self.b2**self.t) + self.eps
            q = (self.b1 * m + (1 - self.b1) * g if self.nesterov else m) / denominator
            q, factor = project(g, q, w, self.eps, self.delta, self.wd_ratio)
            self.projected += factor != 1.0
            w = w * (1 - self.rate * self.weight_decay * factor)
            self.params[name] = w - self.rate / (1 - self.b1**self.t) * q
        return dict(self.params)


class NumpySGDP:
    def __init__(
        self, params, rate, momentum, dampening, eps, delta, wd_ratio, weight_decay, nesterov
    ):
        self.params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.buffer = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.rate, self.momentum, self.dampening = rate, momentum, dampening
        self.eps, self.delta, self.wd_ratio = eps, delta, wd_ratio
        self.weight_decay, self.nesterov = weight_decay, nesterov
        self.projected = 0

    def step(self, grads):
        for name, w in self.params.items():
            g = np.asarray(grads[name], np.float64)
            buffer = self.momentum * self.buffer[name] + (1 - self.dampening) * g
            self.buffer[name] = buffer
            q = g + self.momentum * buffer if self.nesterov else buffer
            q, factor = project(g, q, w, self.eps, self.delta, self.wd_ratio)
            self.projected += factor != 1.0
            w = w * (1 - self.rate * self.weight_decay * factor / (1 - self.momentum))
            self.params[name] = w - self.rate * q
        return dict(self.params)
