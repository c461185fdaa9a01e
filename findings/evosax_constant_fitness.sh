#!/usr/bin/env bash
# evosax 0.3.2: on a plateau, where every member of a population earns the same fitness, Sep-CMA-ES
# collapses by itself. One would expect selection without information to leave the search as it is,
# on average. But ranks of equal fitness are all the same number, so all members get one and the
# same recombination weight, the step of the mean is an average over the whole population, far
# shorter than the path's normalisation expects, and the standard deviation shrinks each generation.
# Seen: 1.0 before, 7.6e-06 after 50 generations of 16 members in 10 dimensions.
# Plateaus are common in reinforcement learning: sparse rewards, or a task that all members solve.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet evosax==0.3.2 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 optax==0.2.8 numpy==2.4.6
cat > "$folder/plateau.py" <<'PY'
import jax
import jax.numpy as jnp
from evosax.algorithms import Sep_CMA_ES

key = jax.random.key(0)
strategy = Sep_CMA_ES(population_size=16, solution=jnp.zeros(10))
params = strategy.default_params
state = strategy.init(key, jnp.zeros(10), params)
before = float(state.std)
for generation in range(50):
    ask_key, tell_key = jax.random.split(jax.random.fold_in(key, generation))
    population, state = strategy.ask(ask_key, state, params)
    state, _ = strategy.tell(tell_key, population, jnp.zeros(16), state, params)
after = float(state.std)
print(f"evosax 0.3.2 Sep_CMA_ES, constant fitness: std {before} before, {after:.1e} after 50 generations")
assert before == 1.0, before
assert after < 1e-4, "the behaviour has changed"
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/plateau.py"
