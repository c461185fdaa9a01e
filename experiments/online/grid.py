"""Grids of agents' settings, and which of them go on in successive halving."""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from collections.abc import Sequence

from experiments.online.presets import Arm
from experiments.runs.grid import Axis, Values, grid, places
from experiments.settings import Settings

# No jax at import: whether the directories are free is said before it is loaded.


def arms(optimizer: str, axes: Sequence[Axis], fixed: Sequence[str]) -> dict[Values, Arm]:
    """What is trained at each combination of values.

    Args:
        optimizer: `NAME[@WEIGHTS][:key=value,...]`.
        axes: of the grid. A key is an option of the optimizer or a setting; `optimizer.KEY` and
            `set.KEY` say which.
        fixed: the settings that all have, `key=value`.

    Raises:
        ValueError: if a key is unknown, could be both, or is given a value elsewhere as well.
    """
    import optim
    from optim.spec import parse_options

    spec = optim.OptimizerSpec.parse(optimizer)
    known = {
        "optimizer": optim.option_names(spec),
        "set": list(typing.get_type_hints(Settings)),
    }
    given = {
        "optimizer": [key for key, _ in spec.options],
        "set": [text.partition("=")[0] for text in fixed],
    }
    found = places(axes, known, given)

    def arm(values: Values) -> Arm:
        options, settings = list(spec.options), []
        for (place, name), value in zip(found, values, strict=True):
            if place == "set":
                settings.append(f"{name}={value}")
            else:  # the syntax of values is the optimizers'
                options += parse_options(spec.name, f"{name}={value}")
        text = str(dataclasses.replace(spec, options=tuple(options)))
        label = f"{text} {','.join(settings)}" if settings else None
        return Arm(label, text, tuple(settings))

    return {values: arm(values) for values in grid(axes)}


def lengths(steps: int, settings: int, keep: int) -> list[int]:
    r"""Steps up to which each round of successive halving trains its settings.

    .. math:: R = \lceil \log_k n \rceil, \qquad
        t_i = \lceil T / k^{R - i} \rceil, \quad i = 1, \dots, R

    for n settings, of which each round leaves one in k, and T steps: every round costs about as
    much, and the last one compares up to k settings at full length.

    Args:
        steps: T.
        settings: n, more than `keep`.
        keep: k, at least 2.

    Examples:
        >>> lengths(100_000, 8, 2)
        [25000, 50000, 100000]
    """
    rounds = next(r for r in itertools.count(1) if keep**r >= settings)
    return [-(-steps // keep**later) for later in reversed(range(rounds))]


def kept(scores: Sequence[float], keep: int) -> list[int]:
    """Which settings go on after a round of successive halving: the best one in `keep`, rounded up.

    Args:
        scores: of the settings in the round. NaN counts as the worst, of equal ones the first goes
            on.
        keep: at least 2.

    Returns:
        Their places, in order.

    Examples:
        >>> kept([1.0, 4.0, 2.0, 3.0, 0.0], 2)
        [1, 2, 3]
    """
    order = sorted(
        range(len(scores)),
        key=lambda i: math.inf if math.isnan(scores[i]) else -scores[i],
    )
    return sorted(order[: -(-len(scores) // keep)])
