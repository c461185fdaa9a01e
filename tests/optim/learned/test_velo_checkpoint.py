"""Checkpoints in the format of VeLO's authors: what is read, and what is refused."""

import pickle
import re

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from fixed_meta_params import drawn
from flax import serialization

import optim
from optim.learned.velo_checkpoint import load_velo_checkpoint

SIZES = {"hidden_size": 3, "bank_size": 2}


def theirs(dtype="float32"):
    """Meta-parameters under the names that haiku gives."""
    meta = jax.tree.map(lambda x: np.asarray(x, jnp.dtype(dtype)), drawn("velo", **SIZES))
    recurrent = dict(meta["rnn_params"])
    recurrent["rnn/linear"] = recurrent.pop("rnn")["linear"]
    return meta | {"rnn_params": recurrent, "ff_mod_stack": {"~": meta["ff_mod_stack"]}}


def write(path, content):
    path.write_bytes(serialization.msgpack_serialize(content))
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "params"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_numbers_and_names(dtype, path):
    write(path, {"params": theirs(dtype), "gen_id": "x", "step": np.int64(3)})
    architecture, meta, options = load_velo_checkpoint(path)
    assert architecture == optim.VeLO(**SIZES)
    assert options == {}
    expected = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), drawn("velo", **SIZES))
    assert jax.tree.structure(meta) == jax.tree.structure(expected)
    for ours, other in zip(jax.tree.leaves(meta), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, np.float32(other))


def test_the_first_version_has_both_quirks(path):
    write(path, {"0": theirs(), "1": "", "2": 0})
    _, meta, options = load_velo_checkpoint(path)
    assert options == {"use_bugged_loss_features": True, "use_bugged_next_lstm_state": True}
    optim.velo(meta, 10, **options)


def without(name):
    tree = theirs()
    del tree["rnn_params"][name]
    return tree


def changed(value):
    tree = theirs()
    tree["rnn_params"]["step_size"] = {"w": value, "b": np.zeros(1, np.float32)}
    return tree


def array(shape, dtype, raw):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, raw)))


WRONG = {
    "a tensor missing": (without("linear_1"), "must hold rnn_params/linear_1/b of shape"),
    "another shape": (changed(np.zeros((4, 1), np.float32)), "of shape (3, 1), got shape (4, 1)"),
    "not finite": (changed(np.full((3, 1), np.nan, np.float32)), "finite numbers, got nan in rnn"),
    "integers": (changed(np.zeros((3, 1), np.int32)), "something else: an array of int32"),
    "a number": (changed(1.0), "of shape (3, 1), got shape ()"),
    "more": (theirs() | {"more": np.ones(1, np.float32)}, "and no more, got more"),
    "nothing": ({}, "must hold VeLO's meta-parameters: meta_params of VeLO("),
    "text": ("params", "must hold VeLO's meta-parameters: meta_params of VeLO("),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(case, path):
    tree, message = WRONG[case]
    write(path, {"params": tree, "gen_id": "", "step": 0})
    with pytest.raises(ValueError, match=re.escape(message)):
        load_velo_checkpoint(path)


@pytest.mark.parametrize(
    ("shape", "dtype", "raw"),
    [
        ((3, 1), "float32", b"1234"),
        ((-3, -1), "float32", bytes(12)),
        ((3, 1), "object", bytes(24)),
        ((3.0, 1), "float32", bytes(12)),
        (3, "float32", bytes(12)),
        ((3, 1), ["float32"], bytes(12)),
        ((3, 1), "float32", "text"),
    ],
)
def test_damaged_arrays_are_refused(shape, dtype, raw, path):
    path.write_bytes(msgpack.packb({"params": {"x": array(shape, dtype, raw)}}))
    with pytest.raises(ValueError, match="must be a checkpoint of VeLO, as flax"):
        load_velo_checkpoint(path)


def test_other_files_are_refused(path):
    write(path, {"params": theirs(), "gen_id": "", "step": 0})
    whole = path.read_bytes()
    for content in (pickle.dumps({"params": 1}), b"", whole[:-20], whole + b"x", b"\xc1", b"\x93"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="must be a checkpoint of VeLO, as flax"):
            load_velo_checkpoint(path)
    for content in (msgpack.packb([1, 2]), msgpack.packb(1), msgpack.packb({})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="must hold VeLO's meta-parameters: "):
            load_velo_checkpoint(path)


def test_our_file_of_it_is_used_by_name(path, tmp_path):
    write(path, {"0": theirs(), "1": "", "2": 0})
    architecture, meta, options = load_velo_checkpoint(path)
    out = tmp_path / "velo.safetensors"
    metadata = {"architecture": architecture, "options": options, "training_tasks": "unknown"}
    optim.save_meta_params(out, meta, metadata)
    optim.make(f"velo@{out}:num_updates=100")
    jax.tree.map(np.testing.assert_array_equal, optim.load_meta_params(out), meta)
