"""Files of meta-parameters, and the names of those that come with the package.

A file is in the safetensors format: numbers and text only. Nothing is ever unpickled.
"""

import dataclasses
import hashlib
import importlib.resources
import inspect
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors
import safetensors.numpy

from optim._checks import suggestion
from optim.learned.l2lgd2 import L2LGD2
from optim.learned.learned_correction import LearnedCorrection
from optim.learned.linear_optim import LinearOptim
from optim.learned.open import OPEN
from optim.learned.optim4rl import Optim4RL
from optim.learned.star import STAR
from optim.learned.velo import VeLO
from optim.masks import with_masks
from optim.spec import OptimizerSpec, check_option_names, check_options
from optim.weight_decay import DECAY_OPTIONS, split_decay, with_weight_decay

# Learned optimizers by name. Each class is a dataclass of sizes, and has a `feature_version`: to
# change what the numbers of a file are multiplied with is to make a new version.
ARCHITECTURES: dict[str, Any] = {
    "l2lgd2": L2LGD2,
    "learned_correction": LearnedCorrection,
    "linear_optim": LinearOptim,
    "open": OPEN,
    "optim4rl": Optim4RL,
    "star": STAR,
    "velo": VeLO,
}

_FORMAT = "rl-optim meta-parameters"
_CHECKSUM = "sha256"  # entry of the metadata; files of before have none
_SEVERAL_RATES = "learning_rates"  # likewise; learning rates of the training, if it had several
_PACKAGED = importlib.resources.files("optim.learned") / "weights"


def save_meta_params(path: str | Path, meta_params: Any, metadata: Mapping[str, Any]) -> None:
    """Writes meta-parameters to a file, in one step: it is never there half.

    The same meta-parameters and metadata give the same bytes.

    Args:
        path: the file, by convention `*.safetensors`; replaced if it exists.
        meta_params: nested dictionary of arrays, written as float32.
        metadata: what is to be known of them. `architecture` is the architecture, or its name, with
            `sizes` as `load_metadata` gives them if they are not the default;
            `training_tasks` says what they were trained on; `options`, if there are any, is a
            mapping of the arguments of `transform` that they were trained with, numbers and truth
            values, which `load` will use too; `learning_rates`, if training used several, is a text
            that names them, and `load` has to be given one. Any other entry is text and kept as it
            is; `licence` says what others may do with the file, `origin` where it comes from.
            Sizes, version of the features and a checksum of all else are added.

    Raises:
        ValueError: if the metadata lacks an entry, or meta-parameters or options are not the
            architecture's.
        OSError: if the file cannot be written.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "mine.safetensors")
        >>> metadata = {"architecture": OPEN(), "training_tasks": "none"}
        >>> save_meta_params(path, OPEN().init(jax.random.key(0)), metadata)
        >>> load_metadata(path)["sizes"]
        '{"hidden_size": 16, "gru_features": 8}'
    """
    entries = dict(metadata)
    architecture: Any = entries.get("architecture")
    if isinstance(architecture, str):
        architecture = _build(architecture, entries.get("sizes", "{}"), "metadata")
    name = next((name for name, kind in ARCHITECTURES.items() if type(architecture) is kind), None)
    if name is None:
        raise ValueError(f"metadata must name its architecture, got {architecture!r}.")
    options = entries.get("options", {})
    options = _options(options, "metadata") if isinstance(options, str) else dict(options)
    _check(architecture, meta_params, options, "meta_params")
    try:
        written = json.dumps(options)
    except TypeError:
        raise ValueError(f"metadata must hold numbers as options, got {options}.") from None
    entries |= {
        "format": _FORMAT,
        "architecture": name,
        "sizes": json.dumps(dataclasses.asdict(architecture)),
        "options": written,
        "feature_version": str(_feature_version(name)),
    }
    for key in ("training_tasks", *entries):
        if not isinstance(entries.get(key), str):
            raise ValueError(f"metadata must hold text, got {entries.get(key)!r} for {key!r}.")
    leaves = _flatten(meta_params).items()
    tensors = {key: np.asarray(leaf, np.float32, order="C") for key, leaf in leaves}
    entries[_CHECKSUM] = _checksum(tensors, entries)
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(_serialize(tensors, entries))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_meta_params(path: str | Path) -> dict[str, Any]:
    """Reads meta-parameters.

    Args:
        path: a file that `save_meta_params` wrote, or `NAME@WEIGHTS`, as `load` takes it but
            without options: `"open@breakout"`.

    Returns:
        Nested dictionary of float32 arrays.

    Raises:
        ValueError: if there are no such meta-parameters, the file is not one of ours, does not
            match its checksum, or is of a feature version that this package does not compute.
        OSError: if it cannot be read.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "mine.safetensors")
        >>> meta_params = OPEN().init(jax.random.key(0))
        >>> save_meta_params(path, meta_params, {"architecture": OPEN(), "training_tasks": ""})
        >>> print(jax.tree.all(jax.tree.map(jnp.array_equal, load_meta_params(path), meta_params)))
        True
    """
    return _read_named(path).meta_params


def load_metadata(path: str | Path) -> dict[str, str]:
    """Reads what a file says about its meta-parameters.

    Args:
        path: as `load_meta_params` takes it.

    Returns:
        The metadata, among it `architecture`, `sizes`, `feature_version` and
        `training_tasks`; and `sha256`, the checksum, unless the file is an old one.

    Raises:
        ValueError: see `load_meta_params`.
        OSError: if it cannot be read.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "mine.safetensors")
        >>> metadata = {"architecture": OPEN(), "training_tasks": "Breakout-MinAtar"}
        >>> save_meta_params(path, OPEN().init(jax.random.key(0)), metadata)
        >>> load_metadata(path)["training_tasks"]
        'Breakout-MinAtar'
    """
    return _read_named(path).metadata


def load_open_npy(path: str | Path, architecture: OPEN | None = None) -> dict[str, Any]:
    """Reads OPEN's meta-parameters as its authors publish them: one flat float32 vector.

    Args:
        path: the `.npy` file.
        architecture: the sizes; `None` takes those of the two that the authors published, 16 and 8
            or 32 and 16, that fit.

    Returns:
        Nested dictionary of float32 arrays.

    Raises:
        ValueError: if the file is no NumPy file, or holds Python objects, which would have to be
            unpickled, an array of another shape or dtype, or numbers that are not finite.
        OSError: if it cannot be read.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "weights.npy")
        >>> np.save(path, np.zeros(1211, np.float32))
        >>> load_open_npy(path)["gru_params"]["hn"]["bias"].shape
        (8,)
    """
    try:
        vector = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        with open(path, "rb") as file:
            kind = _kind(file.read(64))
        if kind == "a NumPy file":
            kind = "Python objects" if "Object arrays" in str(error) else "a damaged one"
        raise ValueError(
            f"{path} must be a .npy file of float32 numbers, got {kind}, which is not read."
        ) from None
    choices = [architecture] if architecture else [OPEN(), OPEN(32, 16)]
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    sizes = {
        sum(
            math.prod(shape) for shape in jax.tree.leaves(choice.shapes(), is_leaf=is_shape)
        ): choice
        for choice in choices
    }
    shape, dtype = np.shape(vector), getattr(vector, "dtype", None)
    if dtype != np.float32 or len(shape) != 1 or shape[0] not in sizes:
        allowed = " or ".join(f"{size} ({choice})" for size, choice in sizes.items())
        what = f"{dtype} of shape {shape}" if dtype else "several arrays"
        raise ValueError(f"{path} must hold a float32 vector of size {allowed}, got {what}.")
    if not np.isfinite(vector).all():
        raise ValueError(f"{path} must hold finite numbers, got {vector[~np.isfinite(vector)][0]}.")
    return sizes[shape[0]].from_vector(vector)


class MetaParamsFile(NamedTuple):
    """What a file holds."""

    architecture: Any
    meta_params: dict[str, Any]
    metadata: dict[str, str]
    options: dict[str, Any]  # arguments of `transform`, with which they were trained

    @property
    def several_rates(self) -> str | None:
        """The learning rates that they were trained at, if there were several and one is needed."""
        takes_one = "learning_rate" in transform_options(self.metadata["architecture"])
        if not takes_one or "learning_rate" in self.options:
            return None
        return self.metadata.get(_SEVERAL_RATES)


def load(text: str, **options: Any) -> optax.GradientTransformationExtraArgs:
    """A learned optimizer with trained meta-parameters, ready to use.

    Args:
        text: `NAME@WEIGHTS[:key=value,...]`, with the name of an architecture and the name of
            packaged meta-parameters or a path, as `OptimizerSpec.parse` reads it; or a path alone,
            of any characters, with a suffix or a separator.
        **options: arguments of the architecture's `transform`, and `l2` and `decoupled_decay` of
            `optim.with_weight_decay`. Those with which the meta-parameters were trained are in
            their file; then those of the text count, and before all others those given here.

    Returns:
        The optimizer.

    Raises:
        ValueError: if there are no such meta-parameters, they are of another architecture, an
            option is unknown, or they were trained at several learning rates and none is given.
        OSError: if a file cannot be read.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "mine.safetensors")
        >>> meta_params = OPEN().init(jax.random.key(0))
        >>> save_meta_params(path, meta_params, {"architecture": OPEN(), "training_tasks": ""})
        >>> optimizer = load(f"open@{path}", key=1)
        >>> len(optimizer.init(jnp.ones(3)))
        4

    .. note::
      `optax.inject_hyperparams` needs a function that names what it injects, such as
      `lambda learning_rate: load("optim4rl@small", learning_rate=learning_rate)`.
    """
    if isinstance(options.get("options"), Mapping):  # how optax passes what has no name of its own
        raise ValueError(
            "options must be named by the function that optax.inject_hyperparams is given, e.g. "
            f"lambda learning_rate: optim.load({text!r}, learning_rate=learning_rate)."
        )
    name, at, _ = text.partition("@")
    if at and name in ARCHITECTURES:
        spec = OptimizerSpec.parse(text)
        check_options(spec, transform_options(name, dict(spec.options)))
        assert spec.weights is not None
        return load_weights(name, spec.weights, dict(spec.options) | options)
    if _is_path(text):
        return load_weights("", text, options)
    raise without_weights(name) if name in ARCHITECTURES else _unknown(name, "text")


def load_weights(
    name: str, weights: str, options: Mapping[str, Any]
) -> optax.GradientTransformationExtraArgs:
    """See `load`.

    Args:
        name: name of the architecture; empty if the file is to say it.
        weights: name of packaged meta-parameters, or a path.
        options: as `transform_options` names them.

    Returns:
        The optimizer.

    Raises:
        ValueError: see `load`.
        OSError: if a file cannot be read.

    Examples:
        >>> load_weights("open", "no/such.safetensors", {})
        Traceback (most recent call last):
        ...
        ValueError: meta-parameters must be in a file that exists, got 'no/such.safetensors'.
    """
    path = find_meta_params(name, weights)
    file = _read_of(name, path)
    known = file.metadata["architecture"]
    check_option_names(known, options, transform_options(known, {**file.options, **options}))
    if file.several_rates and "learning_rate" not in options:
        raise ValueError(
            f"{path} was trained at several learning rates, {file.several_rates}, and needs to be "
            f"given one: {known}@WEIGHTS:learning_rate=... in a spec, learning_rate=... in Python."
        )
    return transform(file.architecture, file.meta_params, {**file.options, **options})


def transform(
    architecture: Any, meta_params: Any, options: Mapping[str, Any]
) -> optax.GradientTransformationExtraArgs:
    """A learned optimizer, with weight decay if its options say so.

    Args:
        architecture: with its sizes.
        meta_params: of the architecture.
        options: as `transform_options` names them. A `decoupled_decay` is not times a learning
            rate, which most architectures lack.

    Returns:
        The optimizer.

    Raises:
        ValueError: if the architecture does not allow something, or a decay is out of range.

    Examples:
        >>> optimizer = transform(OPEN(), OPEN().init(jax.random.key(0)), {"l2": 1e-4})
        >>> int(optimizer.init(jnp.ones(3)).count)
        0
    """
    own, decay = split_decay(options)
    return with_weight_decay(architecture.transform(meta_params, **with_masks(own)), **decay)


def transform_options(
    name: str, options: Mapping[str, Any] | None = None
) -> dict[str, inspect.Parameter]:
    """The options of a learned optimizer, which `transform` takes besides meta-parameters.

    Args:
        name: name of the architecture.
        options: those that are given. If the architecture corrects another optimizer, the one that
            they name as `base` has options too.

    Returns:
        Names and parameters.

    Raises:
        ValueError: if they name a base that cannot be one.

    Examples:
        >>> list(transform_options("linear_optim"))
        ['learning_rate', 'grad_clip', 'l2', 'decoupled_decay']
        >>> "kappa" in transform_options("learned_correction", {"base": "adamo"})
        True
    """
    taken = list(inspect.signature(ARCHITECTURES[name].transform).parameters.items())[2:]
    own = {key: value for key, value in taken if value.kind is not value.VAR_KEYWORD}
    if len(own) < len(taken):
        own = ARCHITECTURES[name].further_options((options or {}).get("base")) | own
    return {**own, **DECAY_OPTIONS}


def without_weights(name: str) -> ValueError:
    """The error to raise where a learned optimizer is named without meta-parameters.

    Args:
        name: name of the architecture.

    Returns:
        The error.

    Examples:
        >>> print(without_weights("star"))
        'star' is learned and needs weights: star@WEIGHTS, with a file or one of: none are packaged.
    """
    packaged = ", ".join(packaged_meta_params(name)) or "none are packaged"
    return ValueError(
        f"{name!r} is learned and needs weights: {name}@WEIGHTS, with a file or one of: {packaged}."
    )


def find_meta_params(name: str, weights: str) -> Path:
    """The file of meta-parameters that a name or path stands for.

    Args:
        name: name of the architecture.
        weights: name of packaged meta-parameters, or a path; what has a suffix or a separator is
            one.

    Returns:
        The file's path.

    Raises:
        ValueError: if there is no such file.

    Examples:
        >>> find_meta_params("open", "no/such.safetensors")
        Traceback (most recent call last):
        ...
        ValueError: meta-parameters must be in a file that exists, got 'no/such.safetensors'.
    """
    # What was meant as options but does not read as such counts as part of the path.
    hint = "; options after it must read :key=value" if name and ":" in weights else ""
    if _is_path(weights):
        if not Path(weights).is_file():
            raise ValueError(
                f"meta-parameters must be in a file that exists, got {weights!r}{hint}."
            )
        return Path(weights)
    path = Path(str(_PACKAGED / f"{name}_{weights}.safetensors"))
    if not path.is_file():
        raise ValueError(
            f"{name!r} has no packaged meta-parameters {weights!r}, it has "
            f"{', '.join(packaged_meta_params(name)) or 'none'}; or give the path of a file{hint}."
        )
    return path


def packaged_meta_params(name: str) -> list[str]:
    """Lists the meta-parameters that come with the package.

    Args:
        name: name of the architecture.

    Returns:
        Their names, to be used as `NAME@WEIGHTS`.

    Examples:
        >>> isinstance(packaged_meta_params("open"), list)
        True
    """
    if not _PACKAGED.is_dir():
        return []
    files = [Path(entry.name) for entry in _PACKAGED.iterdir()]
    return sorted(
        file.stem.removeprefix(f"{name}_")
        for file in files
        if file.suffix == ".safetensors" and file.stem.startswith(f"{name}_")
    )


def _read_named(path: str | Path) -> MetaParamsFile:
    """Reads the file that `NAME@WEIGHTS` names, or that a path leads to."""
    name, at, weights = str(path).partition("@")
    if at and name in ARCHITECTURES and not Path(path).is_file():
        return _read_of(name, find_meta_params(name, weights))
    return read(path)


def _read_of(name: str, path: Path) -> MetaParamsFile:
    """Reads a file of an architecture; of any if the name is empty."""
    file = read(path)
    known = file.metadata["architecture"]
    if name not in ("", known):
        raise ValueError(f"{path} must hold meta-parameters of {name!r}, got those of {known!r}.")
    return file


def _is_path(text: str) -> bool:
    return bool(Path(text).suffix) or "/" in text or os.sep in text


def _unknown(name: str, where: str) -> ValueError:
    return ValueError(
        f"{where} must name a known architecture, got {name!r}; {suggestion(name, ARCHITECTURES)}."
    )


def _build(name: str, sizes: str, where: str) -> Any:
    """The architecture that metadata names."""
    if name not in ARCHITECTURES:
        raise _unknown(name, where)
    try:
        return ARCHITECTURES[name](**{key: _hashable(x) for key, x in json.loads(sizes).items()})
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"{where} must name the sizes of {name!r}, got {sizes!r}.") from None


def _options(text: str, where: str) -> dict[str, Any]:
    """The arguments of `transform` that metadata names."""
    try:
        return {key: _hashable(x) for key, x in json.loads(text).items()}
    except (AttributeError, ValueError):
        raise ValueError(f"{where} must name options as JSON, got {text!r}.") from None


def _hashable(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _feature_version(name: str) -> int:
    return getattr(ARCHITECTURES[name], "feature_version", 1)


def _check(architecture: Any, meta_params: Any, options: Mapping[str, Any], where: str) -> None:
    """Refuses arrays of other names or shapes, and options; the architecture says which."""
    try:
        transform(architecture, meta_params, {})
        transform(architecture, meta_params, options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} must fit {architecture}: {error}") from None


def read(path: str | Path) -> MetaParamsFile:
    """Reads a file.

    Args:
        path: a file that `save_meta_params` wrote.

    Returns:
        All that it holds.

    Raises:
        ValueError: see `load_meta_params`.
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        kind = _kind(file.read(64))
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError:
        hint = "; rl-optim convert turns OPEN's into one" if kind == "a NumPy file" else ""
        kind = "a damaged one" if kind == "a safetensors file" else kind
        raise ValueError(f"{path} must be a safetensors file, got {kind}{hint}.") from None
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{path} must have been written by rl-optim, but its metadata does not say so."
        )
    if _is_changed(tensors, metadata):
        raise ValueError(
            f"{path} must be as it was written, but does not match its checksum: it is damaged, or "
            "was changed."
        )
    name, version = metadata.get("architecture", ""), metadata.get("feature_version")
    architecture = _build(name, metadata.get("sizes", ""), str(path))
    if version != str(_feature_version(name)):
        raise ValueError(
            f"{path} must be of version {_feature_version(name)} of the features of {name!r}, "
            f"got version {version}."
        )
    meta_params = _unflatten({name: jnp.asarray(x, jnp.float32) for name, x in tensors.items()})
    options = _options(metadata.get("options", "{}"), str(path))
    _check(architecture, meta_params, options, str(path))
    return MetaParamsFile(architecture, meta_params, metadata, options)


def _serialize(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """A safetensors file; the library itself writes metadata in an order that is drawn."""
    data = safetensors.numpy.save(tensors, metadata)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def _checksum(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """Of names, shapes, dtypes and bytes of the tensors, and of all other metadata."""
    others = sorted(item for item in metadata.items() if item[0] != _CHECKSUM)
    digest = hashlib.sha256(json.dumps(others).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, tensor.dtype.str, tensor.shape]).encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _is_changed(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bool:
    """Whether a file does not match its checksum; an old one has none, which is no change."""
    if _CHECKSUM in metadata:
        return metadata[_CHECKSUM] != _checksum(tensors, metadata)
    # It may be there under a name that is itself damaged.
    return any(
        value == _checksum(tensors, {k: v for k, v in metadata.items() if k != key})
        for key, value in metadata.items()
    )


def _kind(start: bytes) -> str:
    if start.startswith(b"\x93NUMPY"):
        return "a NumPy file"
    if start.startswith(b"PK"):
        return "an archive"
    if start[8:9] == b"{":
        return "a safetensors file"
    if start[:1] == b"\x80" or start.endswith(b"."):
        return "a pickle"
    return "something else"


def _flatten(tree: Any) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _unflatten(flat: Mapping[str, jax.Array]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *above, name = path.split("/")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[name] = leaf
    return tree
