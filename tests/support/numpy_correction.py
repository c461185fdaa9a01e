"""The learned correction in NumPy, float64, leaf by leaf from its equations."""

import numpy as np


def size(x):
    return np.sqrt(np.mean(np.square(x)))


def cosine(x, y):
    product = np.linalg.norm(x.ravel()) * np.linalg.norm(y.ravel())
    return float(x.ravel() @ y.ravel() / product) if product > 0 else 0.0


class NumpyCorrection:
    """Leaves are named `network/layer/kind`, with layers `Dense_i`."""

    def __init__(self, meta, params, rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, base=None):
        self.meta, self.rate, self.eps, self.base = meta, rate, eps, base
        change = meta["plain"]["betas"] if base is None else np.zeros(2)
        self.b1, self.b2 = (1 - (1 - b) * np.exp(c) for b, c in zip((b1, b2), change, strict=True))
        self.start = {name: np.float64(p) for name, p in params.items()}
        self.m = {name: 0 * p for name, p in self.start.items()}
        self.v = {name: 0 * p for name, p in self.start.items()}
        self.t = 0

    def features(self, name, g, p, activity, training, batch):
        """All twelve, after the moments were updated."""
        network, layer, _ = name.split("/")
        last = max(int(n.split("/")[1][-1]) for n in self.start if n.startswith(network))
        p0 = self.start[name]
        m_hat, v_hat = self.m[name] / (1 - self.b1**self.t), self.v[name] / (1 - self.b2**self.t)
        now, away = np.mean(p**2), np.mean((p - p0) ** 2)
        return np.array(
            [
                min(size(m_hat) / np.sqrt(np.mean(v_hat)), 1) if np.any(v_hat) else 0.0,
                cosine(g, self.m[name]),
                cosine(-g, p - p0),
                cosine(-g, p),
                (now - np.mean(p0**2)) / (now + np.mean(p0**2)) if now or np.any(p0) else 0.0,
                np.sqrt(away / (now + away)) if away else 0.0,
                int(layer[-1]) / last if last else 0.0,
                {"actor": 1, "critic": -1}.get(network, 0),
                1 if p.ndim > 1 else -1,
                0.0 if activity is None else np.mean(activity <= 0.025 * np.mean(activity)),
                training,
                batch,
            ]
        )

    def outputs(self, name, features, training):
        layers = self.meta["mlp"]
        x = features
        for i in range(len(layers)):
            x = np.tanh(x) if i else x
            x = x @ layers[f"layers_{2 * i}"]["kernel"] + layers[f"layers_{2 * i}"]["bias"]
        plain = self.meta["plain"]
        rows = {"actor": [1, 0], "critic": [0, 1]}.get(name.split("/")[0], [0.5, 0.5])
        between = lambda pair: (1 - training) * pair[..., 0] + training * pair[..., 1]  # noqa: E731
        step, decay = (float(rows @ between(np.float64(plain[n]))) for n in ("step", "decay"))
        return x / 2 + [step, 0, decay, 0, float(between(np.float64(plain["noise"])))]

    def step(self, params, grads, activations=None, training=0.0, batch=0.0, draws=None):
        self.t += 1
        updates = {}
        for name in params:
            p, g = np.float64(params[name]), np.float64(grads[name])
            self.m[name] = self.b1 * self.m[name] + (1 - self.b1) * g
            self.v[name] = self.b2 * self.v[name] + (1 - self.b2) * g**2
            if self.base is None:
                root = np.sqrt(self.v[name] / (1 - self.b2**self.t))
                x = self.m[name] / (1 - self.b1**self.t) / (root + self.eps)
            else:
                x = self.base(g)
            activity = None if activations is None else np.float64(activations[name])
            o = self.outputs(name, self.features(name, g, p, activity, training, batch), training)
            changed = np.exp(o[0]) * (1 + np.tanh(o[1]) * np.sign(g) * np.sign(x)) * x
            away = p - self.start[name]
            rho = size(x) / 5
            if np.any(p):
                changed = changed + rho * o[2] * p / size(p)
                changed = changed + rho * o[3] * away / np.sqrt(size(p) ** 2 + size(away) ** 2)
            if draws is not None and name.startswith("actor"):
                changed = changed + rho * o[4] * draws[name]
            updates[name] = -self.rate * changed
        return updates
