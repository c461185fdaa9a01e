"""The text that names an optimizer, and the check of the options in it."""

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np

from optim._checks import check_learning_rate, check_range, suggestion
from optim.chains import Piece, ends_in_piece, split_chain, written_chain
from optim.masks import allowed_mask, is_mask
from optim.weight_decay import DECAY_OPTIONS

Option = bool | int | float | str | None

_OWN_NAME = r"\w+(?:\.\w+)*:[^\W\d]\w*"  # MODULE:NAME, see `optim.importing`
_DECAY_RATES = frozenset({"b1", "b2", "b3", "adam_b1", "adam_b2"})


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer as named on the command line: `NAME[@WEIGHTS][:key=value,...]`.

    It may stand in a chain, `clip:0.5|l2:1e-4|NAME...|decoupled_decay:0.1`, see `optim.chains`.

    Attributes:
        name: name of the optimizer, see `optimizer_names`; or `MODULE:NAME` for a function of your
            own that makes one.
        weights: name or path of learned weights, or None.
        options: pairs of an argument's name and its value, in the order given; or a mapping.
        before: pairs of the name and number of what stands before it in a chain.
        after: the same of what stands after it.

    Raises:
        ValueError: if an option is given twice.

    Examples:
        >>> spec = OptimizerSpec.parse("adam:learning_rate=3e-4,b2=0.99")
        >>> spec.name, spec.learning_rate, dict(spec.options)["b2"]
        ('adam', 0.0003, 0.99)
        >>> str(spec)
        'adam:learning_rate=0.0003,b2=0.99'
        >>> OptimizerSpec.parse("open@breakout").weights
        'breakout'
        >>> OptimizerSpec.parse("my_module:my_optimizer:decay=0.5").name
        'my_module:my_optimizer'
        >>> OptimizerSpec.parse("clip:0.5|adam").before
        (('clip', 0.5),)
    """

    name: str
    weights: str | None = None
    options: tuple[tuple[str, Option], ...] = ()
    before: tuple[Piece, ...] = ()
    after: tuple[Piece, ...] = ()

    def __post_init__(self) -> None:
        pairs = self.options.items() if isinstance(self.options, Mapping) else self.options
        object.__setattr__(self, "options", tuple((key, value) for key, value in pairs))
        keys = [key for key, _ in self.options]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"option {key!r} of {self.name!r} must be given once.")

    @classmethod
    def parse(cls, text: str) -> "OptimizerSpec":
        """Reads a spec. Values are numbers, `true`, `false`, `none` or plain words.

        A path of weights may hold any character. Options begin after its last colon, if what
        follows reads `key=value,...`, holds no slash or backslash and does not end in
        `.safetensors`; otherwise all of it is the path. A colon at the very end closes the path and
        is not part of it, so that one can be named which itself seems to end in options.

        Only the syntax is checked here; `make` checks names and values.

        Args:
            text: the spec, for example `"adam:learning_rate=3e-4,b2=0.99"`.

        Returns:
            The spec. Its `str` is a text that reads as the same spec.

        Raises:
            ValueError: if the text is not of the form `NAME[@WEIGHTS][:key=value,...]`, alone or in
                a chain.

        Examples:
            >>> OptimizerSpec.parse("open@seed:1/b=c.safetensors").weights
            'seed:1/b=c.safetensors'
            >>> OptimizerSpec.parse("open@seed:1/b=c.safetensors:key=2").options
            (('key', 2),)
            >>> OptimizerSpec.parse("open@./file:key=2").weights
            './file'
            >>> OptimizerSpec.parse("open@./file:key=2:").weights
            './file:key=2'
        """
        form = "the form NAME[@WEIGHTS][:key=value,...]"
        before, own, after = split_chain(text.strip())
        match = re.fullmatch(rf"({_OWN_NAME}|\w+)(?:([@:])(.+))?", own.strip(), re.DOTALL)
        if match is None:
            raise ValueError(f"optimizer must have {form}, got {text!r}.")
        name, mark, tail = match.groups()
        weights = None
        if mark == "@":
            weights, tail = _split(tail)
            if not weights:
                raise ValueError(f"optimizer must have {form}, got {text!r}.")
        options = parse_options(name, tail) if tail else ()
        return cls(name, weights, options, before, after)

    @property
    def learning_rate(self) -> float | None:
        """The learning rate among the options, or None."""
        value = dict(self.options).get("learning_rate")
        if value is None:
            return None
        check_learning_rate(value)
        return float(value)

    def __str__(self) -> str:
        text = self.name + (f"@{self.weights}" if self.weights else "")
        if self.options:
            text += ":" + ",".join(f"{key}={_format_value(value)}" for key, value in self.options)
        elif self.weights and (
            _split(self.weights.rstrip()) != (self.weights, "") or ends_in_piece(self.weights)
        ):
            text += ":"  # which ends the path
        return written_chain(self.before, text, self.after)


def parse_options(name: str, text: str) -> tuple[tuple[str, Option], ...]:
    """Reads `key=value,...`, as it stands after an optimizer's name.

    Args:
        name: of what has the options, for the message.
        text: the options.

    Returns:
        Pairs of name and value, in the order given.

    Raises:
        ValueError: if the text is not of that form.

    Examples:
        >>> parse_options("adam", "b1=0.5,nesterov=true")
        (('b1', 0.5), ('nesterov', True))
    """
    options = []
    for item in text.split(","):
        if not _is_option(item):
            raise ValueError(f"options of {name!r} must have the form key=value, got {item!r}.")
        key, _, value = item.partition("=")
        options.append((key.strip(), _parse_value(value.strip())))
    return tuple(options)


def _split(text: str) -> tuple[str, str]:
    """Weights, and the options after them; see `OptimizerSpec.parse`."""
    weights, colon, tail = text.rpartition(":")
    in_path = "/" in tail or "\\" in tail or tail.endswith(".safetensors")
    if colon and not in_path and (not tail or all(map(_is_option, tail.split(",")))):
        return weights, tail
    return text, ""


def _is_option(text: str) -> bool:
    key, _, value = text.partition("=")
    return key.strip().isidentifier() and bool(value.strip())


def check_options(spec: OptimizerSpec, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Refuses options that a factory does not take, or not with that value.

    Args:
        spec: the spec.
        parameters: what the factory takes as options.

    Raises:
        ValueError: if an option is unknown or a value is not allowed.

    Examples:
        >>> import optax
        >>> parameters = inspect.signature(optax.adam).parameters
        >>> check_options(OptimizerSpec.parse("adam:b1=0.5"), parameters)
    """
    check_option_names(spec.name, dict(spec.options), parameters)
    for key, value in spec.options:
        _check_option(key, value, parameters[key])


def check_option_names(name: str, options: Iterable[str], parameters: Iterable[str]) -> None:
    """Refuses options by names that are unknown.

    Args:
        name: name of the optimizer, for the message.
        options: their names.
        parameters: the known names.

    Raises:
        ValueError: if one is unknown.

    Examples:
        >>> check_option_names("adam", ["beta1"], ["b1", "b2"])
        Traceback (most recent call last):
        ...
        ValueError: 'adam' has no option 'beta1'; the nearest is 'b1'.
    """
    for key in options:
        if key not in parameters:
            if key == "learning_rate":
                raise ValueError(f"{name!r} sets its own steps and has no option 'learning_rate'.")
            raise ValueError(f"{name!r} has no option {key!r}; {suggestion(key, parameters)}.")


def takes(parameter: inspect.Parameter) -> str | None:
    """Says in words what an option takes from a text; None if it can be set in Python only.

    Args:
        parameter: of the factory.

    Examples:
        >>> import optim
        >>> parameters = inspect.signature(optim.adamo).parameters
        >>> takes(parameters["heads"]), takes(parameters["tau"])
        ('true or false', 'a number or none')
    """
    if parameter.name == "learning_rate":
        return "a number"
    nullable = parameter.default is None or type(None) in _union_members(parameter.annotation)
    allowed = _allowed(parameter)
    return None if allowed is None else allowed[0] + (" or none" if nullable else "")


def _parse_value(text: str) -> Option:
    words: dict[str, Option] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _format_value(value: Option) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _check_option(key: str, value: Option, parameter: inspect.Parameter) -> None:
    """Checks an option's value against the parameter of the factory it is meant for."""
    if key == "learning_rate":
        check_learning_rate(value)
        return
    if key in DECAY_OPTIONS:
        check_range(key, value, 0.0)
        return
    nullable = parameter.default is None or type(None) in _union_members(parameter.annotation)
    if value is None and nullable:
        return
    allowed = _allowed(parameter)
    if allowed is None:
        is_told = parameter.annotation is not parameter.empty
        raise ValueError(
            f"{key} must be set in Python: "
            f"{'no text says its value' if is_told else 'its parameter has no type annotation'}."
        )
    words, is_allowed = allowed
    if not is_allowed(value):
        alternative = " or none" if nullable else ""
        raise ValueError(f"{key} must be {words}{alternative}, got {_format_value(value)}.")
    if key in _DECAY_RATES:
        check_range(key, value, 0.0, 1.0)
    elif key.endswith("_learning_rate"):  # of a part of the parameters
        check_range(key, value, 0.0, open_low=True)
    elif isinstance(value, float):
        check_range(key, value, -np.inf, np.inf)


def _allowed(parameter: inspect.Parameter) -> tuple[str, Callable[[Option], bool]] | None:
    """What a parameter takes from a spec, in words and as a test; None if nothing."""
    members = _union_members(parameter.annotation)
    default = parameter.default
    if is_mask(parameter.name):
        return allowed_mask(parameter, bool in members)
    if "dtype" in parameter.name:
        return "the name of a floating-point dtype", _is_float_dtype
    if get_origin(parameter.annotation) is Literal:
        choices = get_args(parameter.annotation)
        return f"one of {', '.join(choices)}", lambda value: value in choices
    is_required = default is parameter.empty
    if isinstance(default, str) or (is_required and members[0] is str):
        return "a name", lambda value: isinstance(value, str)
    if isinstance(default, bool) or ((default is None or is_required) and members[0] is bool):
        return "true or false", lambda value: isinstance(value, bool)
    is_tree = any(get_origin(member) in (Iterable, Mapping) for member in members)
    takes_number = isinstance(default, float) or ((default is None or is_required) and not is_tree)
    if isinstance(default, int) or (takes_number and int in members and float not in members):
        return "an integer", lambda value: isinstance(value, int) and not isinstance(value, bool)
    if isinstance(default, float) and parameter.annotation is parameter.empty:
        members = (float,)
    if takes_number and (float in members or jax.Array in members):
        return (
            "a number",
            lambda value: isinstance(value, int | float) and not isinstance(value, bool),
        )
    return None


def _union_members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _is_float_dtype(value: Option) -> bool:
    try:
        return isinstance(value, str) and bool(jnp.issubdtype(jnp.dtype(value), jnp.floating))
    except TypeError:
        return False
