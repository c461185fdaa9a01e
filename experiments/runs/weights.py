"""Files of learned optimizers' weights, which a run reads once and keeps a copy of."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optax

import optim
from optim.learned.meta_params import ARCHITECTURES, find_meta_params


def read(spec: optim.OptimizerSpec) -> bytes | None:
    """The content of the file that an optimizer is made from; None if it is not learned.

    Raises:
        ValueError: if there is no such file.
        OSError: if it cannot be read.
    """
    if spec.weights is None or spec.name not in ARCHITECTURES:
        return None
    return find_meta_params(spec.name, spec.weights).read_bytes()


def sha256(content: bytes) -> str:
    """Digest of a file's content."""
    return hashlib.sha256(content).hexdigest()


def make(spec: optim.OptimizerSpec, content: bytes | None) -> optax.GradientTransformation:
    """Builds an optimizer, as `optim.make` does, from weights that were read before.

    Args:
        spec: the optimizer; its learning rate is among its options, if it has any.
        content: of the file of its weights; None if it is not learned.

    Raises:
        ValueError: if the optimizer or an option is unknown, or the content is not allowed.
    """
    with copied(spec, content) as copy:
        return optim.make(copy)


@contextlib.contextmanager
def copied(spec: optim.OptimizerSpec, content: bytes | None) -> Iterator[optim.OptimizerSpec]:
    """The spec with weights in a file that holds this content; errors name the original file.

    Args:
        spec: the optimizer.
        content: of the file of its weights; None if it is not learned.
    """
    if content is None:
        yield spec
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "weights.safetensors"
        copy.write_bytes(content)
        try:
            yield dataclasses.replace(spec, weights=str(copy))
        except ValueError as error:
            # A packaged file's name alone, of another's all that the user wrote.
            original = str(spec.weights)
            with contextlib.suppress(ValueError):
                original = str(find_meta_params(spec.name, original))
            raise ValueError(str(error).replace(str(copy), original)) from None
