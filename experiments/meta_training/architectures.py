"""Learned optimizers by name: their classes, and the text that names one on the command line."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import jax
import optax

import optim
from experiments.settings import unknown
from meta.trainer import Architecture, MetaParams
from optim.learned.meta_params import (
    ARCHITECTURES,
    find_meta_params,
    read,
    transform,
    transform_options,
)
from optim.spec import check_option_names


@dataclasses.dataclass(frozen=True)
class LearnedOptimizer:
    """An architecture, and how it is used.

    Attributes:
        name: a key of `optim.learned.meta_params.ARCHITECTURES`.
        architecture: with its sizes.
        options: what `optim.learned.meta_params.transform` gets beside the meta-parameters.
        start: the first meta-parameters, or None to draw them.
        several_rates: the learning rates that these were trained at, if there were several; then
            `options` have to hold one when it is used.
    """

    name: str
    architecture: Architecture
    options: dict[str, Any]
    start: MetaParams | None = None
    several_rates: str | None = None

    @classmethod
    def parse(cls, text: str) -> LearnedOptimizer:
        """Reads `NAME[@WEIGHTS][:key=value,...]`, with options of the class or of its `transform`.

        Weights are where training starts, and bring their sizes and options with them.

        Raises:
            ValueError: if the name or an option is unknown, or a value is not allowed.
        """
        spec = optim.OptimizerSpec.parse(text)
        if spec.before or spec.after:
            raise ValueError(f"a learned optimizer must stand alone, not in a chain; got {text!r}.")
        check_option_names(spec.name, dict(spec.options), option_names(spec))
        known = ARCHITECTURES[spec.name]
        sizes = inspect.signature(known).parameters
        given = dict(spec.options)
        own = {key: _as(sizes[key], value) for key, value in given.items() if key in sizes}
        others = {key: value for key, value in given.items() if key not in sizes}
        if spec.weights is None:
            learned = cls(spec.name, known(**own), others)
        else:
            if own:
                raise ValueError(f"{', '.join(own)} must be left out: the weights say it.")
            file = read(find_meta_params(spec.name, spec.weights))
            if file.metadata["architecture"] != spec.name:
                raise ValueError(
                    f"{spec.weights!r} must hold weights of {spec.name!r}; got those of "
                    f"{file.metadata['architecture']!r}."
                )
            learned = cls(
                spec.name,
                file.architecture,
                file.options | others,
                file.meta_params,
                file.several_rates,
            )

        def use(key: jax.Array) -> None:
            transform(learned.architecture, learned.init(key), learned.options)

        jax.eval_shape(use, jax.random.key(0))  # the architecture says what it does not allow
        return learned

    def init(self, key: jax.Array) -> MetaParams:
        """The first meta-parameters."""
        return self.architecture.init(key) if self.start is None else self.start

    def transform(self, meta_params: MetaParams) -> optax.GradientTransformationExtraArgs:
        """The optimizer with given meta-parameters.

        Raises:
            ValueError: see `check_learning_rate`.
        """
        self.check_learning_rate()
        return transform(self.architecture, meta_params, self.options)

    def check_learning_rate(self) -> None:
        """Refuses to choose one of several.

        Raises:
            ValueError: if the start was trained at several learning rates and none is given.
        """
        if self.several_rates and "learning_rate" not in self.options:
            raise ValueError(
                f"the weights of {self.name!r} were trained at several learning rates, "
                f"{self.several_rates}, and to start from them each task must be given one, or the "
                "optimizer an option learning_rate."
            )


def option_names(spec: optim.OptimizerSpec) -> list[str]:
    """What the text that names a learned optimizer may set here: sizes, and what it is used with.

    Raises:
        ValueError: if the name is unknown.
    """
    if spec.name not in ARCHITECTURES:
        raise unknown("learned optimizer", spec.name, ARCHITECTURES)
    sizes = inspect.signature(ARCHITECTURES[spec.name]).parameters
    return [*sizes, *transform_options(spec.name, dict(spec.options))]


def _as(parameter: inspect.Parameter, value: Any) -> Any:
    """The value, or where sizes are wanted those that `8x8` stands for."""
    if not isinstance(parameter.default, tuple):
        return value
    try:
        return tuple(int(part) for part in str(value).split("x"))
    except ValueError:
        raise ValueError(
            f"{parameter.name} must be whole numbers joined by x, e.g. 8x8, got {value!r}."
        ) from None
