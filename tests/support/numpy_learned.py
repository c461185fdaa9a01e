"""Small traces of the learned optimizers, made by their transcriptions in NumPy.

`python tests/support/numpy_learned.py` writes them to `tests/optim/data`. Each is a loop of a few
updates, partly closed: the gradient is `curvature * (params - target) + noise`, and some leaves
have no curvature. `loss` is of the last parameters and of all updates; `metagrad` is its
derivative with respect to the meta-parameters by central differences, for the recurrent optimizers
with the gradients of all steps held fixed.
"""

import pathlib

import numpy as np
from numpy_l2lgd2 import NumpyL2LGD2
from numpy_linear_optim import NumpyLinearOptim
from numpy_optim4rl import NumpyOptim4RL
from numpy_star import NumpySTAR

DATA = pathlib.Path(__file__).parents[1] / "optim" / "data"
CLASSES = {
    "optim4rl": NumpyOptim4RL,
    "linear_optim": NumpyLinearOptim,
    "l2lgd2": NumpyL2LGD2,
    "star": NumpySTAR,
}
SHAPES = {"conv": (2, 3, 2), "bias": (3,), "scale": ()}
# Of the noise; beyond the limit of 1, tiny, and none at all.
SCALES = (1.0, 1e-3, 30.0, 1e-6, 0.0, 0.3)
RATE, CLIP = 0.1, 1.0
HIDDEN, WIDTH = 3, 2


def nest(flat):
    tree = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def meta_shapes(name):
    def dense(path, rows, columns):
        return {f"{path}/kernel": (rows, columns), f"{path}/bias": (columns,)}

    def network(inputs, outputs, mark=""):
        shapes = {}
        for gate in ("ir", "iz", "in"):
            shapes |= dense(f"rnn{mark}/{gate}", inputs, HIDDEN)
        shapes |= {f"rnn{mark}/{gate}/kernel": (HIDDEN, HIDDEN) for gate in ("hr", "hz")}
        shapes |= dense(f"rnn{mark}/hn", HIDDEN, HIDDEN)
        shapes |= dense(f"mlp{mark}/layers_0", HIDDEN, WIDTH)
        return shapes | dense(f"mlp{mark}/layers_2", WIDTH, outputs)

    match name:
        case "optim4rl":
            return network(1, 1, "1") | network(1, 1, "2")
        case "linear_optim":
            return network(1, 3)
        case "l2lgd2":
            return network(2, 1)
    shapes = {"momentum_decays": (3,), "rms_decays": (1,), "adafactor_decays": (3,)}
    return shapes | dense("mlp/layers_0", 39, WIDTH) | dense("mlp/layers_2", WIDTH, 4)


def make_inputs(name):
    rng = np.random.default_rng(sorted(CLASSES).index(name))
    draw = lambda shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    data = {}
    for path, shape in meta_shapes(name).items():
        # Decay rates move by a factor of exp(10 w).
        data[f"meta/{path}"] = draw(shape) * np.float32(0.02 if "decays" in path else 0.6)
    for leaf, shape in SHAPES.items():
        closed = leaf == "conv"
        data[f"init/{leaf}"] = draw(shape)
        data[f"target/{leaf}"] = draw(shape)
        data[f"curvature/{leaf}"] = np.float32(closed) * np.exp(draw(shape))
        scales = np.array(SCALES, np.float32).reshape((-1,) + (1,) * len(shape))
        data[f"noise/{leaf}"] = draw((len(SCALES), *shape)) * scales
        data[f"cotangent/{leaf}"] = draw((len(SCALES), *shape))
    return data


def part(data, name):
    return {k.removeprefix(f"{name}/"): v for k, v in data.items() if k.startswith(f"{name}/")}


def run(name, data, meta, gradients=None):
    """Loss, updates, gradients and the optimizer; with the given gradients, if any."""
    params = {leaf: np.float64(value) for leaf, value in part(data, "init").items()}
    optimizer = CLASSES[name](nest(meta), params, RATE, CLIP)
    curvature, target, noise = (part(data, key) for key in ("curvature", "target", "noise"))
    cotangent = part(data, "cotangent")
    loss, all_updates, all_gradients = 0.0, [], []
    for t in range(len(SCALES)):
        grads = {
            leaf: curvature[leaf] * (params[leaf] - target[leaf]) + np.float64(noise[leaf][t])
            for leaf in params
        }
        grads = grads if gradients is None else gradients[t]
        updates = optimizer.step(params, grads)
        params = {leaf: params[leaf] + updates[leaf] for leaf in params}
        loss += sum(np.sum(cotangent[leaf][t] * updates[leaf]) for leaf in params)
        all_updates.append(updates)
        all_gradients.append(grads)
    squares = {leaf: curvature[leaf] * (params[leaf] - target[leaf]) ** 2 for leaf in params}
    return loss + sum(map(np.sum, squares.values())) / 2, all_updates, all_gradients, optimizer


def make_data(name):
    data = make_inputs(name)
    meta = {path: np.float64(value) for path, value in part(data, "meta").items()}
    loss, updates, gradients, optimizer = run(name, data, meta)
    fixed = None if name == "star" else gradients
    made = {"loss": np.float64(loss)}
    for path, value in meta.items():
        slope = np.zeros(value.shape)
        for place in np.ndindex(value.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = value.copy()
                moved[place] += step
                ends.append(run(name, data, meta | {path: moved}, fixed)[0])
            slope[place] = (ends[0] - ends[1]) / 2e-5
        made[f"metagrad/{path}"] = slope
    for leaf in SHAPES:
        made[f"update/{leaf}"] = np.stack([update[leaf] for update in updates])
        for state in optimizer.state_names:
            made[f"state/{state}/{leaf}"] = np.asarray(optimizer.state[state][leaf])
    return data | made


def pack(data):
    """One vector for all arrays whose names begin alike: thousands of bytes less in a file."""
    groups = {}
    for path, value in data.items():
        groups.setdefault(path.partition("/")[0], []).append(np.ravel(value))
    return {group: np.concatenate(values) for group, values in groups.items()}


def load(name):
    """The committed data, as `make_data` gives it."""
    inputs = make_inputs(name)
    shapes = {path: value.shape for path, value in inputs.items()} | {"loss": ()}
    shapes |= {f"metagrad/{path}": shape for path, shape in meta_shapes(name).items()}
    optimizer = CLASSES[name](nest(part(inputs, "meta")), part(inputs, "init"), RATE, CLIP)
    for leaf, shape in SHAPES.items():
        shapes[f"update/{leaf}"] = (len(SCALES), *shape)
        for state in optimizer.state_names:
            shapes[f"state/{state}/{leaf}"] = np.shape(optimizer.state[state][leaf])
    with np.load(DATA / f"{name}_small.npz", allow_pickle=False) as file:
        packed = dict(file)
    data, used = {}, dict.fromkeys(packed, 0)
    for path, shape in shapes.items():
        group = path.partition("/")[0]
        start = used[group]
        used[group] += int(np.prod(shape))
        data[path] = packed[group][start : used[group]].reshape(shape)
    assert used == {group: value.size for group, value in packed.items()}
    return data


if __name__ == "__main__":
    for name in CLASSES:
        np.savez_compressed(DATA / f"{name}_small.npz", **pack(make_data(name)))
