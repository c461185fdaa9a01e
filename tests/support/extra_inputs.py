"""The extra inputs that optimizers need beyond what a learner passes, in one table by name."""

from collections.abc import Callable, Mapping
from typing import Any

# Each is a function of the loss (from parameters to a scalar), the parameters and the loss's value.
# Optimizers that are not named here need nothing.
_NEEDED: Mapping[str, Callable[[Callable[[Any], Any], Any, Any], dict[str, Any]]] = {}


def extra_inputs(name, loss, params, value):
    """Keyword arguments for `update` of the optimizer `name`."""
    return _NEEDED[name](loss, params, value) if name in _NEEDED else {}
