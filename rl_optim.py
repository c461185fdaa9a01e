"""Starts the command `rl-optim`, and says what an installation lacks.

The library is the packages `optim`, `agents`, `meta` and `experiments`. These are names that other
people's folders have too. This module has a name of its own, so that it is found beside any of
them. It needs the standard library only.

Examples:
    >>> from rl_optim import require_extra
    >>> require_extra("offline", "json")
    >>> require_extra("offline", "json", "h6py", "minary")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    rl_optim.MissingExtraError: h6py and minary are not installed; they come with the extra ...
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

PACKAGES = ("optim", "agents", "meta", "experiments")
_FOLDER = os.path.dirname(os.path.abspath(__file__))


class MissingExtraError(ImportError):
    """A library that an extra of this distribution brings is not installed."""


def main() -> None:
    """Runs the command line, whatever the folders on Python's path are called.

    Raises:
        SystemExit: with 2 if libraries are missing, 1 if files of the installation are, each with
            one line on standard error; else as `experiments.command_line.main.main` says.
    """
    sys.meta_path.insert(0, _Ours())
    try:
        from experiments.command_line.main import main as run

        run()
    except MissingExtraError as error:
        _fail(str(error), 2)
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in PACKAGES:
            raise
        _fail(
            f"{error}. In {os.path.join(_FOLDER, package)} another installation seems to have "
            "replaced files of ours; install RL-Optim again, in an environment of its own.",
            1,
        )


def require_extra(extra: str, *modules: str) -> None:
    """Makes sure that libraries of an extra can be imported, and imports none.

    Args:
        extra: its name in pyproject.toml.
        *modules: top-level modules.

    Raises:
        MissingExtraError: if some cannot be found; all of them are named.
    """
    missing = [module for module in modules if not _is_there(module)]
    if missing:
        names = " and ".join(filter(None, (", ".join(missing[:-1]), missing[-1])))
        are, they_come = ("are", "they come") if len(missing) > 1 else ("is", "it comes")
        raise MissingExtraError(
            f"{names} {are} not installed; {they_come} with the extra {extra!r}: "
            f"{how_to_install(extra)}.",
            name=missing[0],
        )


def how_to_install(extra: str) -> str:
    """How an extra is installed, as the end of a sentence.

    Examples:
        >>> from rl_optim import how_to_install
        >>> how_to_install("meta")
        "in a copy of RL-Optim's repository, pip install '.[meta]'"
    """
    return f"in a copy of RL-Optim's repository, pip install '.[{extra}]'"


def require_ours(*packages: str) -> None:
    """Makes sure that our packages are the ones that Python finds by their names.

    Args:
        *packages: of `PACKAGES`.

    Raises:
        ImportError: if something else has the name and comes first on Python's path.
    """
    for package in packages:
        found = _origin(package)
        ours = os.path.join(_FOLDER, package, "__init__.py")
        if found is None or not os.path.samefile(found, ours):
            raise ImportError(
                f"RL-Optim's package {package!r} is hidden by {found}; rename that, or keep its "
                "folder off Python's path (python -P leaves out the present folder).",
                name=package,
                path=found,
            )


def _origin(package: str) -> str | None:
    """The file, or the folder if there is no file, that `import` takes for a package."""
    module: ModuleType | None = sys.modules.get(package)
    if module is not None:
        return getattr(module, "__file__", None)
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    return spec.origin or next(iter(spec.submodule_search_locations or ()), None)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # one that is loaded but says nothing about itself
        return module in sys.modules


class _Ours:
    """Finds our packages beside this file, before Python looks anywhere else."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        return PathFinder.find_spec(fullname, [_FOLDER], target) if fullname in PACKAGES else None


def _fail(message: str, code: int) -> None:
    print(f"rl-optim: {message.removesuffix('.')}.", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    from rl_optim import main as run  # not this copy, whose errors the library does not raise

    run()
