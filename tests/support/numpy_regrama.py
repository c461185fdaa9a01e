"""ReGraMa by the gradients of kernels, over Adam with a count for each entry, in NumPy.

From the equations of arXiv 2505.24061, with the mean absolute gradient of a unit's incoming weights
as the score. Layers are a list of pairs of kernel and bias. Fresh kernels are given.
"""

import numpy as np
from numpy_redo import NumpyAdamGnT


class NumpyRegrama:
    def __init__(self, layers, rate, period, tau):
        self.layers = [[np.float64(k), np.float64(b)] for k, b in layers]
        self.adam = [[NumpyAdamGnT(x.shape) for x in layer] for layer in self.layers]
        self.rate, self.period, self.tau, self.count = rate, period, tau, 0
        self.renewed = 0

    def step(self, grads, fresh):
        self.count += 1
        for layer, moments, of_layer in zip(self.layers, self.adam, grads, strict=True):
            for j in range(2):
                layer[j] = layer[j] - self.rate * moments[j].step(np.float64(of_layer[j]))
        if self.count % self.period:
            return
        inactive = []
        for kernel_grad, _ in grads[:-1]:
            sizes = np.abs(np.float64(kernel_grad)).mean(0)
            inactive.append(sizes / (sizes.mean() + 1e-8) <= self.tau)
        for i, mask in enumerate(inactive):
            self.layers[i][0][:, mask] = fresh[i][:, mask]
            self.layers[i][1][mask] = 0
            self.adam[i][0].forget(np.broadcast_to(mask, self.layers[i][0].shape))
            self.adam[i][1].forget(mask)
            self.renewed += mask.sum()
        for i, mask in enumerate(inactive):
            kernel = self.layers[i + 1][0]
            kernel[mask] = 0
            self.adam[i + 1][0].forget(np.broadcast_to(mask[:, None], kernel.shape))
