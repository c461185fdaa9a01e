"""Optimizers by name, for those that take another one by its name.

The registry knows all optimizers, these too, and so cannot be imported by them. It enters what they
need of it here when it is imported, which `import optim` does.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from optim.spec import OptimizerSpec


class Names(NamedTuple):
    """What the registry offers; see its functions of the same names."""

    make: Callable[[OptimizerSpec, Any], optax.GradientTransformationExtraArgs]
    check_base: Callable[[str, Any], None]
    base_parameters: Callable[[str, Any], dict[str, inspect.Parameter]]


_known: list[Names] = []


def enter(names: Names) -> None:
    """Keeps what the registry offers; a later call takes the place of an earlier one."""
    _known[:] = [names]


def names() -> Names:
    """What the registry offers.

    Examples:
        >>> list(names().base_parameters("learned_correction", "sgd"))[:2]
        ['learning_rate', 'momentum']
    """
    (found,) = _known
    return found
