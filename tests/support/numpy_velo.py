"""VeLO in NumPy, after arXiv 2211.09760 and the constants of its authors' code, in float64.

One tensor after the other; features of every parameter lie along the last axis, as do decay rates.
"""

import numpy as np

# As float32 has them.
DECAYS = np.float32([0.9, 0.99, 0.999]).astype(np.float64)
GROUPS = [1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3]
MOST = 150_000
# Variations that a test has to notice, each a detail of the code that one may take for a mistake.
MISTAKES = (
    "size squared",
    "gates in another order",
    "new averages seen",
    "discarded layer used",
    "corrected momenta",
    "losses as of before",
    "minimum of the longer horizon",
    "own mean of the squares",
    "sum over the bank",
    "first state zero",
    "half a penalty",
    "largest axis first",
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def logarithm(x):
    return 0.5 * np.clip(np.log(1e-8 + np.abs(10 * x)), -5, 5)


def inverse_root(x):
    return 1 / np.sqrt(np.maximum(x, 1e-9))


def axes_of(g, mistake=None):
    """The second largest axis and the largest."""
    order = sorted(range(g.ndim), key=lambda axis: g.shape[axis])
    return order[-2:][::-1] if mistake == "largest axis first" else order[-2:]


def linear(layer, x):
    return x @ layer["w"] + layer["b"]


class NumpyVeLO:
    """State: `averages[leaf]` is a dict of arrays, decay rates last; rows are those of leaves."""

    def __init__(
        self, meta, params, updates, decay=0.0, same_horizons=False, forgets=False, mistake=None
    ):
        self.meta, self.decay, self.forgets, self.mistake = meta, decay, forgets, mistake
        self.every = -(-updates // MOST)
        self.steps = updates // self.every
        self.calls = self.count = 0
        self.pending = []
        horizons = np.logspace(1, np.log10(10 if same_horizons else self.steps), 10)
        self.loss_decays = np.exp(-1 / horizons).astype(np.float32).astype(np.float64)
        self.means, self.minima = np.zeros(10), np.full(10, 999999999999.0)
        start = [np.repeat(meta["lstm_init_state"][n], len(params), 0) for n in ("hidden", "cell")]
        self.hidden, self.cell = [0 * x if mistake == "first state zero" else x for x in start]
        self.averages = {k: self.zeros(np.asarray(p)) for k, p in params.items()}

    def zeros(self, p):
        averages = {"m": np.zeros((*p.shape, 3)), "v": np.zeros(p.shape)}
        if p.ndim < 2:
            return averages | {"diagonal": np.zeros((*p.shape, 3))}
        second, first = axes_of(p, self.mistake)
        rows, columns = (np.delete(p.shape, axis) for axis in (first, second))
        return averages | {"rows": np.zeros((*rows, 3)), "columns": np.zeros((*columns, 3))}

    def step(self, params, grads, value):
        """Updates of one call; leaves in the order of their names."""
        params = {k: np.float64(params[k]) for k in sorted(params)}
        squares = sum(np.sum(p * p) for p in params.values())
        half = 0.5 if self.mistake == "half a penalty" else 1
        value = value + half * self.decay * squares
        grads = {k: np.float64(grads[k]) + self.decay * p for k, p in params.items()}
        self.pending.append((grads, value))
        self.calls += 1
        if self.calls % self.every:
            return {k: np.zeros(p.shape) for k, p in params.items()}
        grads = {k: np.mean([g[k] for g, _ in self.pending], axis=0) for k in params}
        value = np.mean([value for _, value in self.pending])
        self.pending = []
        return self.take(params, grads, value)

    def loss_features(self, value):
        d, t = self.loss_decays, self.count
        power = t if self.mistake == "losses as of before" and t else t + 1
        bound = np.max(self.means / (1 - d**power)) if t else value
        value = min(2 * abs(bound), value)
        self.means = d * self.means + (1 - d) * value
        now = self.means / (1 - d ** (t + 1))
        self.minima = np.minimum(self.minima, now)
        if t < 2:
            return np.zeros(9)
        features = []
        for j in range(9):
            low = self.minima[j + (self.mistake == "minimum of the longer horizon")]
            quotient = (now[j] - self.minima[j]) / max(1e-8, now[j + 1] - low)
            features.append(np.clip(quotient - 1, -1, 1))
        return np.array(features)

    def see(self, p, averages, losses):
        share = self.count / self.steps
        phases = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1, 1.1])
        s = inverse_root(np.mean(p * p))
        if self.mistake == "size squared":
            s = s * s
        m, v = averages["m"] * s, averages["v"] * s
        axes = tuple(range(p.ndim))
        mean = m.mean(axis=axes)
        about = np.full(3, v.mean()) if self.mistake == "own mean of the squares" else mean
        rank = sum(n > 1 for n in p.shape)
        return np.concatenate(
            [
                np.tanh(10 * (share - phases)),
                losses,
                [logarithm(v.mean())],
                np.arange(5) == rank,
                logarithm(((m - mean) ** 2).mean(axis=axes)),
                [logarithm(np.mean((v - mu) ** 2)) for mu in about],
            ]
        )

    def recur(self, x):
        weights = self.meta["rnn_params"]
        name = "linear" if self.mistake == "discarded layer used" else "linear_1"
        most = np.maximum(linear(weights[name], x), 0).max(axis=0)
        x = linear(weights["linear_2"], x) + most
        gates = linear(weights["rnn"]["linear"], np.concatenate([x, self.hidden], axis=1))
        i, g, f, o = np.split(gates, 4, axis=1)
        if self.mistake == "gates in another order":
            f, g = g, f
        cell = sigmoid(f + 1) * self.cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        if not self.forgets:
            self.hidden, self.cell = hidden, cell
        return linear(weights["rnn_to_controls"], hidden), linear(weights["step_size"], hidden)

    def accumulate(self, g, averages):
        d = DECAYS
        averages["m"] = d * averages["m"] + (1 - d) * g[..., None]
        averages["v"] = d[2] * averages["v"] + (1 - d[2]) * g * g
        squares = (g * g + 1e-30)[..., None]
        if g.ndim < 2:
            averages["diagonal"] = d * averages["diagonal"] + (1 - d) * squares
            return
        second, first = axes_of(g, self.mistake)
        for name, axis in (("rows", first), ("columns", second)):
            averages[name] = d * averages[name] + (1 - d) * squares.mean(axis=axis)

    def inputs(self, p, g, averages):
        m, v = averages["m"], averages["v"]
        if self.mistake == "corrected momenta":
            m = m / (1 - DECAYS ** (self.count + 1))
        root = (v + 1e-6) ** -0.5
        if g.ndim < 2:
            rows = columns = averages["diagonal"]
            of_gradient = g[..., None] * inverse_root(rows + 1e-9)
            of_momentum = m * rows**-0.5
        else:
            second, first = axes_of(g, self.mistake)
            rows, columns = averages["rows"], averages["columns"]
            within = second - (second > first)
            factor = inverse_root(rows / (rows.mean(axis=within, keepdims=True) + 1e-9))
            factor = np.expand_dims(factor, first)
            factor = factor * np.expand_dims(inverse_root(columns), second)
            of_gradient, of_momentum = g[..., None] * factor, m * factor
            rows = np.broadcast_to(np.expand_dims(rows, first), m.shape)
            columns = np.broadcast_to(np.expand_dims(columns, second), m.shape)
        one = lambda x: x[..., None]  # noqa: E731
        groups = [one(g), one(np.clip(g, -0.1, 0.1)), one(p), m, one(v), m * one(root), one(root)]
        groups += [of_gradient, one(g * root), rows, columns]
        groups += [(rows + 1e-8) ** -0.5, (columns + 1e-8) ** -0.5, of_momentum]
        assert [group.shape[-1] for group in groups] == GROUPS
        x = np.concatenate(groups, axis=-1)
        return x / np.sqrt(1e-5 + np.mean(x * x, axis=tuple(range(p.ndim))))

    def take(self, params, grads, value):
        grads = {k: np.clip(g, -1000, 1000) for k, g in grads.items()}
        losses = self.loss_features(value)
        if self.mistake == "new averages seen":
            for k in params:
                self.accumulate(grads[k], self.averages[k])
        seen = np.stack([self.see(p, self.averages[k], losses) for k, p in params.items()])
        controls, factors = self.recur(seen)
        bank = self.meta["ff_mod_stack"]
        updates = {}
        for row, (k, p) in enumerate(params.items()):
            if self.mistake != "new averages seen":
                self.accumulate(grads[k], self.averages[k])
            share = 1 if self.mistake == "sum over the bank" else len(controls[row])

            def mixed(name, row=row, share=share):
                return 100 * np.tensordot(controls[row], bank[name], 1) / share

            x = self.inputs(p, grads[k], self.averages[k])
            first = np.concatenate([mixed(f"w0__{i}") for i in range(14)])
            x = np.maximum(x @ first + mixed("b0"), 0)
            x = np.maximum(x @ mixed("w1") + mixed("b1"), 0)
            o = x @ mixed("w2") + mixed("b2")
            size = np.sqrt(np.mean(p * p) + 1e-9)
            updates[k] = -1e-3 * factors[row, 0] * size * o[..., 0] * np.exp(1e-3 * o[..., 1])
        self.count += 1
        return updates
