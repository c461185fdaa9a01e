"""Chains in texts: what is done to gradients before an optimizer, and to its updates after it."""

import re
from typing import Any

import optax

from optim._checks import check_range
from optim.clipping import clip_by_network_norm
from optim.weight_decay import with_weight_decay

Piece = tuple[str, float]

FORM = (
    "the form [clip:NORM|][l2:FACTOR|]OPTIMIZER[|decoupled_decay:FACTOR][|clip:NORM], with pieces "
    "in any number and order on their side of one optimizer"
)
_BEFORE, _AFTER = ("clip", "l2"), ("clip", "decoupled_decay")
_PIECE = r"\s*({names})\s*:([^|:@=,]+)"
_FIRST = re.compile(_PIECE.format(names="|".join(_BEFORE)) + r"\|")
_LAST = re.compile(r"\|" + _PIECE.format(names="|".join(_AFTER)) + "$")
_ALONE = re.compile(_PIECE.format(names="|".join({*_BEFORE, *_AFTER})))
_MISPLACED = {
    "l2": "before the optimizer, whose gradient it changes",
    "decoupled_decay": "after the optimizer, beside whose update the parameters shrink",
}


def split_chain(text: str) -> tuple[tuple[Piece, ...], str, tuple[Piece, ...]]:
    """Tells what stands before and after the optimizer of a chain from the optimizer.

    Args:
        text: `PIECE|...|OPTIMIZER|PIECE|...`. Before the optimizer a piece is `clip:NORM` or
            `l2:FACTOR`, after it `clip:NORM` or `decoupled_decay:FACTOR`.

    Returns:
        The pieces before it, its text, and the pieces after it, each in the order of the text.

    Raises:
        ValueError: if the number of a piece is none or it stands on the wrong side, or there is
            more than one optimizer.

    Examples:
        >>> split_chain("clip:0.5|l2:1e-4|adamo:kappa=1|decoupled_decay:0.1")
        ((('clip', 0.5), ('l2', 0.0001)), 'adamo:kappa=1', (('decoupled_decay', 0.1),))
        >>> split_chain("adam|l2:1e-4")
        Traceback (most recent call last):
        ...
        ValueError: l2 must stand before the optimizer, whose gradient it changes, got \
'adam|l2:1e-4'.
    """
    before: list[Piece] = []
    after: list[Piece] = []
    rest = text
    while match := _FIRST.match(rest):
        before.append(_piece(*match.groups()))
        rest = rest[match.end() :]
    while match := _LAST.search(rest):
        after.insert(0, _piece(*match.groups()))
        rest = rest[: match.start()]
    if _ALONE.fullmatch(rest):
        raise ValueError(f"a chain must have {FORM}; got {text!r}, without an optimizer.")
    if "|" in rest.partition("@")[0]:  # a path of weights may hold one
        for part in rest.split("|"):
            name = part.partition(":")[0].strip()
            if name in _MISPLACED:
                raise ValueError(f"{name} must stand {_MISPLACED[name]}, got {text!r}.")
        raise ValueError(f"a chain must have {FORM}; got {text!r}.")
    return tuple(before), rest, tuple(after)


def ends_in_piece(text: str) -> bool:
    """Whether a text that stands alone would be read as a chain.

    Examples:
        >>> ends_in_piece("adam|clip:1"), ends_in_piece("open@a|b")
        (True, False)
    """
    return _LAST.search(text) is not None


def written_chain(before: tuple[Piece, ...], text: str, after: tuple[Piece, ...]) -> str:
    """The text of a chain, as `split_chain` reads it.

    Examples:
        >>> written_chain((("clip", 0.5),), "adam", ())
        'clip:0.5|adam'
    """
    written = [[f"{name}:{number}" for name, number in pieces] for pieces in (before, after)]
    return "|".join([*written[0], text, *written[1]])


def chained(
    before: tuple[Piece, ...],
    optimizer: optax.GradientTransformation,
    after: tuple[Piece, ...],
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer with the pieces of a chain around it.

    Gradients go through the pieces from left to right. `clip` is `optim.clip_by_network_norm`;
    `l2` and `decoupled_decay` are those of `optim.with_weight_decay`.

    Args:
        before: pieces before the optimizer.
        optimizer: any transformation.
        after: pieces after it.
        learning_rate: of the decoupled decay.

    Returns:
        The chain.

    Raises:
        ValueError: if a number is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> chain = chained((("clip", 1.0),), optax.sgd(0.5), (("decoupled_decay", 1.0),), 0.5)
        >>> params = {"actor": jnp.ones(1)}
        >>> updates, _ = chain.update({"actor": 3 * jnp.ones(1)}, chain.init(params), params)
        >>> print(updates["actor"])
        [-1.]
    """
    result = optax.with_extra_args_support(optimizer)
    for name, number in after:
        if name == "clip":
            result = optax.chain(result, _clip(number))
        else:
            result = with_weight_decay(result, decoupled_decay=number, learning_rate=learning_rate)
    for name, number in reversed(before):
        if name == "clip":
            result = optax.chain(_clip(number), result)
        else:
            result = with_weight_decay(result, l2=number)
    return result


def _piece(name: str, text: str) -> Piece:
    try:
        return name, float(text)
    except ValueError:
        raise ValueError(
            f"{name} in a chain must be given a number, e.g. {name}:0.5, got {text.strip()!r}."
        ) from None


def _clip(number: Any) -> optax.GradientTransformation:
    check_range("clip", number, 0.0, float("inf"), open_low=True, closed_high=True)
    return clip_by_network_norm(number)
