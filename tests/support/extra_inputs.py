"""The extra inputs that optimizers need beyond what a learner passes, in one table by name."""

from collections.abc import Callable, Mapping
from typing import Any

# Each is a function of the loss, itself a function from parameters to a scalar.
# Optimizers that are not named here need nothing; a learner passes the loss's value to all.
_NEEDED: Mapping[str, Callable[[Callable[[Any], Any]], dict[str, Any]]] = {
    "adahessian": lambda loss: {"obj_fn": loss},
    "sophia": lambda loss: {"obj_fn": loss},
}


def extra_inputs(name, loss):
    """Keyword arguments for `update` of the optimizer `name`."""
    return _NEEDED[name](loss) if name in _NEEDED else {}
