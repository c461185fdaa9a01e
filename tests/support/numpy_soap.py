"""SOAP in NumPy, float64, in the order of the authors' code: moments live in the rotated basis."""

import string

import numpy as np


def along(x, matrix, axis):
    """x times a matrix along an axis: the sum over j of x[.. j ..] matrix[j, k]."""
    letters = string.ascii_lowercase[: x.ndim]
    out = letters.replace(letters[axis], "Z")
    return np.einsum(f"{letters},{letters[axis]}Z->{out}", x, matrix)


class NumpySoap:
    """With AdamW's weight decay. `max_dim` bounds the axes that are rotated."""

    def __init__(
        self, rate, b1=0.95, b2=0.95, eps=1e-8, decay=0.01, beta=None, every=10, max_dim=10_000,
        vectors=False,
    ):  # fmt: skip
        self.rate, self.b1, self.b2, self.eps, self.decay = rate, b1, b2, eps, decay
        self.beta = b2 if beta is None else beta
        self.every, self.max_dim, self.vectors = every, max_dim, vectors
        self.leaves = {}

    def axes(self, g):
        if g.ndim == 1 and not self.vectors:
            return []
        return [axis for axis in range(g.ndim) if g.shape[axis] <= self.max_dim]

    def add(self, leaf, g):
        for axis in self.axes(g):
            unfolded = np.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
            gram = unfolded @ unfolded.T
            leaf["L"][axis] = self.beta * leaf["L"][axis] + (1 - self.beta) * gram

    def start(self, g):
        leaf = {"m": 0 * g, "v": 0 * g, "t": 0}
        leaf["L"] = {axis: np.zeros((g.shape[axis],) * 2) for axis in self.axes(g)}
        self.add(leaf, g)
        leaf["Q"] = {axis: np.linalg.eigh(factor)[1][:, ::-1] for axis, factor in leaf["L"].items()}
        return leaf

    def refresh(self, leaf):
        """Sorts the columns, with v along, and makes a step of the power iteration."""
        back = leaf["m"]
        for axis, basis in leaf["Q"].items():
            back = along(back, basis.T, axis)
        for axis, basis in leaf["Q"].items():
            factor = leaf["L"][axis]
            order = np.argsort(-np.diag(basis.T @ factor @ basis))
            leaf["v"] = np.take(leaf["v"], order, axis)
            leaf["Q"][axis] = np.linalg.qr(factor @ basis[:, order])[0]
            back = along(back, leaf["Q"][axis], axis)
        leaf["m"] = back

    def step(self, params, grads):
        after = {}
        for name, theta in params.items():
            g = np.float64(grads[name])
            if name not in self.leaves:
                self.leaves[name] = self.start(g)
                after[name] = theta
                continue
            leaf = self.leaves[name]
            leaf["t"] += 1
            rotated = g
            for axis, basis in leaf["Q"].items():
                rotated = along(rotated, basis, axis)
            leaf["m"] = self.b1 * leaf["m"] + (1 - self.b1) * rotated
            leaf["v"] = self.b2 * leaf["v"] + (1 - self.b2) * rotated**2
            step = leaf["m"] / (np.sqrt(leaf["v"]) + self.eps)
            for axis, basis in leaf["Q"].items():
                step = along(step, basis.T, axis)
            size = np.sqrt(1 - self.b2 ** leaf["t"]) / (1 - self.b1 ** leaf["t"])
            after[name] = theta - self.rate * (size * step + self.decay * theta)
            self.add(leaf, g)
            if leaf["t"] % self.every == 0:
                self.refresh(leaf)
        return after
