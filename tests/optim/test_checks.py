"""What is no optimizer is refused where one is wrapped, in one sentence."""

import functools

import jax
import pytest

import optim

WRAPPERS = {
    "inner": [
        optim.cautious,
        optim.cbp,
        optim.fire,
        optim.keep_params,
        optim.l2_init,
        optim.normalize_project,
        optim.parseval,
        optim.redo,
        optim.regrama,
        optim.reset_state,
        optim.shrink_perturb,
        optim.spectral_regularization,
        optim.trac,
        optim.weight_clipping,
    ],
    "optimizer": [
        optim.with_weight_decay,
        functools.partial(optim.with_only_extra_args, names=("value",)),
    ],
    "base": [
        functools.partial(
            optim.learned_correction, optim.LearnedCorrection().init(jax.random.key(0))
        )
    ],
}


@pytest.mark.parametrize(
    ("argument", "wrap"), [(name, wrap) for name, each in WRAPPERS.items() for wrap in each]
)
@pytest.mark.parametrize("given", [1e-2, "adamw", None])
def test_what_is_no_optimizer(argument, wrap, given):
    if argument == "base" and given == "adamw":
        wrap(given)  # This one takes names.
        return
    message = (
        rf"^{argument} must be an optax transformation, e.g. optax.adam\(1e-3\), got {given!r}"
    )
    with pytest.raises(ValueError, match=message):
        wrap(given)
