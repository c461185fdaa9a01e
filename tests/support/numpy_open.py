"""OPEN in NumPy, from its equations (arXiv 2407.07082) in float64, and a small trace made with it.

`python tests/support/numpy_open.py` writes tests/optim/data/open_small.npz. Parameters are flat
dictionaries by path; features, hidden units and momenta lie along the last axis. Each of `MISTAKES`
is something else than the equations say, with which a test of the trace must fail.
"""

import pathlib

import numpy as np
from numpy_recurrent import gru

DATA = pathlib.Path(__file__).parents[1] / "optim" / "data" / "open_small.npz"
DECAYS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
HIDDEN, GRU = 4, 3
SHAPES = {
    "actor/Dense_0/bias": (3,),
    "actor/Dense_0/kernel": (4, 3),
    "actor/Dense_1/bias": (2,),
    "actor/Dense_1/kernel": (3, 2),
    "actor/log_std": (2,),
    "critic/Conv_0/bias": (3,),
    "critic/Conv_0/kernel": (2, 2, 1, 3),
    "critic/Dense_0/bias": (1,),
    "critic/Dense_0/kernel": (3, 1),
    "scale": (),
}
# As a reader counts layers; the rest follows the same order as SHAPES.
POSITIONS = dict(zip(SHAPES, (0, 0, 0.5, 0.5, 1, 0, 0, 1, 1, 0), strict=True))
# Of the gradients; one step has none at all.
SCALES = (1.0, 1e-3, 30.0, 0.0, 1e-7, 0.3)
PROGRESS = ((0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.7, 0.0), (1.0, 0.5), (1.0, 1.0))
MISTAKES = (
    "mean of each network",
    "mean of each leaf",
    "no mean",
    "layer and batch swapped",
    "no dormancy",
    "no training progress",
    "gradient before momenta",
    "signs after logarithms",
    "momenta corrected for their beginning",
    "logarithms of at least 1e-8",
    "features not normalised",
    "exponential ignored",
    "noise for the critic",
    "noise not masked",
    "carry reset",
)


def layer_norm(weights, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    size = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-6)
    return centred / size * weights["scale"] + weights["bias"]


def dense(weights, x):
    return x @ weights["kernel"] + weights["bias"]


class NumpyOPEN:
    """`step` gives what is added to the parameters; `features` and `outputs` are of the last."""

    def __init__(self, meta, params, positions, masks, mistake=""):
        self.meta, self.positions, self.masks, self.mistake = meta, positions, masks, mistake
        units = meta["gru_params"]["hn"]["bias"].size
        self.momenta = {path: np.zeros((*np.shape(p), 6)) for path, p in params.items()}
        self.carry = {path: np.zeros((*np.shape(p), units)) for path, p in params.items()}
        self.features, self.outputs, self.count = {}, {}, 0

    def leaf_features(self, path, p, g, activation, training, batch):
        m = self.momenta[path]
        if self.mistake == "momenta corrected for their beginning":
            m = m / (1 - np.array(DECAYS) ** self.count)
        eps = 1e-8 if self.mistake == "logarithms of at least 1e-8" else 1e-13
        log = lambda x: np.log(np.abs(x) + eps)  # noqa: E731
        own = [p[..., None], np.sign(m), log(m), np.sign(g)[..., None], log(g)[..., None]]
        if self.mistake == "gradient before momenta":
            own = [own[i] for i in (0, 3, 4, 1, 2)]
        if self.mistake == "signs after logarithms":
            own = [own[i] for i in (0, 2, 1, 3, 4)]
        own = np.concatenate(own, axis=-1)
        if self.mistake != "features not normalised":
            over = tuple(range(p.ndim))
            own = own / np.sqrt(1e-5 + np.square(own).mean(axis=over, keepdims=True))
        a = np.float64(activation) + 1e-11
        dormancy = a / np.abs(a).sum() * a.size
        if self.mistake == "no dormancy":
            dormancy = np.ones_like(dormancy)
        if self.mistake == "no training progress":
            training = 0.0
        layer = self.positions[path]
        if self.mistake == "layer and batch swapped":
            layer, batch = batch, layer
        last = np.broadcast_to(dormancy if p.ndim else dormancy[0], p.shape)
        rest = [np.full(p.shape, number) for number in (training, layer, batch)] + [last]
        return np.concatenate([own, np.stack(rest, axis=-1)], axis=-1)

    def step(self, params, grads, activations, training, batch, draws):
        self.count += 1
        mlp, steps = self.meta["params"], {}
        for path, p in params.items():
            g = np.float64(grads[path])
            d = np.array(DECAYS)
            self.momenta[path] = d * self.momenta[path] + (1 - d) * g[..., None]
            x = self.leaf_features(path, p, g, activations[path], training, batch)
            old = np.zeros_like(self.carry[path]) if self.mistake == "carry reset" else None
            h = gru(self.meta["gru_params"], self.carry[path] if old is None else old, x)
            y = np.maximum(layer_norm(mlp["layers_1"], dense(mlp["layers_0"], h)), 0)
            y = np.maximum(layer_norm(mlp["layers_4"], dense(mlp["layers_3"], y)), 0)
            o = dense(mlp["layers_6"], y)
            self.features[path], self.outputs[path], self.carry[path] = x, o, h
            mask = self.masks[path]
            if self.mistake == "noise for the critic":
                mask = 1.0 if path.startswith("critic") else mask
            if self.mistake == "noise not masked":
                mask = 1.0
            growth = 1.0 if self.mistake == "exponential ignored" else np.exp(1e-3 * o[..., 1])
            noise = mask * o[..., 2] * draws[path]
            steps[path] = 1e-3 * (o[..., 0] * growth + noise)
        return {path: self.mean_of(path, steps) - step for path, step in steps.items()}

    def mean_of(self, path, steps):
        match self.mistake:
            case "no mean":
                chosen = []
            case "mean of each network":
                top = path.split("/")[0]
                chosen = [step for other, step in steps.items() if other.split("/")[0] == top]
            case "mean of each leaf":
                chosen = [steps[path]]
            case _:
                chosen = list(steps.values())
        return np.concatenate([np.ravel(step) for step in chosen]).mean() if chosen else 0.0


def nest(flat):
    tree = {}
    for path, value in flat.items():
        *above, last = path.split("/")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def meta_shapes():
    inputs, square, units = {"bias": (GRU,), "kernel": (19, GRU)}, (GRU, GRU), (HIDDEN,)
    norm = {"bias": units, "scale": units}
    return {
        "gru_params/hn/bias": (GRU,),
        "gru_params/hn/kernel": square,
        "gru_params/hr/kernel": square,
        "gru_params/hz/kernel": square,
        **{f"gru_params/{gate}/{k}": s for gate in ("in", "ir", "iz") for k, s in inputs.items()},
        "params/layers_0/bias": units,
        "params/layers_0/kernel": (GRU, HIDDEN),
        **{f"params/layers_1/{k}": s for k, s in norm.items()},
        "params/layers_3/bias": units,
        "params/layers_3/kernel": (HIDDEN, HIDDEN),
        **{f"params/layers_4/{k}": s for k, s in norm.items()},
        "params/layers_6/bias": (3,),
        "params/layers_6/kernel": (HIDDEN, 3),
    }


def make_inputs():
    rng = np.random.default_rng(20240710)
    draw = lambda shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    data = {}
    for path, shape in meta_shapes().items():
        data[f"meta/{path}"] = draw(shape) * np.float32(0.6) + np.float32(path.endswith("scale"))
    # What the exponent sees is divided by a thousand: large, so that it shows.
    data["meta/params/layers_6/bias"][1] = 100.0
    for path, shape in SHAPES.items():
        units = shape[-1] if shape else 1
        scales = np.array(SCALES, np.float32).reshape(-1, *[1] * len(shape))
        data[f"init/{path}"] = draw(shape)
        data[f"grad/{path}"] = draw((len(SCALES), *shape)) * scales
        data[f"draw/{path}"] = draw((len(SCALES), *shape))
        # Some units are dead; those of log_std and of scale count as one.
        activation = np.maximum(draw((len(SCALES), 1 if "log_std" in path else units)), 0)
        data[f"activation/{path}"] = activation
    return data


def part(data, name):
    return {k.removeprefix(f"{name}/"): v for k, v in data.items() if k.startswith(f"{name}/")}


def run(data, masks, mistake=""):
    """What `data` leads to, by the transcription."""
    params = {path: np.float64(value) for path, value in part(data, "init").items()}
    meta = nest({path: np.float64(value) for path, value in part(data, "meta").items()})
    optimizer = NumpyOPEN(meta, params, POSITIONS, masks, mistake)
    kinds = [part(data, kind) for kind in ("grad", "activation", "draw")]
    made = {}
    for t, (training, batch) in enumerate(PROGRESS):
        grads, activations, draws = ({path: x[t] for path, x in kind.items()} for kind in kinds)
        updates = optimizer.step(params, grads, activations, training, batch, draws)
        params = {path: params[path] + updates[path] for path in params}
        made |= {f"params/{t}/{path}": value for path, value in params.items()}
    for kind in ("features", "outputs", "carry", "momenta"):
        made |= {f"{kind}/{path}": x for path, x in getattr(optimizer, kind).items()}
    return made


def make_data():
    """All inputs and results: the parameters of all steps, and the rest of the last one."""
    data = make_inputs()
    return data | run(data, {path: float(path.startswith("actor")) for path in SHAPES})


def load():
    """The committed data, as `make_data` gives it."""
    data = make_inputs()
    with np.load(DATA, allow_pickle=False) as file:
        results = file["results"]
    start = 0
    for key, like in make_data().items():
        if key not in data:
            data[key] = results[start : start + np.size(like)].reshape(np.shape(like))
            start += np.size(like)
    assert start == results.size
    return data


if __name__ == "__main__":
    inputs, made = make_inputs(), make_data()
    results = [np.ravel(value) for key, value in made.items() if key not in inputs]
    np.savez_compressed(DATA, results=np.concatenate(results))
