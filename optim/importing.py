"""What a text names as `MODULE:NAME`: users' own optimizers, environments and architectures."""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from optim._checks import suggestion


def is_imported(name: str) -> bool:
    """Whether a name is of the form `MODULE:NAME`, and so is not one of ours.

    Args:
        name: what was asked for, without options.

    Returns:
        Whether `imported` is to find it.

    Examples:
        >>> is_imported("my_module:my_optimizer"), is_imported("adam"), is_imported("ant:a=1")
        (True, False, False)
    """
    return re.fullmatch(r"\w+(\.\w+)*:[^\W\d]\w*", name) is not None


def imported(what: str, name: str) -> Callable[..., Any]:
    """Imports the function or class that `MODULE:NAME` stands for.

    The module may be in the present folder, which is searched last and then stays on `sys.path`:
    what is installed comes first, whatever the folder holds.

    Args:
        what: what it is to make, in a word, for the messages.
        name: `MODULE:NAME`; a module in packages is `PACKAGE.MODULE`.

    Returns:
        The function or class.

    Raises:
        ValueError: if there is no such module, the module has no such name, or what has it cannot
            be called. What the module itself raises when it is imported is left as it is.

    Examples:
        >>> imported("optimizer", "optax:sgd").__name__
        'sgd'
        >>> imported("optimizer", "optax:sdg")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: optimizer 'optax:sdg' must name something in ...__init__.py, which has no \
'sdg'; the nearest is 'sgd'.
    """
    module_name, _, attribute = name.partition(":")
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # it is there, and lacks a module of its own
        hint = f"; leave out .py: {name.replace('.py:', ':')}" if ".py:" in name else ""
        raise ValueError(
            f"{what} {name!r} needs a module {error.name!r}, which is neither in the present "
            f"folder, {folder}, nor installed{hint}."
        ) from None
    file = getattr(module, "__file__", None) or module_name
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        hint = f"; {suggestion(attribute, known)}" if known else ""
        raise ValueError(
            f"{what} {name!r} must name something in {file}, which has no {attribute!r}{hint}."
        )
    found = getattr(module, attribute)
    if not callable(found):
        raise ValueError(
            f"{what} {name!r} must be a function or class that makes one, got "
            f"{_kind(found)} in {file}."
        )
    return found


def parameters_of(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What an imported function or class takes by name.

    Args:
        factory: as `imported` gives it.

    Returns:
        Names and parameters, with annotations that were written as text read where they can be.

    Examples:
        >>> import optax
        >>> list(parameters_of(optax.sgd))
        ['learning_rate', 'momentum', 'nesterov', 'accumulator_dtype']
    """
    try:
        signature = inspect.signature(factory, eval_str=True)
    except (NameError, SyntaxError, TypeError):
        signature = inspect.signature(factory)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {key: value for key, value in signature.parameters.items() if value.kind in named}


def made(
    what: str,
    name: str,
    kind: type,
    options: Mapping[str, Any],
) -> Any:
    """Makes what `MODULE:NAME` stands for.

    Args:
        what: what it is, in a word, for the messages.
        name: `MODULE:NAME`.
        kind: the class that the result must be of.
        options: arguments of the function or class, which are known to be allowed.

    Returns:
        The result.

    Raises:
        ValueError: see `imported`; or if an argument without a default is missing or the result is
            of another class.

    Examples:
        >>> import optax
        >>> made("optimizer", "optax:sgd", optax.GradientTransformation, {})
        Traceback (most recent call last):
        ...
        ValueError: 'optax:sgd' must be given the option 'learning_rate', which has no default.
    """
    factory = imported(what, name)
    for key, parameter in parameters_of(factory).items():
        if parameter.default is parameter.empty and key not in options:
            raise ValueError(f"{name!r} must be given the option {key!r}, which has no default.")
    result = factory(**options)
    if not isinstance(result, kind):
        wanted = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
        raise ValueError(f"{what} {name!r} must return an {wanted}, got {_kind(result)}.")
    return result


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"
