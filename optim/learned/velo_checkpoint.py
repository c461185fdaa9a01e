"""Reads VeLO's meta-parameters as its authors publish them: msgpack, as flax writes it.

Nothing is ever unpickled: what is read is numbers and text, and each array is checked.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optim.learned._recurrent import check_meta_params
from optim.learned.velo import VeLO

# msgpack is imported when it is needed: every `import optim` would wait for it.

_ARRAY = 1  # of flax's kinds of values that msgpack does not know
_DTYPES = ("bfloat16", "float16", "float32", "float64")
_LARGEST = 2**28  # bytes of a file; the published ones have less than 1e7
# The first published weights are a tuple, which flax writes as a map of places. They were trained
# with both of the quirks that later ones do not have.
_FIRST_VERSION = {"0", "1", "2"}
_QUIRKS = {"use_bugged_loss_features": True, "use_bugged_next_lstm_state": True}


def load_velo_checkpoint(path: str | Path) -> tuple[VeLO, dict[str, Any], dict[str, bool]]:
    """Reads a checkpoint of VeLO's authors: the file `params`, or one called `*.checkpoint`.

    Args:
        path: the file.

    Returns:
        The architecture with its sizes, the meta-parameters as `VeLO.init` gives them, and the
        options of `VeLO.transform` with which they were trained.

    Raises:
        ValueError: if the file is not one of these, or holds arrays of other names, shapes or
            dtypes, or numbers that are not finite.
        OSError: if it cannot be read.

    Examples:
        >>> import tempfile
        >>> from flax import serialization
        >>> path = Path(tempfile.mkdtemp(), "params")
        >>> meta_params = VeLO().init(jax.random.key(0))
        >>> theirs = meta_params | {"ff_mod_stack": {"~": meta_params["ff_mod_stack"]}}
        >>> content = {"params": theirs, "gen_id": "", "step": 0}
        >>> _ = path.write_bytes(serialization.msgpack_serialize(jax.device_get(content)))
        >>> load_velo_checkpoint(path)[0]
        VeLO(hidden_size=16, bank_size=8)
    """
    import msgpack

    with open(path, "rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"{path} must be a checkpoint of VeLO, got more than {_LARGEST} bytes.")
    try:
        content = msgpack.unpackb(data, ext_hook=_value, strict_map_key=True, raw=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        reason = f": {error}" if isinstance(error, _RefusedError) else ""
        raise ValueError(
            f"{path} must be a checkpoint of VeLO, as flax.serialization.to_bytes writes it, got "
            f"something else{reason}."
        ) from None
    is_first = isinstance(content, dict) and set(content) == _FIRST_VERSION
    tree = content.get("0" if is_first else "params") if isinstance(content, dict) else None
    meta_params = _nested(_flat(tree))
    try:
        hidden_size = meta_params["lstm_init_state"]["hidden"].shape[1]
        bank_size = meta_params["ff_mod_stack"]["b0"].shape[0]
        architecture = VeLO(hidden_size, bank_size)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        architecture = VeLO(512, 256)  # The check of shapes says what is wrong.
    try:
        check_meta_params(str(architecture), meta_params, architecture.shapes())
    except ValueError as error:
        raise ValueError(f"{path} must hold VeLO's meta-parameters: {error}") from None
    for name, array in _flat(meta_params).items():
        if not np.isfinite(array).all():
            raise ValueError(
                f"{path} must hold finite numbers, got {array[~np.isfinite(array)][0]} in {name}."
            )
    return architecture, jax.tree.map(jnp.asarray, meta_params), _QUIRKS if is_first else {}


class _RefusedError(ValueError):
    """Of what an array is made of."""


def _value(code: int, data: bytes) -> Any:
    """An array in float32; None for numbers of NumPy, of which none is looked at."""
    if code != _ARRAY:
        return None
    import msgpack

    shape, dtype, raw = msgpack.unpackb(data, raw=False)
    if dtype not in _DTYPES:
        raise _RefusedError(f"an array of {dtype}")
    kind = jnp.dtype(dtype)
    sizes = [size for size in shape if isinstance(size, int) and size >= 0]
    if len(sizes) != len(shape) or math.prod(sizes) * kind.itemsize != len(raw):
        raise _RefusedError(f"an array of shape {tuple(shape)} with {len(raw)} bytes")
    return np.frombuffer(raw, kind).reshape(sizes).astype(np.float32)


def _flat(tree: Any, above: str = "") -> dict[str, Any]:
    """Arrays by their paths. The authors' level `~` does not count."""
    if not isinstance(tree, Mapping):
        return {above: tree} if above else {}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, "/".join(filter(None, (above, str(key).removesuffix("~")))).strip("/"))
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *above, name = path.split("/")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                return {}  # The check of names says what is missing.
        node[name] = leaf
    return tree
