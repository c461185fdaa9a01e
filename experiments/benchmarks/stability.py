"""Does the stability test of `optim.diagnostics` foretell what a critic under Adam does?

    python -m experiments.benchmarks.stability [--out stability.csv] [--problems 2000] [--seed 0]

Each problem is a critic that is linear in random tanh features of 12 transitions, with a reward,
a discount, a target network, a size of rewards and a learning rate of its own. It is trained with
`optax.adam`, live throughout: after 1000 steps the tests read Adam's state and predict; 1000 more
steps show whether the norm of the TD error grew (mean of the last tenth over mean of the first).

Left out are the problems in the grey zone of the exact test (fewer than 3 e-foldings predicted over
the run, either way) and those whose error reached the precision of float64, where nothing can
shrink any more. The published test is judged on the same problems as the exact one, and says
'unstable' where its radius is above 1. The figure, next to the CSV, shows predicted against seen
growth.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.benchmarks import timing
from experiments.reports import figures
from experiments.reports.drawing import STYLE
from optim import diagnostics

TRANSITIONS = 12
FEATURES = 64
INPUTS = 4
WARM_UP = 1000
STEPS = 1000
EPS = 1e-4
PRECISION_FLOOR = 1e-12  # of the size of the rewards
POLYAK = (0.005, 0.01, 0.05, 0.2, 1.0)
DISCOUNTS = (0.9, 0.99)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem, what was predicted for it and what was seen."""

    index: int
    polyak: float
    discount: float
    learning_rate: float
    reward_size: float
    exact_radius: float
    published_radius: float
    predicted: float  # e-foldings over the run by the exact test
    published: float  # the same by the published test
    seen: float  # e-foldings of the TD error's norm over the run
    judged: bool  # outside the grey zone and above the precision floor
    exact_right: bool
    published_right: bool


def solve(problems: int, seed: int) -> list[Problem]:
    """Trains all problems, predicts and compares.

    Args:
        problems: how many.
        seed: of NumPy's generator, which draws them.

    Returns:
        One record a problem.
    """
    draw = np.random.default_rng(seed)

    def log_uniform(low: float, high: float) -> NDArray[np.float64]:
        return np.exp(draw.uniform(np.log(low), np.log(high), problems))

    numbers = {
        "polyak": np.resize(POLYAK, problems),
        "discount": draw.choice(DISCOUNTS, problems),
        "learning_rate": log_uniform(1e-4, 1e-2),
        "reward_size": log_uniform(1e-5, 1.0),
    }
    # Together these make about as many growing as dying errors outside the grey zone: far next
    # inputs have larger features than the present ones, steep features tell transitions apart.
    steepness, reach = log_uniform(0.3, 3.0), log_uniform(0.3, 4.0)
    weights = steepness[:, None, None] * draw.normal(size=(problems, INPUTS, FEATURES))
    offsets = draw.normal(size=(problems, 1, FEATURES))
    shape = (problems, TRANSITIONS, INPUTS)

    def features(inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.tanh(inputs @ weights + offsets) / np.sqrt(FEATURES)

    now = features(draw.normal(size=shape))
    following = features(reach[:, None, None] * draw.normal(size=shape))
    size = numbers["reward_size"][:, None]
    reward = size * draw.normal(size=(problems, TRANSITIONS))
    start = size * draw.normal(size=(problems, FEATURES))

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        train = jax.jit(jax.vmap(_train))
        errors, states = train(
            now,
            following,
            reward,
            start,
            *(numbers[name] for name in ("polyak", "discount", "learning_rate")),
        )
    errors, states = np.asarray(errors), jax.device_get(states)
    leaves, structure = jax.tree.flatten(states)
    states_of = [jax.tree.unflatten(structure, row) for row in zip(*leaves, strict=True)]
    rows = []
    for index in range(problems):
        number = {name: float(values[index]) for name, values in numbers.items()}
        test = diagnostics.stability(
            now[index],
            following[index],
            diagnostics.adam_preconditioner(states_of[index], eps=EPS),
            discount=number["discount"],
            learning_rate=number["learning_rate"],
            polyak=number["polyak"],
        )
        rows.append(_judge(index, number, test, errors[index], np.linalg.norm(reward[index])))
    return rows


def _train(
    now: jax.Array,
    following: jax.Array,
    reward: jax.Array,
    start: jax.Array,
    polyak: jax.Array,
    discount: jax.Array,
    learning_rate: jax.Array,
) -> tuple[jax.Array, optax.OptState]:
    """Norms of the TD error after the warm-up, shape (STEPS,), and Adam's state where they begin.

    The loss is the mean of squares over the transitions.
    """
    adam = optax.adam(learning_rate, eps=EPS)

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        params, target, state = carry
        error = now @ params - reward - discount * (following @ target)
        updates, state = adam.update(2.0 / TRANSITIONS * (error @ now), state, params)
        params = params + updates
        target = (1.0 - polyak) * target + polyak * params
        return (params, target, state), jnp.linalg.norm(error)

    warm, _ = jax.lax.scan(step, (start, start, adam.init(start)), length=WARM_UP)
    _, errors = jax.lax.scan(step, warm, length=STEPS)
    return errors, warm[2]


def _judge(
    index: int,
    number: dict[str, float],
    test: diagnostics.Stability,
    errors: NDArray[np.float64],
    scale: np.floating[Any],
) -> Problem:
    tenth = STEPS // 10
    with np.errstate(divide="ignore"):
        seen = float(np.log(errors[-tenth:].mean()) - np.log(errors[:tenth].mean()))
    above_floor = bool(errors.min() > PRECISION_FLOOR * scale)
    return Problem(
        index=index,
        **number,
        exact_radius=test.exact_radius,
        published_radius=test.published_radius,
        predicted=STEPS * float(np.log(test.exact_radius)),
        published=STEPS * float(np.log(test.published_radius)),
        seen=seen,
        judged=above_floor and test.verdict(STEPS) != "undecided",
        exact_right=(test.exact_radius > 1.0) == (seen > 0.0),
        published_right=(test.published_radius > 1.0) == (seen > 0.0),
    )


def summary(rows: Sequence[Problem]) -> dict[str, tuple[int, int]]:
    """Counts (right, judged) of both tests, also apart for errors that grew and that died.

    Examples:
        >>> row = Problem(0, 1.0, 0.9, 1e-3, 1.0, 0.99, 0.99, -10, -10, -9, True, True, True)
        >>> summary([row])["exact, died"], summary([row])["published, grew"]
        ((1, 1), (0, 0))
    """
    judged = [row for row in rows if row.judged]
    groups = {
        "all": judged,
        "grew": [row for row in judged if row.seen > 0.0],
        "died": [row for row in judged if row.seen <= 0.0],
    }
    return {
        f"{test}, {name}": (sum(getattr(row, f"{test}_right") for row in group), len(group))
        for test in ("exact", "published")
        for name, group in groups.items()
    }


def figure(rows: Sequence[Problem]) -> Figure:
    """Draws predicted against seen growth over the run, a panel for each test."""
    counts = summary(rows)
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(6.6, 3.3), layout="constrained")
        axes = drawing.subplots(1, 2, sharey=True)
        panels = (
            ("exact", "predicted", "Target network as a state"),
            ("published", "published", r"Published $S_\alpha$"),
        )
        for ax, (test, field, title) in zip(axes, panels, strict=True):
            for right, colour, marker in ((True, "#0072B2", "o"), (False, "#D55E00", "x")):
                chosen = [r for r in rows if r.judged and getattr(r, f"{test}_right") is right]
                ax.plot(
                    [getattr(row, field) for row in chosen],
                    [row.seen for row in chosen],
                    marker,
                    color=colour,
                    markersize=4,
                    linestyle="none",
                    label=f"{'right' if right else 'wrong'} ({len(chosen)})",
                )
            ax.axhline(0.0, color="#888888", linewidth=0.8)
            ax.axvline(0.0, color="#888888", linewidth=0.8)
            ax.set_xscale("symlog", linthresh=3.0)
            ax.set_yscale("symlog", linthresh=3.0)
            ax.set_title("{}: {} of {}".format(title, *counts[f"{test}, all"]), loc="left")
            ax.set_xlabel(f"Predicted e-foldings in {STEPS} steps")
            ax.legend(loc="lower right")
        axes[0].set_ylabel("Seen e-foldings")
    return drawing


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("stability.csv"), help="CSV to write")
    parser.add_argument("--problems", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the problems (default: 0)")
    arguments = parser.parse_args()
    if arguments.problems < 1:
        parser.error(f"--problems must be at least 1; got {arguments.problems}.")
    rows = solve(arguments.problems, arguments.seed)
    table = [
        {
            name: f"{value:.10g}" if isinstance(value, float) else value
            for name, value in dataclasses.asdict(row).items()
        }
        for row in rows
    ]
    timing.write(arguments.out, table, show=False)
    for kind in ("png", "svg"):
        arguments.out.with_suffix(f".{kind}").write_bytes(figures.render(figure(rows), kind))
    for name, (right, judged) in summary(rows).items():
        print(f"{name}: right in {right} of {judged}")


if __name__ == "__main__":
    main()
