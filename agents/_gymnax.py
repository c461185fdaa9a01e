"""Gymnax, imported without the plotting libraries with which a few of its environments draw.

Gymnax imports all its environments at once, and some of them import matplotlib and seaborn (which
imports pandas and scipy's statistics) for a method `render`. These take several times as long as
the rest. `importlib.util.LazyLoader` does not help: up to Python 3.11 at least, the statement
`import` itself loads what it made lazy.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

from rl_optim import require_extra

# Of these, and nothing that Gymnax needs for anything else.
_PLOTTING = ("matplotlib", "matplotlib.colors", "matplotlib.pyplot", "seaborn")


class _Later(types.ModuleType):
    """Stands for a module that is imported once something in it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks for
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def _imported_later(names: tuple[str, ...]) -> Iterator[None]:
    """Lets what is imported within have stand-ins for modules that are not imported yet."""
    standing = {name: _Later(name) for name in names if name not in sys.modules}
    for name, module in standing.items():
        parent, _, child = name.rpartition(".")
        if parent in standing:
            setattr(standing[parent], child, module)
    sys.modules.update(standing)
    try:
        yield
    finally:
        for name in standing:
            del sys.modules[name]


require_extra("agents", "gymnax")
with _imported_later(_PLOTTING):
    import gymnax as gymnax
    from gymnax.environments import environment as environment
    from gymnax.environments import spaces as spaces
