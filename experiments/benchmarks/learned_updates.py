"""Time of learned optimizers' updates relative to plain transcriptions of them, in one run.

    python -m experiments.benchmarks.learned_updates [--out learned_updates.csv] [--repeats 9]

The transcriptions, below, are what one writes down from the papers' equations with a network
applied to each leaf, (parameters, features) row by row; it is what the authors' codes compute. Both
are first shown to give the same updates. Networks: PPO's actor and critic on Breakout (59,908
parameters), for one agent and for 8 under `vmap`, and one agent with OPEN's larger size. Each call
runs a compiled scan of updates from the same gradients; a *meta-gradient* is that of the mean
parameter after them. `ratio` is the median over rounds of the transcription's time over ours in the
same round, `relative_to_adam` our time over `optax.adam`'s (updates alone, also beside the
meta-gradient). `temporary_mib` is what the compiled program needs beside its inputs and outputs.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optim
from agents import environments
from agents.ppo import PPOConfig, ppo
from experiments.benchmarks import timing

DECAYS = np.array([0.1, 0.5, 0.9, 0.99, 0.999, 0.9999], np.float32)


Architecture: TypeAlias = (
    optim.OPEN
    | optim.Optim4RL
    | optim.LinearOptim
    | optim.L2LGD2
    | optim.STAR
    | optim.LearnedCorrection
)


class Setting(NamedTuple):
    """What is timed."""

    name: str
    architecture: Architecture
    agents: int  # 0 is one, without vmap
    updates: int  # of a call
    differentiated: bool = False


SETTINGS = (
    Setting("open", optim.OPEN(), 0, 20),
    Setting("open, 8 agents", optim.OPEN(), 8, 4),
    Setting("open, 32 units", optim.OPEN(32, 16), 0, 8),
    Setting("optim4rl", optim.Optim4RL(), 0, 20),
    Setting("optim4rl, 8 agents", optim.Optim4RL(), 8, 4),
    Setting("optim4rl, meta-gradient", optim.Optim4RL(), 0, 8, differentiated=True),
    Setting("optim4rl, meta-gradient, 8 agents", optim.Optim4RL(), 8, 2, differentiated=True),
    Setting("linear_optim", optim.LinearOptim(), 0, 20),
    Setting("linear_optim, 8 agents", optim.LinearOptim(), 8, 4),
    Setting("linear_optim, meta-gradient", optim.LinearOptim(), 0, 8, differentiated=True),
    Setting("l2lgd2", optim.L2LGD2(), 0, 20),
    Setting("l2lgd2, 8 agents", optim.L2LGD2(), 8, 4),
    Setting("l2lgd2, meta-gradient", optim.L2LGD2(), 0, 8, differentiated=True),
    Setting("star", optim.STAR(), 0, 20),
    Setting("star, 8 agents", optim.STAR(), 8, 4),
    Setting("star, meta-gradient", optim.STAR(), 0, 8, differentiated=True),
    Setting("learned_correction", optim.LearnedCorrection(), 0, 20),
    Setting("learned_correction, 8 agents", optim.LearnedCorrection(), 8, 4),
)


class PlainState(NamedTuple):
    """State of the transcription; the last axis holds momenta, or the carry."""

    momenta: Any
    carry: Any
    key: jax.Array


def plain_open(architecture: optim.OPEN, meta_params: Any, noise: bool = True) -> Any:
    """OPEN, leaf by leaf and row by row.

    Args:
        architecture: its sizes.
        meta_params: its weights.
        noise: whether the actor's updates get any.

    Returns:
        The optimizer, for trees of an actor and a critic with layers `Dense_i`.
    """
    gru, mlp = meta_params["gru_params"], meta_params["params"]

    def init(params: Any) -> PlainState:
        def zeros(last: int) -> Any:
            return jax.tree.map(lambda p: jnp.zeros((*p.shape, last)), params)

        return PlainState(
            zeros(DECAYS.size),
            zeros(architecture.gru_features),
            jax.random.key_data(jax.random.key(0)),
        )

    def leaf(
        p: Any, g: Any, m: Any, h: Any, activity: Any, layer: float, key: Any, mask: float,
        training_progress: Any, batch_progress: Any,
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        m = DECAYS * m + (1 - DECAYS) * g[..., None]
        seen = jnp.concatenate(
            [p[..., None], jnp.sign(m), _log(m), jnp.sign(g)[..., None], _log(g)[..., None]],
            axis=-1,
        )
        axes = tuple(range(p.ndim))
        seen = seen * jax.lax.rsqrt(1e-5 + jnp.mean(seen**2, axis=axes, keepdims=True))
        activity = activity + 1e-11
        dormancy = activity / jnp.sum(jnp.abs(activity)) * activity.size
        rest = [
            jnp.broadcast_to(jnp.asarray(x, p.dtype), p.shape)[..., None]
            for x in (training_progress, layer, batch_progress, dormancy)
        ]
        h = _gru(gru, h, jnp.concatenate([seen, *rest], axis=-1))
        y = jax.nn.relu(_layer_norm(mlp["layers_1"], _dense(mlp["layers_0"], h)))
        y = jax.nn.relu(_layer_norm(mlp["layers_4"], _dense(mlp["layers_3"], y)))
        out = _dense(mlp["layers_6"], y)
        step = out[..., 0] * 1e-3 * jnp.exp(1e-3 * out[..., 1])
        return step + mask * out[..., 2] * jax.random.normal(key, p.shape) * 1e-3, m, h

    def update(
        grads: Any, state: PlainState, params: Any, *, activations: Any,
        training_progress: Any, batch_progress: Any,
    ) -> tuple[Any, PlainState]:  # fmt: skip
        leaves, treedef = jax.tree.flatten(params)
        paths = [path for path, _ in jax.tree.leaves_with_path(params)]
        layers = {net: len(params[net]) - 1 for net in params}
        key, draw = jax.random.split(state.key)
        results = [
            leaf(
                p, g, m, h, activity,
                int(path[1].key.rpartition("_")[2]) / layers[path[0].key],
                leaf_key, float(noise and path[0].key == "actor"),
                training_progress, batch_progress,
            )
            for path, p, g, m, h, activity, leaf_key in zip(
                paths, leaves,
                *map(jax.tree.leaves, (grads, state.momenta, state.carry, activations)),
                jax.random.split(draw, len(leaves)),
                strict=True,
            )
        ]  # fmt: skip
        steps, momenta, carry = (jax.tree.unflatten(treedef, x) for x in zip(*results, strict=True))
        mean = sum(jnp.sum(step) for step in jax.tree.leaves(steps)) / sum(p.size for p in leaves)
        return jax.tree.map(lambda step: mean - step, steps), PlainState(momenta, carry, key)

    return optax.GradientTransformationExtraArgs(init, update)


def plain_optim4rl(architecture: optim.Optim4RL, meta_params: Any) -> Any:
    """Optim4RL with a learning rate of 3e-4, leaf by leaf and row by row.

    Args:
        architecture: its sizes.
        meta_params: its weights.

    Returns:
        The optimizer.
    """

    def leaf(g: Any, h1: Any, h2: Any) -> tuple[Any, ...]:
        h1 = _gru(meta_params["rnn1"], h1, g)
        h2 = _gru(meta_params["rnn2"], h2, g**2)
        numerator = jnp.sign(g) * jnp.exp(_dense(meta_params["mlp1"]["layers_0"], h1))
        denominator = jnp.exp(_dense(meta_params["mlp2"]["layers_0"], h2))
        return numerator / jnp.sqrt(denominator + 1e-8), h1, h2

    return _plain_recurrent(architecture.hidden_size, 2, leaf)


def plain_linear_optim(architecture: optim.LinearOptim, meta_params: Any) -> Any:
    """LinearOptim, likewise.

    Args:
        architecture: its sizes.
        meta_params: its weights.

    Returns:
        The optimizer.
    """

    def leaf(g: Any, h: Any) -> tuple[Any, ...]:
        h = _gru(meta_params["rnn"], h, g)
        out = _dense(meta_params["mlp"]["layers_0"], h)
        return jnp.exp(out[..., :1]) * g + jnp.exp(out[..., 1:2]) * out[..., 2:], h

    return _plain_recurrent(architecture.hidden_size, 1, leaf)


def plain_l2lgd2(architecture: optim.L2LGD2, meta_params: Any) -> Any:
    """L2LGD2, likewise.

    Args:
        architecture: its sizes.
        meta_params: its weights.

    Returns:
        The optimizer.
    """

    def leaf(g: Any, h: Any) -> tuple[Any, ...]:
        size = jnp.log(jnp.abs(g) + 1e-8) / 10
        x = jnp.where(
            size >= -1,
            jnp.concatenate([size, jnp.sign(g)], axis=-1),
            jnp.concatenate([-jnp.ones_like(g), jnp.exp(10.0) * g], axis=-1),
        )
        h = _gru(meta_params["rnn"], h, x)
        return jnp.exp(_dense(meta_params["mlp"]["layers_0"], h)) * g, h

    return _plain_recurrent(architecture.hidden_size, 1, leaf)


def _plain_recurrent(hidden_size: int, networks: int, leaf: Callable[..., Any]) -> Any:
    def init(params: Any) -> Any:
        zeros = jax.tree.map(lambda p: jnp.zeros((*p.shape, hidden_size)), params)
        return (zeros,) * networks

    def update(grads: Any, state: Any, params: Any, **_: Any) -> tuple[Any, Any]:
        def step(g: Any, *hidden: Any) -> tuple[Any, ...]:
            direction, *hidden = leaf(
                jnp.clip(jax.lax.stop_gradient(g), -1.0, 1.0)[..., None], *hidden
            )
            return -3e-4 * direction[..., 0], *hidden

        results = jax.tree.map(step, grads, *state)
        inner = jax.tree.structure((0,) * (1 + networks))
        updates, *hidden = jax.tree.transpose(jax.tree.structure(grads), inner, results)
        return updates, tuple(hidden)

    return optax.GradientTransformationExtraArgs(init, update)


def plain_star(architecture: optim.STAR, meta_params: Any) -> Any:
    """STAR with a learning rate of 3e-4 and nominal steps of 1e-3, likewise.

    Args:
        architecture: its sizes.
        meta_params: its weights.

    Returns:
        The optimizer.
    """
    widths = len(architecture.mlp_widths)

    def decays(name: str, *initial: float) -> jax.Array:
        return 1 - (1 - jnp.array(initial)) * jnp.exp(10 * meta_params[name])

    def init(params: Any) -> Any:
        def zeros(p: Any) -> tuple[Any, ...]:
            rows, columns = (p.shape, p.shape) if p.ndim < 2 else _factors(p)
            return tuple(jnp.zeros((*shape, n)) for shape, n in (
                (p.shape, 3), (p.shape, 1), (rows, 3), (columns, 3),
            ))  # fmt: skip

        return jnp.zeros((), jnp.int32), jax.tree.map(zeros, params)

    def leaf(g: Any, p: Any, accumulated: Any, count: Any) -> tuple[Any, Any]:
        m, v, rows, columns = accumulated
        g = jnp.clip(g, -1.0, 1.0)[..., None]
        d = decays("momentum_decays", 0.9, 0.99, 0.999)
        m = d * m + (1 - d) * g
        d = decays("rms_decays", 0.999)
        v = d * v + (1 - d) * g**2
        d = decays("adafactor_decays", 0.9, 0.99, 0.999)
        squares = g**2 + 1e-30
        root = jax.lax.rsqrt(v + 1e-6)
        if p.ndim < 2:
            rows = columns = d * rows + (1 - d) * squares
            r = c = rows
            factored = g * jax.lax.rsqrt(r + 1e-9), m * jax.lax.rsqrt(r + 1e-6)
        else:
            smaller, larger = np.argsort(p.shape, kind="stable")[-2:]
            rows = d * rows + (1 - d) * jnp.mean(squares, axis=larger)
            columns = d * columns + (1 - d) * jnp.mean(squares, axis=smaller)
            r, c = jnp.expand_dims(rows, larger), jnp.expand_dims(columns, smaller)
            share = r / (jnp.mean(r, axis=smaller, keepdims=True) + 1e-9)
            factor = jax.lax.rsqrt(jnp.maximum(share, 1e-9))
            factor = factor * jax.lax.rsqrt(jnp.maximum(c, 1e-9))
            factored = g * factor, m * factor
            r, c = (jnp.broadcast_to(x, (*p.shape, 3)) for x in (r, c))
        x = jnp.concatenate(
            [
                g, p[..., None], m, v, m * root, root, factored[0], r, c,
                jax.lax.rsqrt(r + 1e-8), jax.lax.rsqrt(c + 1e-8), factored[1],
            ],
            axis=-1,
        )  # fmt: skip
        axes = tuple(range(p.ndim))
        x = x * jax.lax.rsqrt(1e-5 + jnp.mean(x**2, axis=axes, keepdims=True))
        scales = jnp.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])
        time = jnp.tanh(count / scales - 1)
        x = jnp.concatenate([x, jnp.broadcast_to(time, (*p.shape, 11))], axis=-1)
        for i in range(widths + 1):
            x = _dense(meta_params["mlp"][f"layers_{2 * i}"], jax.nn.relu(x) if i else x)
        step = 3e-4 * x[..., 0] * jnp.exp(1e-3 * x[..., 1])
        step = step + 1e-3 * jnp.exp(1e-3) * jnp.mean(m * root, axis=-1)
        return -step, (m, v, rows, columns)

    def update(grads: Any, state: Any, params: Any, **_: Any) -> tuple[Any, Any]:
        count, accumulated = state
        results = jax.tree.map(functools.partial(leaf, count=count), grads, params, accumulated)
        is_pair = lambda node: isinstance(node, tuple) and isinstance(node[1], tuple)  # noqa: E731
        updates, accumulated = (
            jax.tree.map(lambda pair, i=i: pair[i], results, is_leaf=is_pair) for i in (0, 1)
        )
        return updates, (count + 1, accumulated)

    return optax.GradientTransformationExtraArgs(init, update)


def plain_learned_correction(architecture: optim.LearnedCorrection, meta_params: Any) -> Any:
    """The learned correction of Adam with a learning rate of 1e-3, leaf by leaf.

    Args:
        architecture: its sizes.
        meta_params: its weights.

    Returns:
        The optimizer, for trees of an actor and a critic with layers `Dense_i`.
    """
    plain, mlp = meta_params["plain"], meta_params["mlp"]
    b1, b2 = 1 - np.array([0.1, 0.001], np.float32) * jnp.exp(plain["betas"])

    def mean(x: Any) -> Any:  # of large leaves, over every k-th row
        step = (x.size // 4096 - 1) // 2 * 2 + 1
        return jnp.mean(x[::step] if step > 1 else x)

    def size(x: Any) -> Any:
        return jnp.sqrt(mean(x**2))

    def share(x: Any, y: Any) -> Any:
        return jnp.where(y > 1e-12, x / jnp.where(y > 1e-12, y, 1), 0)

    def cosine(x: Any, y: Any) -> Any:
        return share(mean(x * y), size(x) * size(y))

    def init(params: Any) -> Any:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return zeros, zeros, params, jnp.zeros((), jnp.int32)

    def leaf(
        p: Any, g: Any, m: Any, v: Any, start: Any, activity: Any, *, layer: float, row: int,
        count: Any, training_progress: Any, batch_progress: Any,
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        m_hat, v_hat = m / (1 - b1**count), v / (1 - b2**count)
        x, away = m_hat / (jnp.sqrt(v_hat) + 1e-8), p - start
        now, then, both = size(p), size(start), jnp.sqrt(size(p) ** 2 + size(away) ** 2)
        seen = [
            jnp.minimum(share(size(m_hat), jnp.sqrt(mean(v_hat))), 1), cosine(g, m),
            cosine(-g, away), cosine(-g, p), share(now**2 - then**2, now**2 + then**2),
            share(size(away), both), layer, 1 - 2 * row, 1 if p.ndim > 1 else -1,
            jnp.mean(activity <= 0.025 * jnp.mean(activity)), training_progress, batch_progress,
        ]  # fmt: skip
        out = jnp.stack([jnp.asarray(y, p.dtype) for y in seen])
        for i in range(len(architecture.mlp_widths) + 1):
            out = _dense(mlp[f"layers_{2 * i}"], jnp.tanh(out) if i else out)
        times = jnp.stack([1 - training_progress, training_progress])
        step = jnp.exp(out[0] / 2 + plain["step"][row] @ times)
        decay = out[2] / 2 + plain["decay"][row] @ times
        u = step * (1 + jnp.tanh(out[1] / 2) * jnp.sign(g) * jnp.sign(x)) * x
        pulls = decay * share(p, now) + out[3] / 2 * share(away, both)
        return -1e-3 * (u + 0.2 * size(x) * pulls), m, v

    def update(
        grads: Any, state: Any, params: Any, *, activations: Any,
        training_progress: Any, batch_progress: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        *trees, count = state
        leaves, treedef = jax.tree.flatten(params)
        paths = [path for path, _ in jax.tree.leaves_with_path(params)]

        def result(path: Any, *arrays: Any) -> tuple[Any, Any, Any]:
            network, layer = path[0].key, int(path[1].key.rpartition("_")[2])
            return leaf(
                *arrays, layer=layer / (len(params[network]) - 1), row=int(network == "critic"),
                count=count + 1, training_progress=training_progress, batch_progress=batch_progress,
            )  # fmt: skip

        mirrors = map(jax.tree.leaves, (grads, *trees, activations))
        results = [result(*of_leaf) for of_leaf in zip(paths, leaves, *mirrors, strict=True)]
        updates, m, v = (jax.tree.unflatten(treedef, x) for x in zip(*results, strict=True))
        return updates, (m, v, trees[2], count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def _factors(p: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes without the largest and without the second largest axis."""
    smaller, larger = np.argsort(p.shape, kind="stable")[-2:]
    without = lambda axis: tuple(np.delete(p.shape, axis).tolist())  # noqa: E731
    return without(larger), without(smaller)


PLAIN: dict[type, Callable[..., Any]] = {
    optim.OPEN: plain_open,
    optim.Optim4RL: plain_optim4rl,
    optim.LinearOptim: plain_linear_optim,
    optim.L2LGD2: plain_l2lgd2,
    optim.STAR: plain_star,
    optim.LearnedCorrection: plain_learned_correction,
}


def _gru(gru: Any, h: Any, x: Any) -> Any:
    reset = jax.nn.sigmoid(_dense(gru["ir"], x) + _dense(gru["hr"], h))
    keep = jax.nn.sigmoid(_dense(gru["iz"], x) + _dense(gru["hz"], h))
    new = jnp.tanh(_dense(gru["in"], x) + reset * _dense(gru["hn"], h))
    return (1 - keep) * new + keep * h


def _log(x: Any) -> Any:
    return jnp.log(jnp.abs(x) + 1e-13)


def _dense(layer: Any, x: Any) -> Any:
    y = x @ layer["kernel"]
    return y + layer["bias"] if "bias" in layer else y


def _layer_norm(layer: Any, x: Any) -> Any:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(x * x, axis=-1, keepdims=True) - mean * mean
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6) * layer["scale"] + layer["bias"]


def _breakout() -> tuple[Any, Any]:
    """Parameters of PPO's networks, and a tree like `activations`."""
    learner = ppo(environments.make("Breakout-MinAtar"), PPOConfig(iterations=1), optax.sgd(1.0))
    params = jax.jit(learner.init)(jax.random.key(0)).params
    params = {name: network.get("params", network) for name, network in params.items()}
    return params, jax.tree.map(lambda p: 0.1 + jnp.abs(jnp.sin(jnp.arange(p.shape[-1]))), params)


def _gradients(params: Any) -> Any:
    return jax.tree.map(
        lambda p: jnp.cos(37 * p + jnp.arange(p.size, dtype=p.dtype).reshape(p.shape)), params
    )


def _meta_params(architecture: Architecture) -> Any:
    """Random ones, with biases and scales that are not 0 and 1."""
    leaves, treedef = jax.tree.flatten(architecture.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        treedef,
        [
            leaf + 0.1 * jax.random.normal(key, leaf.shape)
            for key, leaf in zip(keys, leaves, strict=True)
        ],
    )


def _scan(
    build: Callable[[Any], Any], meta_params: Any, setting: Setting
) -> tuple[Callable[[], Any], float]:
    """A compiled function that does the setting's updates, and its temporary memory in MiB."""
    params, activations = _breakout()

    def updated(meta_params: Any, params: Any, state: Any, grads: Any) -> Any:
        optimizer = build(meta_params)

        def step(both: Any, _: None) -> tuple[Any, None]:
            params, state = both
            updates, state = optimizer.update(
                grads, state, params, activations=activations,
                training_progress=jnp.float32(0.3), batch_progress=jnp.float32(0.5),
            )  # fmt: skip
            return (jax.tree.map(jnp.add, params, updates), state), None

        return jax.lax.scan(step, (params, state), length=setting.updates)[0]

    def gradient(meta_params: Any, *rest: Any) -> Any:
        def mean(meta_params: Any) -> jax.Array:
            leaves = jax.tree.leaves(updated(meta_params, *rest)[0])
            return sum(map(jnp.sum, leaves)) / sum(leaf.size for leaf in leaves)

        return jax.grad(mean)(meta_params)

    run = gradient if setting.differentiated else updated
    init = build(meta_params).init
    if setting.agents:
        scale = 1 + 0.01 * jnp.arange(setting.agents, dtype=jnp.float32)
        params = jax.tree.map(lambda p: jax.vmap(jnp.multiply, (0, None))(scale, p), params)
        run, init = jax.vmap(run, in_axes=(None, 0, 0, 0)), jax.vmap(init)
    arguments = (meta_params, params, jax.jit(init)(params), _gradients(params))
    compiled = jax.jit(run).lower(*arguments).compile()
    analysis = compiled.memory_analysis()
    memory = analysis.temp_size_in_bytes / 2**20 if analysis else float("nan")
    return lambda: compiled(*arguments), memory


def check(architecture: Architecture) -> float:
    """Largest difference between ours and the transcription after 10 updates, without noise."""
    setting, meta_params = Setting("", architecture, 0, 10), _meta_params(architecture)
    is_noisy = isinstance(architecture, optim.OPEN)
    plain_options: dict[str, Any] = {"noise": False} if is_noisy else {}
    our_options: dict[str, Any] = {"noise_mask": False} if is_noisy else {}
    results = [
        _scan(build, meta_params, setting)[0]()[0]
        for build in (
            functools.partial(PLAIN[type(architecture)], architecture, **plain_options),
            functools.partial(architecture.transform, **our_options),
        )
    ]
    differences = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), *results)
    return float(max(jax.tree.leaves(differences)))


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("learned_updates.csv"), help="CSV to write"
    )
    parser.add_argument("--repeats", type=int, default=9, help="rounds (default: 9)")
    arguments = parser.parse_args()
    circumstances = timing.circumstances()
    rows = []
    for setting in SETTINGS:
        if (difference := check(setting.architecture)) > 1e-6:
            raise SystemExit(f"{setting.name}: updates differ by {difference:g}.")
        meta_params = _meta_params(setting.architecture)
        programs = {
            "transcription": _scan(
                functools.partial(PLAIN[type(setting.architecture)], setting.architecture),
                meta_params,
                setting,
            ),
            "ours": _scan(setting.architecture.transform, meta_params, setting),
            "adam": _scan(
                lambda _: optax.with_extra_args_support(optax.adam(1e-3)),
                None,
                setting._replace(differentiated=False),
            ),
        }
        seconds = timing.interleaved(
            {name: run for name, (run, _) in programs.items()}, arguments.repeats
        )
        for name, times in seconds.items():
            ratio = timing.median_ratio(seconds["transcription"], times)
            rows.append(
                {
                    "setting": setting.name,
                    "update": name,
                    "milliseconds": f"{statistics.median(times) / setting.updates * 1e3:.2f}",
                    "ratio": f"{ratio:.2f}",
                    "relative_to_adam": f"{timing.median_ratio(times, seconds['adam']):.0f}",
                    "temporary_mib": f"{programs[name][1]:.1f}",
                }
                | circumstances
            )
    timing.write(arguments.out, rows)


if __name__ == "__main__":
    main()
