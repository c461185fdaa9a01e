"""Gated recurrent units and dense layers in NumPy, for one parameter after the other.

Written from the equations alone: hidden units lie along the last axis, all in float64.
"""

import numpy as np


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(x)))


def gru(weights, h, x):
    """`h` of shape (..., hidden), `x` of shape (..., inputs)."""

    def of_input(gate):
        return x @ weights["i" + gate]["kernel"] + weights["i" + gate]["bias"]

    r = sigmoid(of_input("r") + h @ weights["hr"]["kernel"])
    z = sigmoid(of_input("z") + h @ weights["hz"]["kernel"])
    n = np.tanh(of_input("n") + r * (h @ weights["hn"]["kernel"] + weights["hn"]["bias"]))
    return (1 - z) * n + z * h


def mlp(weights, x):
    for i, name in enumerate(sorted(weights, key=lambda name: int(name.split("_")[1]))):
        if i > 0:
            x = np.maximum(x, 0)
        x = x @ weights[name]["kernel"] + weights[name]["bias"]
    return x
