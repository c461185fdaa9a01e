#!/usr/bin/env bash
# optax 0.2.8: inject_hyperparams keeps numbers in the dtype of the parameters. With bfloat16
# parameters Adam's b2 = 0.999 becomes 1, its bias correction 1 - b2**t becomes 0, and the very
# first update is NaN, without a warning. optax.adam itself, with the same parameters, works.
# What helps: hyperparam_dtype=jnp.float32.
# Seen: b2 is 1.0 and the update is NaN; 0.999 and finite with hyperparam_dtype.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/adam.py" <<'PY'
import jax.numpy as jnp
import optax

params = jnp.ones(4, jnp.bfloat16)


def first_update(optimizer):
    state = optimizer.init(params)
    update, state = optimizer.update(params, state, params)
    return update, state


plain, _ = first_update(optax.adam(1e-3))
injected, state = first_update(optax.inject_hyperparams(optax.adam)(learning_rate=1e-3))
cured, cured_state = first_update(
    optax.inject_hyperparams(optax.adam, hyperparam_dtype=jnp.float32)(learning_rate=1e-3)
)
print("optax 0.2.8, bfloat16 parameters, first update of Adam:")
print(f"  plain:                      {plain[0]}")
print(f"  inject_hyperparams:         {injected[0]}, b2 = {state.hyperparams['b2']}")
print(f"  with hyperparam_dtype=f32:  {cured[0]}, b2 = {cured_state.hyperparams['b2']}")
assert jnp.isfinite(plain).all()
assert jnp.isfinite(cured).all()
assert float(state.hyperparams["b2"]) == 1.0, "the behaviour has changed"
assert jnp.isnan(injected).all(), "the behaviour has changed"
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/adam.py"
