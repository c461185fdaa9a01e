"""A `jax.jit` for programs that take longer to compile than to run, as nearly all tests' do."""

import functools

import jax
import jax.numpy as jnp

_WISHES = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    # The older way to compile loops takes a quarter of the time.
    "xla_cpu_use_fusion_emitters": False,
}


# Bound here: tests may put `quick_jit` in the place of `jax.jit`.
_jit = jax.jit


@functools.cache
def _options():
    """Those that this version of the compiler knows."""

    def is_known(name):
        try:
            _jit(lambda: 0, compiler_options={name: _WISHES[name]}).lower().compile()
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in _WISHES.items() if is_known(name)}


@functools.wraps(jax.jit)
def quick_jit(fun=None, **kwargs):
    if fun is None:
        return functools.partial(quick_jit, **kwargs)
    if isinstance(jnp.zeros(()), jax.core.Tracer):  # a part of another program, compiled with it
        return _jit(fun, **kwargs)
    return _jit(fun, compiler_options=_options(), **kwargs)
