"""How tasks change while a learner learns: in phases or continuously, by the learner's clock.

The clock counts the environment steps that the learner has done. It is an input of the dynamics, so
that resets, checkpoints and seeds that are trained side by side all agree on it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

KINDS = ("phases", "linear", "sinusoidal")
TABLE_ROWS = 1000  # after so many phases a table begins again


def parse_span(name: str, value: Any) -> tuple[float, float]:
    """Reads the two ends of what a quantity runs through.

    Args:
        name: of the option, for the error.
        value: a text, `"0.02..2"`, a pair of numbers, or one number for both.

    Returns:
        The ends as they were given; the first may be the larger.

    Raises:
        ValueError: if these are not two finite numbers above 0.

    Examples:
        >>> parse_span("friction", "0.02..2"), parse_span("friction", 1)
        ((0.02, 2.0), (1.0, 1.0))
    """
    parts = value.split("..") if isinstance(value, str) else value
    if isinstance(parts, int | float):
        parts = (parts, parts)
    try:
        ends = tuple(float(part) for part in parts)
        if len(ends) == 1:
            ends *= 2
        if len(ends) == 2 and all(0.0 < end < math.inf for end in ends):
            return ends[0], ends[1]
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"option {name!r} must be two numbers above 0, written LOW..HIGH; got {value!r}."
    )


def span_text(span: tuple[float, float]) -> str:
    """A span as `parse_span` reads it, always in the same spelling.

    Examples:
        >>> span_text((0.02, 2.0))
        '0.02..2'
    """
    return "..".join(repr(end).removesuffix(".0") for end in span)


def phase_of(clock: jax.Array | int, phase_steps: int) -> jax.Array:
    """Row of a table in which the clock is; the table begins again after its last.

    Args:
        clock: environment steps that the learner has done.
        phase_steps: length of a phase.

    Returns:
        An int32 scalar.
    """
    return (jnp.asarray(clock, jnp.int32) // phase_steps) % TABLE_ROWS


@dataclasses.dataclass(frozen=True)
class Schedule:
    r"""A positive quantity as a function of the learner's clock t.

    With ends a and b, and a length of :math:`\tau` steps,

    .. math::
        \text{phases:}\quad & x(t) = x_{\lfloor t / \tau \rfloor}, \qquad
            \log x_k \sim U[\log \min(a, b), \log \max(a, b)] \\
        \text{linear:}\quad & x(t) = a + (b - a)\, \min(t / \tau, 1) \\
        \text{sinusoidal:}\quad & x(t) = a + (b - a)\, (1 - \cos(2 \pi t / \tau)) / 2

    The table :math:`x_k` is drawn from `seed`, once for all; the first phase is drawn as well. It
    holds `TABLE_ROWS` phases and then begins again.

    Attributes:
        ends: a and b.
        steps: length of a phase, of the way from a to b, or of a period.
        kind: one of `KINDS`.
        seed: of the table.

    Examples:
        >>> friction = Schedule((0.5, 2.0), steps=100, kind="linear")
        >>> [float(friction.value(t)) for t in (0, 50, 1000)]
        [0.5, 1.25, 2.0]
    """

    ends: tuple[float, float]
    steps: int
    kind: str = "phases"
    seed: int = 0

    @property
    def is_constant(self) -> bool:
        """Whether it is one number all the time."""
        return self.ends[0] == self.ends[1]

    def table(self, columns: int = 1) -> NDArray[np.float32]:
        """The phases' values, of shape (`TABLE_ROWS`, columns); each column is drawn on its own."""
        low, high = sorted(self.ends)
        shares = np.random.default_rng(self.seed).random((TABLE_ROWS, columns))
        return np.clip(low * (high / low) ** shares, low, high).astype(np.float32)

    def value(self, clock: jax.Array | int) -> jax.Array:
        """The quantity at a time, a float32 scalar."""
        if self.kind == "phases":
            return jnp.asarray(self.table()[:, 0])[phase_of(clock, self.steps)]
        return self._between(clock)

    def worn(self, clock: jax.Array | int, parts: int) -> jax.Array:
        r"""Strengths of parts that wear out, a float32 vector.

        In phases, every part has a table of its own, and never recovers: its strength is the least
        of its draws so far, :math:`\min_{j \le k} x_j`. Otherwise all have `value`.
        """
        if self.kind == "phases":
            least = np.minimum.accumulate(self.table(parts), axis=0)
            return jnp.asarray(least)[phase_of(clock, self.steps)]
        return jnp.broadcast_to(self._between(clock), (parts,))

    def _between(self, clock: jax.Array | int) -> jax.Array:
        start, end = self.ends
        clock = jnp.asarray(clock, jnp.int32)
        if self.kind == "linear":
            share = jnp.minimum(clock.astype(jnp.float32) / self.steps, 1.0)
        else:
            # Within the period first: float32 holds whole numbers up to 2**24 only.
            turn = (clock % self.steps).astype(jnp.float32) / self.steps
            share = 0.5 * (1.0 - jnp.cos(2.0 * math.pi * turn))
        return jnp.asarray(start + (end - start) * share, jnp.float32)


def phase_table(draw: Callable[[np.random.Generator], Any], first: Any, seed: int) -> NDArray[Any]:
    """Draws of all phases, each different from the one before it.

    Args:
        draw: makes a draw.
        first: of the first phase.
        seed: of the draws.

    Returns:
        An array of shape `(TABLE_ROWS, *shape of a draw)`.
    """
    generator = np.random.default_rng(seed)
    rows = [np.asarray(first)]
    while len(rows) < TABLE_ROWS:
        row = np.asarray(draw(generator))
        if not np.array_equal(row, rows[-1]):
            rows.append(row)
    return np.stack(rows)
