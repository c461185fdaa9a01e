"""Continual backpropagation in NumPy, from algorithm 1 of arXiv 2306.13812.

Layers are a list of pairs of kernel and bias. Fresh kernels are given, since NumPy draws others.
"""

import numpy as np
from numpy_redo import NumpyAdamGnT


class NumpyCBP:
    def __init__(self, layers, rate, replacement_rate, maturity, decay):
        self.layers = [[np.float64(k), np.float64(b)] for k, b in layers]
        self.adam = [[NumpyAdamGnT(x.shape) for x in layer] for layer in self.layers]
        self.rate, self.rho, self.m, self.eta = rate, replacement_rate, maturity, decay
        widths = [len(b) for _, b in layers[:-1]]
        self.u, self.a = [np.zeros(w) for w in widths], [np.zeros(w, int) for w in widths]
        self.c = [0.0] * len(widths)
        self.replaced = []

    def step(self, grads, activities, fresh):
        """`activities` and `fresh` kernels are of the hidden layers."""
        for layer, moments, of_layer in zip(self.layers, self.adam, grads, strict=True):
            for j in range(2):
                layer[j] = layer[j] - self.rate * moments[j].step(np.float64(of_layer[j]))
        chosen = []
        for i, h in enumerate(activities):
            self.a[i] += 1
            y = h * np.abs(self.layers[i + 1][0]).mean(1)
            self.u[i] = self.eta * self.u[i] + (1 - self.eta) * y
            eligible = [j for j in range(len(h)) if self.a[i][j] > self.m]
            self.c[i] += self.rho * len(eligible)
            n = int(self.c[i])
            self.c[i] -= n
            corrected = self.u[i] / (1 - self.eta ** self.a[i])
            chosen.append(sorted(eligible, key=lambda j, x=corrected: x[j])[:n])
        for i, units in enumerate(chosen):
            for j in units:
                self.layers[i][0][:, j] = fresh[i][:, j]
                self.layers[i][1][j] = 0
                self.layers[i + 1][0][j] = 0
                self.u[i][j] = self.a[i][j] = 0
                self.adam[i][0].forget(np.s_[:, j])
                self.adam[i][1].forget(np.s_[j])
                self.adam[i + 1][0].forget(np.s_[j])
        self.replaced.append(chosen)
