"""Optimizers by name, and the text that names one on the command line."""

import dataclasses
import functools
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from optim._batching import in_turn
from optim._checks import check_learning_rate, check_range, nearest
from optim._promotion import with_standard_promotion
from optim.adabound import adabound, amsbound
from optim.adahessian import adahessian
from optim.adam_rel import adam_rel
from optim.adamo import adamo
from optim.adamod import adamod
from optim.adamp import adamp, sgdp
from optim.aegd import aegd
from optim.cautious import cautious_adamw
from optim.critical_momenta import adam_cm
from optim.exadam import exadam
from optim.kron import kron
from optim.l2lgd2 import l2lgd2
from optim.linear_optim import linear_optim
from optim.mars import mars
from optim.meta_params import ARCHITECTURES, load, without_weights
from optim.open import open_optimizer
from optim.optim4rl import optim4rl
from optim.periodic_reset import adam_reset
from optim.sania import sania
from optim.star import star
from optim.subset_norm import subset_norm
from optim.subspace_momentum import subspace_momentum
from optim.swats import swats
from optim.trac import trac_adam
from optim.tvlars import tvlars

Option = bool | int | float | str | None
Factory = Callable[..., optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class OptimizerDetails:
    """What there is to know about one of our own optimizers before choosing it.

    Attributes:
      factory: Builds it from a learning rate, or meta-parameters if it is learned, and options.
      summary: One line, with a full stop, shorter than 90 characters.
      paper: Authors, year and arXiv number.
      inputs: What ``update`` needs besides gradients and parameters, of what a learner has, or
        "none".
      state: Numbers kept for each parameter.
      cost: Computation on top of Adam's, or "none".
      package: The optional package that it needs, or None.
    """

    factory: Factory
    summary: str
    paper: str
    inputs: str = "none"
    state: str = "2"
    cost: str = "none"
    package: str | None = None


# Our own optimizers, one block each, sorted.
_OWN: dict[str, OptimizerDetails] = {
    "adabound": OptimizerDetails(
        factory=adabound,
        summary="AdaBound: Adam with bounds on its step sizes that close in on SGD's.",
        paper="Luo et al., 2019, arXiv 1902.09843",
    ),
    "adahessian": OptimizerDetails(
        factory=adahessian,
        summary="AdaHessian: Adam scaled by the Hessian's diagonal instead of the gradient.",
        paper="Yao et al., 2021, arXiv 2006.00719",
        inputs="obj_fn or hvp",
        cost="one Hessian-vector product, about two gradients",
    ),
    "adam_cm": OptimizerDetails(
        factory=adam_cm,
        summary="Adam with critical momenta: adds the mean of five past momenta.",
        paper="Malviya et al., 2024, arXiv 2307.09638",
        state="7",
        cost="a sum over the buffer of momenta",
    ),
    "adam_rel": OptimizerDetails(
        factory=adam_rel,
        summary="Adam-Rel: Adam whose step count starts anew with every new objective.",
        paper="Ellis et al., 2024, arXiv 2412.17113",
        inputs="reset or a period",
    ),
    "adam_reset": OptimizerDetails(
        factory=adam_reset,
        summary="Adam whose moments and step count are reset with every new objective.",
        paper="Asadi et al., 2023, arXiv 2306.17833",
        inputs="reset or a period",
    ),
    "adamo": OptimizerDetails(
        factory=adamo,
        summary="AdamO: Adam with a bounded pull of weight matrices to orthogonality.",
        paper="Qiao et al., 2026, arXiv 2605.01968",
        cost="two products of each matrix with itself",
    ),
    "adamod": OptimizerDetails(
        factory=adamod,
        summary="AdaMod: Adam whose step sizes may not exceed their long-term average.",
        paper="Ding et al., 2019, arXiv 1910.12249",
        state="3",
    ),
    "adamp": OptimizerDetails(
        factory=adamp,
        summary="AdamP: AdamW without the steps that only lengthen scale-invariant weights.",
        paper="Heo et al., 2021, arXiv 2006.08217",
        cost="a few norms and inner products of each matrix",
    ),
    "aegd": OptimizerDetails(
        factory=aegd,
        summary="AEGD: gradient descent with an energy for each parameter that only falls.",
        paper="Liu and Tian, 2020, arXiv 2010.05109",
        inputs="value",
        state="1",
    ),
    "amsbound": OptimizerDetails(
        factory=amsbound,
        summary="AMSBound: AdaBound with the largest second moment so far.",
        paper="Luo et al., 2019, arXiv 1902.09843",
        state="3",
    ),
    "cautious_adamw": OptimizerDetails(
        factory=cautious_adamw,
        summary="Cautious AdamW: only the entries of a step that go down the present gradient.",
        paper="Liang et al., 2024, arXiv 2411.16085",
    ),
    "exadam": OptimizerDetails(
        factory=exadam,
        summary="EXAdam: Adam with moments that correct each other, plus the gradient itself.",
        paper="Adly, 2024, arXiv 2412.20302",
    ),
    "kron": OptimizerDetails(
        factory=kron,
        summary="PSGD-Kron: the momentum, whitened by a learned Kronecker product.",
        paper="Li, 2015, arXiv 1512.04202; as used by Castanyer et al., 2025, arXiv 2506.15544",
        state="1, and for each matrix the squares of its sides",
        cost="products of each matrix with square ones, triangular solves",
        package="psgdax",
    ),
    "mars": OptimizerDetails(
        factory=mars,
        summary="MARS: AdamW on gradients corrected by their change, and clipped.",
        paper="Yuan et al., 2024, arXiv 2411.10438",
        inputs="none; if exact, obj_fn or previous_gradient",
        state="3",
        cost="none; if exact, one more gradient",
    ),
    "sania": OptimizerDetails(
        factory=sania,
        summary="SANIA: Polyak's step on a diagonal preconditioner, invariant to scaling.",
        paper="Abdukhakimov et al., 2023, arXiv 2312.17369",
        inputs="value",
        state="1",
    ),
    "sgdp": OptimizerDetails(
        factory=sgdp,
        summary="SGDP: SGD without the steps that only lengthen scale-invariant weights.",
        paper="Heo et al., 2021, arXiv 2006.08217",
        state="1",
        cost="a few norms and inner products of each matrix",
    ),
    "subset_norm": OptimizerDetails(
        factory=subset_norm,
        summary="Subset-norm Adam: one second moment for each row or column of a matrix.",
        paper="Nguyen and Nguyen, 2024, arXiv 2411.07120",
        state="1, and one for each subset",
    ),
    "subspace_momentum": OptimizerDetails(
        factory=subspace_momentum,
        summary="Subspace momentum: momentum in a few directions of each matrix only.",
        paper="Nguyen and Nguyen, 2024, arXiv 2411.07120",
        state="rank / shorter side of each matrix; 1 for other leaves",
        cost="now and then a singular value decomposition of each matrix",
    ),
    "swats": OptimizerDetails(
        factory=swats,
        summary="SWATS: Adam that switches to SGD, with a learning rate that it estimates.",
        paper="Keskar and Socher, 2017, arXiv 1712.07628",
        cost="two inner products",
    ),
    "trac": OptimizerDetails(
        factory=trac_adam,
        summary="TRAC over Adam: one scale of the displacement from the start, tuned online.",
        paper="Muppidi et al., 2024, arXiv 2405.16642",
        state="4, or 3 with exact_reference",
    ),
    "tvlars": OptimizerDetails(
        factory=tvlars,
        summary="TVLARS: steps in proportion to each layer's weights, on a sigmoid curve.",
        paper="Do et al., 2023, arXiv 2309.14053",
        state="1",
        cost="two norms of each leaf",
    ),
}

# Learned ones, which are used with weights: NAME@WEIGHTS.
_LEARNED: dict[str, OptimizerDetails] = {
    "l2lgd2": OptimizerDetails(
        factory=l2lgd2,
        summary="L2LGD2: a network gives the logarithm of a factor of each gradient.",
        paper="Andrychowicz et al., 2016, arXiv 1606.04474; as in Lan et al., 2024, "
        "arXiv 2302.01470",
        state="8, the hidden size",
        cost="a GRU and a dense layer for each parameter",
    ),
    "linear_optim": OptimizerDetails(
        factory=linear_optim,
        summary="LinearOptim: a network gives each gradient a factor and an offset.",
        paper="Lan et al., 2024, arXiv 2302.01470",
        state="8, the hidden size",
        cost="a GRU and a dense layer for each parameter",
    ),
    "open": OptimizerDetails(
        factory=open_optimizer,
        summary="OPEN: a network gives steps and noise, told of progress, layer and dormancy.",
        paper="Goldie et al., 2024, arXiv 2407.07082",
        inputs="activations, training_progress and batch_progress, each optional",
        state="14: 6, and the features of the GRU",
        cost="a GRU and a perceptron for each parameter",
    ),
    "optim4rl": OptimizerDetails(
        factory=optim4rl,
        summary="Optim4RL: two networks give the logarithms of Adam's two moments.",
        paper="Lan et al., 2024, arXiv 2302.01470",
        state="16, twice the hidden size",
        cost="two GRUs and dense layers for each parameter",
    ),
    "star": OptimizerDetails(
        factory=star,
        summary="STAR: a network's steps on Adam's and Adafactor's features, beside nominal ones.",
        paper="Harrison et al., 2022, arXiv 2209.11208; as in Lan et al., 2024, arXiv 2302.01470",
        state="4, and 6 for each row and column of a matrix",
        cost="a perceptron with 39 inputs for each parameter",
    ),
}

# What optax offers besides, and why it is no name here.
_EXCLUDED = {
    "dpsgd": "it needs one gradient per example, a clipping norm and a noise level",
    "mechanize": "it wraps another optimizer",
    "polyak_sgd": "its step size is computed from the loss, it takes no learning_rate",
    "sam": "it wraps another optimizer",
    "schedule_free": "it wraps another optimizer; try schedule_free_adamw or schedule_free_sgd",
}

# optax asks for a key here, or warns. It also draws the same noise in every vmapped seed.
_DEFAULTS: dict[str, dict[str, Option]] = {"noisy_sgd": {"key": 0}}

# These multiply by the learning rate themselves and take no function for it.
_WITHOUT_SCHEDULE = frozenset({"optimistic_adam", "rprop", "sm3"})

# optax's line searches fail on any argument that is not theirs or the loss's.
_ONLY_EXTRAS = {"lbfgs": ("value", "grad", "value_fn")}

# These decompose matrices, see `in_turn`. Ours see to it themselves.
_IN_TURN = frozenset({"galore"})

_DECAY_RATES = frozenset({"b1", "b2", "b3", "adam_b1", "adam_b2"})


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer as named on the command line: ``NAME[@WEIGHTS][:key=value,...]``.

    Attributes:
      name: Name of the optimizer, see :func:`optimizer_names`.
      weights: Name or path of learned weights, without ``:``, or None.
      options: Pairs of an argument's name and its value, in the order given; or a mapping.

    Raises:
      ValueError: If an option is given twice.

    Example:
      >>> spec = OptimizerSpec.parse("adam:learning_rate=3e-4,b2=0.99")
      >>> spec.name, spec.learning_rate, dict(spec.options)["b2"]
      ('adam', 0.0003, 0.99)
      >>> str(spec)
      'adam:learning_rate=0.0003,b2=0.99'
      >>> OptimizerSpec.parse("open@breakout").weights
      'breakout'
    """

    name: str
    weights: str | None = None
    options: tuple[tuple[str, Option], ...] = ()

    def __post_init__(self) -> None:
        pairs = self.options.items() if isinstance(self.options, Mapping) else self.options
        object.__setattr__(self, "options", tuple((key, value) for key, value in pairs))
        keys = [key for key, _ in self.options]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"option {key!r} of {self.name!r} must be given once.")

    @classmethod
    def parse(cls, text: str) -> "OptimizerSpec":
        """Reads a spec. Values are numbers, ``true``, ``false``, ``none`` or plain words.

        Only the syntax is checked here; :func:`make` checks names and values.

        Args:
          text: The spec, for example ``"adam:learning_rate=3e-4,b2=0.99"``.

        Returns:
          The spec.

        Raises:
          ValueError: If the text is not of the form ``NAME[@WEIGHTS][:key=value,...]``.
        """
        head, colon, tail = text.strip().partition(":")
        name, at, weights = head.partition("@")
        if not re.fullmatch(r"\w+", name) or (at and not weights) or (colon and not tail):
            raise ValueError(
                f"optimizer must have the form NAME[@WEIGHTS][:key=value,...], got {text!r}."
            )
        options = []
        for item in tail.split(",") if colon else []:
            key, equals, value = (part.strip() for part in item.partition("="))
            if not (key.isidentifier() and equals and value):
                raise ValueError(f"options of {name!r} must have the form key=value, got {item!r}.")
            options.append((key, _parse_value(value)))
        return cls(name, weights or None, tuple(options))

    @property
    def learning_rate(self) -> float | None:
        """The learning rate among the options, or None."""
        value = dict(self.options).get("learning_rate")
        if value is None:
            return None
        check_learning_rate(value)
        return float(value)

    def __str__(self) -> str:
        weights = f"@{self.weights}" if self.weights else ""
        options = ",".join(f"{key}={_format_value(value)}" for key, value in self.options)
        return f"{self.name}{weights}" + (f":{options}" if options else "")


def optimizer_names() -> list[str]:
    """Lists the optimizers that :func:`make` builds, sorted.

    They are ours and every optimizer of ``optax`` and ``optax.contrib`` that needs no more than a
    learning rate to build, and no more than gradients, parameters and the loss, as a number and
    as a function, to run.

    Returns:
      The names.

    Example:
      >>> {"adam", "adamo", "lion", "muon"} <= set(optimizer_names())
      True
    """
    return sorted(_factories())


def learned_names() -> list[str]:
    """Lists the learned optimizers, which :func:`make` builds from ``NAME@WEIGHTS``, sorted.

    Returns:
      The names.

    Example:
      >>> learned_names()
      ['l2lgd2', 'linear_optim', 'open', 'optim4rl', 'star']
    """
    return sorted(ARCHITECTURES)


def describe(name: str) -> str:
    """Describes an optimizer in one line.

    Args:
      name: One of :func:`optimizer_names` or :func:`learned_names`.

    Returns:
      The line.

    Raises:
      ValueError: If the name is unknown.

    Example:
      >>> describe("adam")
      'The Adam optimizer.'
    """
    if known := details(name):
        return known.summary
    factory = _factory(name)
    if isinstance(factory, functools.partial):
        fixed = ", ".join(f"{key}={value}" for key, value in factory.keywords.items())
        return f"optax.{factory.func.__name__} with {fixed}."
    paragraph = (inspect.getdoc(factory) or f"optax's {name}.").split("\n\n")[0]
    return " ".join(paragraph.split())


def details(name: str) -> OptimizerDetails | None:
    """Tells paper, inputs, state and cost of one of our own optimizers.

    Args:
      name: One of :func:`optimizer_names` or :func:`learned_names`.

    Returns:
      The details; None if the optimizer is optax's.

    Raises:
      ValueError: If the name is unknown.

    Example:
      >>> details("adamo").paper
      'Qiao et al., 2026, arXiv 2605.01968'
      >>> details("adam") is None
      True
    """
    if name in _LEARNED:
        return _LEARNED[name]
    _factory(name)
    return _OWN.get(name)


def accepts_schedule(name: str) -> bool:
    """Says whether an optimizer takes a schedule as its learning rate; all take a tracer.

    Args:
      name: One of :func:`optimizer_names` or :func:`learned_names`; the latter take none.

    Returns:
      Whether ``make(name, schedule)`` works.

    Raises:
      ValueError: If the name is unknown.

    Example:
      >>> accepts_schedule("adam"), accepts_schedule("rprop")
      (True, False)
    """
    if name in ARCHITECTURES:
        return False
    _factory(name)
    return name not in _WITHOUT_SCHEDULE


def make(
    spec: OptimizerSpec | str, learning_rate: optax.ScalarOrSchedule | None = None
) -> optax.GradientTransformationExtraArgs:
    """Builds an optimizer from its name or spec.

    Args:
      spec: A spec, or its text; a bare name is one.
      learning_rate: Number greater than 0, tracer or schedule. A learning rate among the spec's
        options comes first. Learned optimizers, which set their own steps, are given none.

    Returns:
      The optimizer. It accepts any extra argument and also runs under strict dtype promotion.

    Raises:
      ValueError: If the optimizer, its weights or an option is unknown, a value is not allowed, or
        there is no learning rate.
      OSError: If a file of weights cannot be read.

    Example:
      >>> import jax.numpy as jnp
      >>> optimizer = make("sgd:momentum=0.9", learning_rate=0.1)
      >>> params = jnp.ones(2)
      >>> updates, _ = optimizer.update(params, optimizer.init(params), params, value=jnp.ones(()))
      >>> print(updates)
      [-0.1 -0.1]
    """
    if isinstance(spec, str):
        spec = OptimizerSpec.parse(spec)
    if spec.name in ARCHITECTURES:
        return _make_learned(spec, learning_rate)
    factory = _factory(spec.name)
    if spec.weights is not None:
        raise ValueError(f"{spec.name!r} has no learned weights, got weights {spec.weights!r}.")
    _check_options(spec, inspect.signature(factory).parameters)
    options: dict[str, Any] = _DEFAULTS.get(spec.name, {}) | dict(spec.options)
    options.setdefault("learning_rate", learning_rate)
    rate = options["learning_rate"]
    if rate is None:
        raise ValueError(f"learning_rate must be given for {spec.name!r}, here or as an option.")
    check_learning_rate(rate)
    if callable(rate) and not accepts_schedule(spec.name):
        raise ValueError(f"learning_rate must be a number for {spec.name!r}, got a schedule.")
    try:
        optimizer = with_standard_promotion(factory(**options))
    except ImportError as error:
        raise ValueError(str(error)) from error
    if spec.name in _ONLY_EXTRAS:
        return _with_only(optimizer, _ONLY_EXTRAS[spec.name])
    if spec.name in _IN_TURN:
        return _updated_in_turn(optimizer)
    return optimizer


def _make_learned(
    spec: OptimizerSpec, learning_rate: optax.ScalarOrSchedule | None
) -> optax.GradientTransformationExtraArgs:
    if spec.weights is None:
        raise without_weights(spec.name)
    parameters = dict(inspect.signature(ARCHITECTURES[spec.name].transform).parameters)
    for key in ("self", "meta_params"):
        parameters.pop(key)
    _check_options(spec, parameters)
    if learning_rate is not None:
        hint = "; it can be an option" if "learning_rate" in parameters else ""
        raise ValueError(
            f"learning_rate must be None for {spec.name!r}, which sets its own steps, got "
            f"{learning_rate!r}{hint}."
        )
    return load(f"{spec.name}@{spec.weights}", **dict(spec.options))


def _check_options(spec: OptimizerSpec, parameters: Mapping[str, inspect.Parameter]) -> None:
    for key, value in spec.options:
        if key not in parameters:
            raise ValueError(
                f"{spec.name!r} has no option {key!r}; the nearest is {nearest(key, parameters)!r}."
            )
        _check_option(key, value, parameters[key])


def _with_only(
    optimizer: optax.GradientTransformationExtraArgs, names: tuple[str, ...]
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that is passed those extra arguments and no others."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        passed = {name: extra_args[name] for name in names if name in extra_args}
        return optimizer.update(updates, state, params, **passed)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _updated_in_turn(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that ``vmap`` lets update one member after the other; it takes no extras."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        del extra_args
        return in_turn(optimizer.update)(updates, state, params)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


@functools.cache
def _factories() -> dict[str, Factory]:
    """Ours, then optax's, then those of optax.contrib; the first of a name counts."""
    factories = {name: own.factory for name, own in _OWN.items()}
    for module in (optax, optax.contrib):
        for name, member in sorted(vars(module).items()):
            if _is_optimizer(name, member):
                factories.setdefault(name, member)
    return factories


def _is_optimizer(name: str, member: Any) -> bool:
    """Whether a member of optax is an optimizer that a learning rate is enough to build."""
    # What is called scale_by_... is one part of an optimizer: a direction or a step size.
    if name.startswith(("_", "scale_by_")) or name in _EXCLUDED:
        return False
    if not isinstance(member, types.FunctionType | functools.partial):
        return False
    parameters = inspect.signature(member).parameters
    required = {
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    return "learning_rate" in parameters and required <= {"learning_rate"}


def _factory(name: str) -> Factory:
    factories = _factories()
    if name in factories:
        return factories[name]
    if name in _EXCLUDED:
        raise ValueError(f"optimizer {name!r} cannot be used by name: {_EXCLUDED[name]}.")
    known = [*factories, *ARCHITECTURES]
    raise ValueError(f"unknown optimizer {name!r}; the nearest is {nearest(name, known)!r}.")


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
    nullable = parameter.default is None or type(None) in _union_members(parameter.annotation)
    if value is None and nullable:
        return
    allowed = _allowed(parameter)
    if allowed is None:
        raise ValueError(f"{key} must be set in Python, it takes no value from a spec.")
    words, is_allowed = allowed
    if not is_allowed(value):
        alternative = " or none" if nullable else ""
        raise ValueError(f"{key} must be {words}{alternative}, got {_format_value(value)}.")
    if key in _DECAY_RATES:
        check_range(key, value, 0.0, 1.0)
    elif isinstance(value, float):
        check_range(key, value, -np.inf, np.inf)


def _allowed(parameter: inspect.Parameter) -> tuple[str, Callable[[Option], bool]] | None:
    """What a parameter takes from a spec, in words and as a test; None if nothing."""
    members = _union_members(parameter.annotation)
    default = parameter.default
    if "dtype" in parameter.name:
        return "the name of a floating-point dtype", _is_float_dtype
    if get_origin(parameter.annotation) is Literal:
        choices = get_args(parameter.annotation)
        return f"one of {', '.join(choices)}", lambda value: value in choices
    if isinstance(default, bool) or (default is None and members[0] is bool):
        return "true or false", lambda value: isinstance(value, bool)
    is_tree = any(get_origin(member) in (Iterable, Mapping) for member in members)
    takes_number = isinstance(default, float) or (default is None and not is_tree)
    if isinstance(default, int) or (takes_number and int in members and float not in members):
        return "an integer", lambda value: isinstance(value, int) and not isinstance(value, bool)
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
