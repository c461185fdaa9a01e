"""The text that names an optimizer: what it says, and that it survives being written."""

import inspect

import hypothesis
import hypothesis.strategies as st
import pytest
from file_names import file_names

import optim
from optim import registry
from optim.spec import _allowed


def test_parse():
    spec = optim.OptimizerSpec.parse(" adam : learning_rate = 3e-4, b2=0.99 ".replace(" :", ":"))
    assert spec == optim.OptimizerSpec("adam", None, (("learning_rate", 3e-4), ("b2", 0.99)))
    assert spec.learning_rate == 3e-4
    spec = optim.OptimizerSpec.parse("open@runs/x/meta_params.safetensors:a=true,b=None,c=2,d=word")
    assert (spec.name, spec.weights) == ("open", "runs/x/meta_params.safetensors")
    assert dict(spec.options) == {"a": True, "b": None, "c": 2, "d": "word"}
    assert [type(value) for _, value in spec.options] == [bool, type(None), int, str]
    assert spec.learning_rate is None
    assert optim.OptimizerSpec("adam", options={"b1": 0.5}).options == (("b1", 0.5),)
    assert hash(spec) == hash(optim.OptimizerSpec.parse(str(spec)))


words = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
values = st.one_of(
    st.booleans(), st.none(), st.integers(), st.floats(allow_nan=False), st.just("frobenius")
)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@hypothesis.given(
    words, st.none() | words | file_names() | texts, st.dictionaries(words, values, max_size=4)
)
def test_specs_survive_a_round_trip(name, weights, options):
    spec = optim.OptimizerSpec(name, weights, tuple(options.items()))
    again = optim.OptimizerSpec.parse(str(spec))
    assert again == spec
    assert [type(value) for _, value in again.options] == [type(v) for v in options.values()]


@pytest.mark.parametrize(
    ("text", "weights", "options"),
    [
        ("open@a:b.safetensors", "a:b.safetensors", {}),
        ("open@a:b=c.safetensors", "a:b=c.safetensors", {}),
        ("open@a:b=c.safetensors:d=e", "a:b=c.safetensors", {"d": "e"}),
        ("open@a:b=c/d.safetensors", "a:b=c/d.safetensors", {}),
        ("open@runs/a:b=1,c=2/d:key=3", "runs/a:b=1,c=2/d", {"key": 3}),
        (r"open@C:\runs\x.safetensors", r"C:\runs\x.safetensors", {}),
        (r"open@C:\a=b\x.safetensors : key=1", r"C:\a=b\x.safetensors ", {"key": 1}),
        (r"open@C:a=b\x", r"C:a=b\x", {}),
        ("open@./a:b=c", "./a", {"b": "c"}),
        ("open@./a:b=c:", "./a:b=c", {}),
        ("open@./a:b=c::", "./a:b=c:", {}),
        ("open@./a:b=c::d=1", "./a:b=c:", {"d": 1}),
        ("open@./a:b", "./a:b", {}),
        ("open@./a:b=", "./a:b=", {}),
        ("open@./a:b=1,c", "./a:b=1,c", {}),
        ("open@./a@b, c=d#ü.safetensors:key=1,noise_mask=none", "./a@b, c=d#ü.safetensors",
         {"key": 1, "noise_mask": None}),
    ],
)  # fmt: skip
def test_paths_with_colons(text, weights, options):
    spec = optim.OptimizerSpec.parse(text)
    assert (spec.name, spec.weights, dict(spec.options)) == ("open", weights, options)
    assert optim.OptimizerSpec.parse(str(spec)) == spec


def test_a_path_is_written_with_a_colon_only_where_it_must():
    for text in ("open@a/b.safetensors", "open@a:b.safetensors", "open@a:b=c.safetensors"):
        assert str(optim.OptimizerSpec.parse(text)) == text
    assert str(optim.OptimizerSpec("open", "./a:b=c")) == "open@./a:b=c:"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "@x",
        "adam@",
        "adam:",
        "adam:b1=",
        "adam:=1",
        "adam b1",
        "a:b=1,,c=2",
        "adam::",
        "open@:",
        "open@:key=1",
        "ad-am",
        "adam@:b1=0.9",
    ],
)
def test_malformed_specs(text):
    with pytest.raises(ValueError, match=r"must have the form (NAME|key)"):
        optim.OptimizerSpec.parse(text)


def test_every_option_has_a_kind_or_is_for_python_only():
    """What a spec cannot set is a tuple, a function, a tree or another optimizer."""
    unset = set()
    for name in optim.optimizer_names():
        for key, parameter in inspect.signature(registry._factory(name)).parameters.items():
            if key != "learning_rate" and _allowed(parameter) is None:
                unset.add(key)
    assert unset == {
        "base_optimizer",
        "betas",
        "clip_value_fn",
        "hessian_diagonal_fn",
        "init_fn",
        "init_step",
        "inner",
        "linesearch",
        "links",
        "muon_weight_dimension_numbers",
        "ns_coeffs",
        "weight_dimension_numbers",
    }
