"""Learned optimizers by name: their classes, and the text that names one on the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from typing import Any

import jax
import numpy as np
import optax

import optim
from experiments.settings import unknown
from meta.trainer import Architecture, MetaParams
from optim.learned.meta_params import ARCHITECTURES, find_meta_params


@dataclasses.dataclass(frozen=True)
class LearnedOptimizer:
    """An architecture, and how it is used.

    Attributes:
        name: a key of `optim.meta_params.ARCHITECTURES`.
        architecture: with its sizes.
        options: what `transform` gets beside the meta-parameters.
        start: the first meta-parameters, or None to draw them.
    """

    name: str
    architecture: Architecture
    options: dict[str, Any]
    start: MetaParams | None = None

    @classmethod
    def parse(cls, text: str) -> LearnedOptimizer:
        """Reads `NAME[@WEIGHTS][:key=value,...]`, with options of the class or of its `transform`.

        Weights are where training starts, and bring their sizes and options with them.

        Raises:
            ValueError: if the name or an option is unknown, or a value is not allowed.
        """
        spec = optim.OptimizerSpec.parse(text)
        if spec.name not in ARCHITECTURES:
            raise unknown("learned optimizer", spec.name, ARCHITECTURES)
        known = ARCHITECTURES[spec.name]
        sizes = inspect.signature(known).parameters
        options = list(inspect.signature(known.transform).parameters)[2:]
        for key, _ in spec.options:
            if key not in sizes and key not in options:
                hint = f"the nearest is {optim.nearest(key, [*sizes, *options])!r}"
                raise ValueError(f"{spec.name!r} has no option {key!r}; {hint}.")
        given = dict(spec.options)
        own = {key: _as(sizes[key], value) for key, value in given.items() if key in sizes}
        others = {key: value for key, value in given.items() if key not in sizes}
        start = None
        if spec.weights is not None:
            if own:
                raise ValueError(f"{', '.join(own)} must be left out: the weights say it.")
            path = find_meta_params(spec.name, spec.weights)
            start, metadata = optim.load_meta_params(path), optim.load_metadata(path)
            if metadata["architecture"] != spec.name:
                raise ValueError(
                    f"{spec.weights!r} must hold weights of {spec.name!r}; got those of "
                    f"{metadata['architecture']!r}."
                )
            own = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in json.loads(metadata["sizes"]).items()
            }
            others = json.loads(metadata["options"]) | others
        learned = cls(spec.name, known(**own), others, start)

        def use(key: jax.Array) -> None:
            learned.transform(learned.init(key))

        jax.eval_shape(use, jax.random.key(0))  # the architecture says what it does not allow
        return learned

    @property
    def start_sha256(self) -> str | None:
        """SHA-256 of the names, shapes and numbers of `start`, wherever they came from, or None."""
        if self.start is None:
            return None
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.start):
            numbers = np.asarray(leaf, "<f4")
            name = f"{jax.tree_util.keystr(path)} {numbers.shape}\n"
            digest.update(name.encode() + numbers.tobytes())
        return digest.hexdigest()

    def init(self, key: jax.Array) -> MetaParams:
        """The first meta-parameters."""
        return self.architecture.init(key) if self.start is None else self.start

    def transform(self, meta_params: MetaParams) -> optax.GradientTransformationExtraArgs:
        """The optimizer with given meta-parameters."""
        return self.architecture.transform(meta_params, **self.options)


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
