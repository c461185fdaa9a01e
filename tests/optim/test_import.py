"""What `import optim` brings with it, which every command waits for."""

import subprocess
import sys

SCRIPT = """
import sys
import jax, optax
before = set(sys.modules)
import optim
names = optim.optimizer_names()
lines = [optim.describe(name) for name in names]
print(*sorted(set(sys.modules) - before))
"""


def test_nothing_large_is_imported_beside_jax_and_optax():
    script = f"import sys; sys.path[:0] = {sys.path!r}\n{SCRIPT}"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    modules = done.stdout.split()
    packages = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names
    assert packages <= {"jax", "numpy", "optim", "safetensors"}
    assert "optim.registry" in modules
    assert [module for module in modules if "pallas" in module or "jax.extend" in module] == []
