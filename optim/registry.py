"""Optimizers by name."""

import dataclasses
import functools
import inspect
import types
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from optim import _by_name
from optim._batching import in_turn
from optim._checks import check_learning_rate, suggestion
from optim._leaves import key_of_seed
from optim._promotion import with_standard_promotion
from optim.by_network import by_network
from optim.catalogue import LEARNED, OWN, Factory, OptimizerDetails
from optim.chains import chained
from optim.extra_args import with_only_extra_args
from optim.importing import imported, is_imported, made, parameters_of
from optim.learned.meta_params import (
    ARCHITECTURES,
    load_weights,
    transform_options,
    without_weights,
)
from optim.masks import with_masks
from optim.network_specs import NetworkSpecs, parse_spec
from optim.spec import (
    OptimizerSpec,
    Option,
    check_option_names,
    check_options,
    parse_options,
)
from optim.weight_decay import DECAY_OPTIONS, split_decay, with_weight_decay

# What optax offers besides, and why it is no name here.
_EXCLUDED = {
    "dpsgd": "it needs one gradient per example, a clipping norm and a noise level",
    "mechanize": "it wraps another optimizer",
    "polyak_sgd": "its step size is computed from the loss, it takes no learning_rate",
    "sam": "it wraps another optimizer",
    "schedule_free": "it wraps another optimizer; try schedule_free_adamw or schedule_free_sgd",
}

# optax asks for a key here, or warns.
_DEFAULTS: dict[str, dict[str, Option]] = {"noisy_sgd": {"key": 0}}

# These draw from a key in their state that is the same in every vmapped seed. Ours see to it.
_DRAWING = frozenset({"noisy_sgd", "sophia"})

# These multiply by the learning rate themselves and take no function for it.
_WITHOUT_SCHEDULE = frozenset({"optimistic_adam", "rprop", "sm3"})

# optax's line searches fail on any argument that is not theirs or the loss's.
_ONLY_EXTRAS = {"lbfgs": ("value", "grad", "value_fn")}

# These set the parameters, whatever has been added to them.
_OWN_COPIES = frozenset({"cocob", "madgrad", "schedule_free_adamw", "schedule_free_sgd", "trac"})

# These decompose matrices, see `in_turn`. Ours see to it themselves.
_IN_TURN = frozenset({"galore"})


def optimizer_names() -> list[str]:
    """Lists the optimizers that `make` builds, sorted.

    They are ours and every optimizer of `optax` and `optax.contrib` that needs no more than a
    learning rate to build, and no more than gradients, parameters and the loss, as a number and
    as a function, to run.

    Returns:
        The names.

    Examples:
        >>> {"adam", "adamo", "lion", "muon"} <= set(optimizer_names())
        True
    """
    return sorted(_factories())


def learned_names() -> list[str]:
    """Lists the learned optimizers, which `make` builds from `NAME@WEIGHTS`, sorted.

    Returns:
        The names.

    Examples:
        >>> learned_names()
        ['l2lgd2', 'learned_correction', 'linear_optim', 'open', 'optim4rl', 'star', 'velo']
    """
    return sorted(ARCHITECTURES)


def describe(name: str) -> str:
    """Describes an optimizer in one line.

    Args:
        name: one of `optimizer_names` or `learned_names`.

    Returns:
        The line.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> describe("adam")
        'The Adam optimizer.'
    """
    if known := details(name):
        return known.summary
    factory = _factory(name)
    if is_imported(name):
        text = inspect.getdoc(factory) or f"{name}, which has no docstring."
        return " ".join(text.split("\n\n")[0].split())
    if isinstance(factory, functools.partial):
        fixed = ", ".join(f"{key}={value}" for key, value in factory.keywords.items())
        return f"optax.{factory.func.__name__} with {fixed}."
    paragraph = (inspect.getdoc(factory) or f"optax's {name}.").split("\n\n")[0]
    return " ".join(paragraph.split())


def details(name: str) -> OptimizerDetails | None:
    """Tells paper, inputs, state and cost of one of our own optimizers.

    Args:
        name: one of `optimizer_names` or `learned_names`.

    Returns:
        The details; None if the optimizer is optax's or a user's.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> details("adamo").paper
        'Qiao et al., 2026, arXiv 2605.01968'
        >>> details("adam") is None
        True
    """
    if name in LEARNED:
        return LEARNED[name]
    if not is_imported(name):
        _factory(name)
    return OWN.get(name)


def accepts_schedule(name: OptimizerSpec | str) -> bool:
    """Says whether an optimizer takes a schedule as its learning rate; all take a tracer.

    Args:
        name: one of `optimizer_names` or `learned_names`; the latter take none. Or a spec, which
            names the base of an optimizer that wraps another.

    Returns:
        Whether `make(name, schedule)` works.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> accepts_schedule("adam"), accepts_schedule("rprop")
        (True, False)
    """
    spec = OptimizerSpec.parse(name) if isinstance(name, str) else name
    _check_name(spec.name)
    return not sets_own_steps(spec) and base_name(spec) not in _WITHOUT_SCHEDULE


def sets_own_steps(spec: OptimizerSpec | str) -> bool:
    """Says whether an optimizer is given no learning rate, as learned ones are not.

    Args:
        spec: a spec, or its text.

    Returns:
        Whether it is learned, or a user's own that takes no argument `learning_rate`.

    Raises:
        ValueError: if it is a user's own that is not found.

    Examples:
        >>> sets_own_steps("open@breakout"), sets_own_steps("adam")
        (True, False)
    """
    spec = OptimizerSpec.parse(spec) if isinstance(spec, str) else spec
    name = base_name(spec)
    return "learning_rate" not in _parameters(name) if is_imported(name) else name in ARCHITECTURES


def option_names(name: OptimizerSpec | str) -> list[str]:
    """Lists what a spec of an optimizer may set, e.g. `b1` in `adam:b1=0.5`.

    A few of these, such as `mask`, take no value from a text: `make` says so.

    Args:
        name: one of `optimizer_names` or `learned_names`. Or a spec, which names the base of an
            optimizer that wraps another, whose options are listed too; without it that is Adam.

    Returns:
        The names.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> option_names("linear_optim")
        ['learning_rate', 'grad_clip', 'l2', 'decoupled_decay']
    """
    return list(option_parameters(name))


def option_parameters(name: OptimizerSpec | str) -> dict[str, inspect.Parameter]:
    """What a spec of an optimizer may set, with defaults and annotations.

    Args:
        name: see `option_names`.

    Returns:
        Parameters by name.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> option_parameters("adam")["b1"].default
        0.9
    """
    spec = OptimizerSpec.parse(name) if isinstance(name, str) else name
    if spec.name in ARCHITECTURES:
        return transform_options(spec.name, dict(spec.options))
    if not _wraps(spec.name):
        return {**_parameters(spec.name), **DECAY_OPTIONS}
    kind, default = inspect.Parameter.KEYWORD_ONLY, OWN[spec.name].base
    base = {"base": inspect.Parameter("base", kind, default=default, annotation=str)}
    return {**_own_options(spec.name), **base, **option_parameters(base_name(spec))}


def documented(name: OptimizerSpec | str) -> list[Any]:
    """What has docstrings of the options of an optimizer, the most telling last.

    Args:
        name: see `option_names`.

    Returns:
        Functions and methods.

    Raises:
        ValueError: if the name is unknown.

    Examples:
        >>> [function.__name__ for function in documented("parseval:base=lion")]
        ['with_weight_decay', 'lion', 'parseval']
    """
    spec = OptimizerSpec.parse(name) if isinstance(name, str) else name
    if spec.name in ARCHITECTURES:
        return [with_weight_decay, ARCHITECTURES[spec.name].transform, LEARNED[spec.name].factory]
    if _wraps(spec.name):
        return [*documented(base_name(spec)), OWN[spec.name].factory]
    factory = _factory(spec.name)
    return [with_weight_decay, getattr(factory, "func", factory)]


def base_name(spec: OptimizerSpec | str) -> str:
    """Tells which optimizer takes the steps: the base of one that wraps another, or itself.

    Args:
        spec: a spec, or its text.

    Returns:
        The name.

    Raises:
        ValueError: if `base` is given but is not the name of an optimizer that can be wrapped.

    Examples:
        >>> base_name("adam:b1=0.8"), base_name("weight_clipping:base=lion")
        ('adam', 'lion')
    """
    spec = OptimizerSpec.parse(spec) if isinstance(spec, str) else spec
    if not _wraps(spec.name):
        return spec.name
    base = dict(spec.options).get("base", OWN[spec.name].base)
    check_base(spec.name, base)
    return str(base)


def check_base(name: str, base: Any) -> None:
    """Refuses what an optimizer cannot wrap.

    Args:
        name: name of the optimizer that wraps.
        base: what is to be the name of the other.

    Raises:
        ValueError: if it is not the name of an optimizer that can be wrapped.

    Examples:
        >>> check_base("weight_clipping", "trac")
        Traceback (most recent call last):
        ...
        ValueError: base must be another optimizer for 'weight_clipping' than 'trac', which works \
out the parameters from copies of its own and would undo what is done to them.
    """
    if not isinstance(base, str) or base.partition("@")[0] in ARCHITECTURES or _wraps(base):
        raise ValueError(
            "base must be the name of an optimizer that is not learned and wraps no other for "
            f"{name!r}, got {base!r}."
        )
    _factory(base)
    if base in _OWN_COPIES and (name in ARCHITECTURES or OWN[name].wraps == "updates"):
        raise ValueError(
            f"base must be another optimizer for {name!r} than {base!r}, which works out the "
            "parameters from copies of its own and would undo what is done to them."
        )


def base_parameters(name: str, base: Any) -> dict[str, inspect.Parameter]:
    """What an optimizer that takes a base by name may hand on to it.

    Args:
        name: name of the optimizer that wraps.
        base: name of the other.

    Returns:
        Names and parameters, without weight decay.

    Raises:
        ValueError: if it is not the name of an optimizer that can be wrapped.

    Examples:
        >>> list(base_parameters("learned_correction", "lion"))[:3]
        ['learning_rate', 'b1', 'b2']
    """
    check_base(name, base)
    return _parameters(base)


def make(
    spec: OptimizerSpec | NetworkSpecs | str,
    learning_rate: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Builds an optimizer from its name or spec.

    Args:
        spec: a spec, or specs of several networks, or a text of either; a bare name is one.
        learning_rate: number greater than 0, tracer or schedule. A learning rate among the spec's
            options comes first. Learned optimizers, which set their own steps, are given none.

    Beside its own options, any spec may hold `l2` and `decoupled_decay`, see `with_weight_decay`;
    the latter is times the learning rate, schedules included, and for learned optimizers times 1.
    Muon leaves what is no matrix to Adam; `adam_learning_rate` is Adam's there, and changes as the
    learning rate does if that is a schedule.

    An optimizer that wraps another takes the option `base`, the name of that other, which is Adam
    without it: `weight_clipping:base=lion,b1=0.95,kappa=2`. Options that it does not know are the
    base's; so are the learning rate and weight decay.

    A name of the form `MODULE:NAME` is a function of a user's own that returns an optimizer; if it
    takes an argument `learning_rate` it is given one. In a chain, `clip:0.5|l2:1e-4|adam`, the
    gradients go through the pieces before the optimizer and the updates through those after it, see
    `optim.chains`. Specs of networks, `actor=adam+critic=adamo:kappa=1`, make `by_network` of them;
    the learning rate is for those that take one.

    Returns:
        The optimizer. It accepts any extra argument and also runs under strict dtype promotion.

    Raises:
        ValueError: if the optimizer, its weights or an option is unknown, a value is not allowed,
            there is no learning rate, or the optimizer would undo a `decoupled_decay`.
        OSError: if a file of weights cannot be read.

    Examples:
        >>> import jax.numpy as jnp
        >>> optimizer = make("sgd:momentum=0.9", learning_rate=0.1)
        >>> params = jnp.ones(2)
        >>> state = optimizer.init(params)
        >>> updates, _ = optimizer.update(params, state, params, value=jnp.ones(()))
        >>> print(updates)
        [-0.1 -0.1]
        >>> optimizer = make("actor=sgd+critic=clip:1|sgd:learning_rate=1", 0.1)
        >>> params = {"actor": jnp.ones(1), "critic": 3 * jnp.ones(1)}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> print(updates["actor"], updates["critic"])
        [-0.1] [-1.]
    """
    if isinstance(spec, str):
        spec = parse_spec(spec)
    if isinstance(spec, NetworkSpecs):
        return by_network(
            {
                name: make(part, None if sets_own_steps(part) else learning_rate)
                for name, part in spec.specs
            }
        )
    if spec.before or spec.after:
        return _make_chain(spec, learning_rate)
    if spec.name in ARCHITECTURES:
        return _make_learned(spec, learning_rate)
    _check_name(spec.name)
    if spec.weights is not None:
        raise ValueError(f"{spec.name!r} has no learned weights, got weights {spec.weights!r}.")
    if _wraps(spec.name):
        return _make_around_base(spec, learning_rate)
    if is_imported(spec.name):
        return _make_imported(spec, learning_rate)
    factory = _factory(spec.name)
    check_options(spec, {**_parameters(spec.name), **DECAY_OPTIONS})
    own, decay = split_decay(dict(spec.options))
    options: dict[str, Any] = _DEFAULTS.get(spec.name, {}) | own
    options.setdefault("learning_rate", learning_rate)
    rate = options["learning_rate"]
    if rate is None:
        raise ValueError(f"learning_rate must be given for {spec.name!r}, here or as an option.")
    check_learning_rate(rate)
    if callable(rate) and options.get("adam_learning_rate") is not None:
        options["adam_learning_rate"] = _falling_alike(rate, options["adam_learning_rate"])
    if callable(rate) and not accepts_schedule(spec.name):
        raise ValueError(f"learning_rate must be a number for {spec.name!r}, got a schedule.")
    if spec.name in _OWN_COPIES and decay.get("decoupled_decay"):
        raise ValueError(
            f"decoupled_decay must be 0 for {spec.name!r}, which works out the parameters from "
            "copies of its own and would undo it; l2 has an effect."
        )
    try:
        optimizer = with_standard_promotion(factory(**with_masks(options)))
    except ImportError as error:
        raise ValueError(str(error)) from error
    if spec.name in _ONLY_EXTRAS:
        optimizer = with_only_extra_args(optimizer, _ONLY_EXTRAS[spec.name])
    if spec.name in _DRAWING:
        optimizer = _seeded(optimizer)
    if spec.name in _IN_TURN:
        optimizer = _updated_in_turn(optimizer)
    return with_weight_decay(optimizer, **decay, learning_rate=rate)


def _make_chain(
    spec: OptimizerSpec, learning_rate: optax.ScalarOrSchedule | None
) -> optax.GradientTransformationExtraArgs:
    optimizer = make(dataclasses.replace(spec, before=(), after=()), learning_rate)
    if spec.after and base_name(spec) in _OWN_COPIES:
        raise ValueError(
            f"{spec.after[0][0]} must not stand after {base_name(spec)!r}, which works out the "
            "parameters from copies of its own and would undo it."
        )
    rate = learning_rate if spec.learning_rate is None else spec.learning_rate
    no_rate = rate is None or sets_own_steps(spec)
    return chained(spec.before, optimizer, spec.after, 1.0 if no_rate else rate)


def _make_around_base(
    spec: OptimizerSpec, learning_rate: optax.ScalarOrSchedule | None
) -> optax.GradientTransformationExtraArgs:
    check_option_names(spec.name, dict(spec.options), option_names(spec))
    base, parameters = base_name(spec), _own_options(spec.name)
    own = {key: value for key, value in spec.options if key in parameters}
    check_options(OptimizerSpec(spec.name, None, tuple(own.items())), parameters)
    rest = {key: value for key, value in spec.options if key not in {*parameters, "base"}}
    inner = make(OptimizerSpec(base, None, tuple(rest.items())), learning_rate)
    return with_standard_promotion(OWN[spec.name].factory(inner, **with_masks(own)))


def _make_imported(
    spec: OptimizerSpec, learning_rate: optax.ScalarOrSchedule | None
) -> optax.GradientTransformationExtraArgs:
    """A user's own, which is given a learning rate if it takes one."""
    parameters = _parameters(spec.name)
    check_options(spec, {**parameters, **DECAY_OPTIONS})
    options, decay = split_decay(dict(spec.options))
    if "learning_rate" in parameters and learning_rate is not None:
        options.setdefault("learning_rate", learning_rate)
    elif learning_rate is not None:
        raise ValueError(
            f"learning_rate must be None for {spec.name!r}, which takes none, got "
            f"{learning_rate!r}."
        )
    optimizer = made("optimizer", spec.name, optax.GradientTransformation, with_masks(options))
    rate = options.get("learning_rate", 1.0)
    return with_weight_decay(with_standard_promotion(optimizer), **decay, learning_rate=rate)


def _wraps(name: str) -> bool:
    return name in OWN and OWN[name].wraps is not None


def _own_options(name: str) -> dict[str, inspect.Parameter]:
    """What an optimizer that wraps another takes besides that."""
    parameters = inspect.signature(OWN[name].factory).parameters
    return dict(list(parameters.items())[1:])


def _make_learned(
    spec: OptimizerSpec, learning_rate: optax.ScalarOrSchedule | None
) -> optax.GradientTransformationExtraArgs:
    if spec.weights is None:
        raise without_weights(spec.name)
    parameters = transform_options(spec.name, dict(spec.options))
    check_options(spec, parameters)
    if learning_rate is not None:
        hint = "; it can be an option" if "learning_rate" in parameters else ""
        raise ValueError(
            f"learning_rate must be None for {spec.name!r}, which sets its own steps, got "
            f"{learning_rate!r}{hint}."
        )
    return load_weights(spec.name, spec.weights, dict(spec.options))


def _seeded(
    optimizer: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that mixes its key with the initial parameters, by which seeds differ."""

    def init(params: optax.Params) -> optax.OptState:
        def mixed(leaf: Any) -> Any:
            is_key = leaf.dtype == jnp.uint32 or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            return key_of_seed(leaf, params) if is_key else leaf

        return jax.tree.map(mixed, optimizer.init(params))

    return optax.GradientTransformationExtraArgs(init, optimizer.update)


def _updated_in_turn(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that `vmap` lets update one member after the other; it takes no extras."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        del extra_args
        return in_turn(optimizer.update)(updates, state, params)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _falling_alike(schedule: optax.Schedule, first: float) -> optax.Schedule:
    """A schedule that is in proportion to another one, and begins with the given number."""
    with jax.numpy_dtype_promotion("standard"):
        begin = schedule(jnp.zeros([], jnp.int32))
    if not isinstance(begin, jax.core.Tracer) and not begin > 0:
        raise ValueError(
            "learning_rate must begin above 0 where adam_learning_rate is set, which changes in "
            f"proportion to it; got a schedule that begins at {float(begin):g}."
        )

    def rate(count: Any) -> Any:
        return first * (schedule(count) / schedule(jnp.zeros([], jnp.int32)))

    return rate


@functools.cache
def _factories() -> dict[str, Factory]:
    """Ours, then optax's, then those of optax.contrib; the first of a name counts."""
    factories = {name: own.factory for name, own in OWN.items()}
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


def _check_name(name: str) -> None:
    """Refuses a name that is unknown."""
    if name not in ARCHITECTURES:
        _factory(name)


def _parameters(name: str) -> dict[str, inspect.Parameter]:
    """What an optimizer that is not learned takes, but for weight decay."""
    factory = _factory(name)
    return (
        parameters_of(factory) if is_imported(name) else dict(inspect.signature(factory).parameters)
    )


def _factory(name: str) -> Factory:
    factories = _factories()
    if name in factories:
        return factories[name]
    if is_imported(name):
        known, _, option = name.partition(":")
        if known in factories or known in ARCHITECTURES:  # a word where an option was meant
            parse_options(known, option)
        return imported("optimizer", name)
    if name in _EXCLUDED:
        raise ValueError(f"optimizer {name!r} cannot be used by name: {_EXCLUDED[name]}.")
    hint = suggestion(name, [*factories, *ARCHITECTURES])
    raise ValueError(f"unknown optimizer {name!r}; {hint}.")


_by_name.enter(_by_name.Names(make, check_base, base_parameters))
