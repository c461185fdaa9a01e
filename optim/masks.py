"""Masks in texts, which name the networks that they select."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from optim.by_network import network_mask


def is_mask(name: str) -> bool:
    """Whether an option is a mask, which a text gives by names of networks.

    Examples:
        >>> is_mask("matrix_mask"), is_mask("mask"), is_mask("unmasked")
        (True, True, False)
    """
    return name == "mask" or name.endswith("_mask")


def with_masks(options: Mapping[str, Any]) -> dict[str, Any]:
    """Makes masks of the networks that options name: `matrix_mask=critic`, `actor+critic`.

    Args:
        options: of an optimizer, which have been checked.

    Returns:
        The options, with functions of the parameters in the place of texts.

    Examples:
        >>> mask = with_masks({"kappa": 1.0, "matrix_mask": "critic"})["matrix_mask"]
        >>> mask({"actor": 1.0, "critic": 2.0})
        {'actor': False, 'critic': True}
    """
    masks = {key: network_mask(key, names) for key, names in _named(options).items()}
    return {**options, **masks}


def masked_networks(options: Mapping[str, Any]) -> set[str]:
    """The networks that masks among the options name.

    Examples:
        >>> sorted(masked_networks({"matrix_mask": "actor+critic", "kappa": 1.0}))
        ['actor', 'critic']
    """
    return {network for names in _named(options).values() for network in names}


def allowed_mask(parameter: inspect.Parameter, is_bool: bool) -> tuple[str, Callable[[Any], bool]]:
    """What a mask takes from a text, in words and as a test.

    Args:
        parameter: of the factory.
        is_bool: whether its annotation has truth values, for all leaves at once.

    Examples:
        >>> import optim
        >>> words, is_allowed = allowed_mask(
        ...     inspect.signature(optim.adamo).parameters["matrix_mask"], False)
        >>> is_allowed("critic"), is_allowed(True)
        (True, False)
    """
    takes_bool = is_bool or isinstance(parameter.default, bool)
    words = "names of networks joined by +, e.g. critic or actor+critic"

    def is_allowed(value: Any) -> bool:
        if isinstance(value, bool):
            return takes_bool
        return isinstance(value, str) and all(value.split("+"))

    return f"true, false or {words}" if takes_bool else words, is_allowed


def _named(options: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        key: value.split("+")
        for key, value in options.items()
        if is_mask(key) and isinstance(value, str)
    }
