"""`optim` needs no extra, and whoever lacks one is told which in one sentence."""

import ast
import doctest
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rl_optim
from experiments.command_line.main import main

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OF_USERS = ("agents", "compare", "meta", "offline")

# A new process in which some libraries are not installed, as far as imports can tell.
HIDING = """
import sys
sys.path[:0] = {path!r}
sys.modules.update(dict.fromkeys({hidden!r}))
"""
OPTIM = """
import jax, jax.numpy as jnp, optim
params = {"layer": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}
def step(optimizer):
    return jax.eval_shape(lambda: optimizer.update(params, optimizer.init(params), params)[0])
for name in optim.optimizer_names():
    optim.describe(name)
    if name not in optim.learned_names():
        jax.eval_shape(optim.make(name, 1e-3).init, params)
assert optim.packaged_meta_params("open")
assert step(optim.load("open@small")).keys() == params.keys()
assert step(optim.make("optim4rl@small")).keys() == params.keys()
assert step(optim.adamo(1e-3)).keys() == params.keys()
print("done")
"""


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def needs_no_extra(requirement: str) -> bool:
    return "extra ==" not in requirement


def brought_by(requirements: list[str]) -> set[str]:
    """Distributions that requirements install, with theirs."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = name_of(requirement)
        if name == "rl-optim":
            extras = re.search(r"\[(.*)\]", requirement)[1].split(",")
            waiting += [one for extra in extras for one in EXTRAS[extra]]
        elif name not in found:
            found.add(name)
            try:
                theirs = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:  # on other systems or Pythons
                theirs = []
            waiting += filter(needs_no_extra, theirs)
    return found


def modules_beyond(distributions: set[str]) -> set[str]:
    """Top-level modules that are installed, but not by one of these distributions or ours."""
    return {
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if not {name_of(name) for name in names} & (distributions | {"rl-optim"})
        and module not in rl_optim.PACKAGES
    }


def run(script: str, hidden: set[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    whole = HIDING.format(hidden=hidden, path=sys.path) + script
    return subprocess.run(
        [sys.executable, "-c", whole, *arguments], capture_output=True, text=True, check=False
    )


def test_optim_needs_what_the_core_installs_alone() -> None:
    hidden = modules_beyond(brought_by(PROJECT["dependencies"]))
    assert {"brax", "evosax", "flax", "gymnax", "matplotlib", "orbax", "rich", "tyro"} <= hidden
    assert not {"jax", "jaxlib", "numpy", "optax", "safetensors", "msgpack"} & hidden
    done = run(OPTIM, hidden)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_the_command_names_the_extra_it_lacks() -> None:
    hidden = modules_beyond(brought_by(PROJECT["dependencies"]))
    done = run("import rl_optim; rl_optim.main()", hidden, "list", "optimizers")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "rl-optim: brax, flax, gymnax, matplotlib, orbax, rich and tyro are not installed; they "
        "come with the extra 'compare': in a copy of RL-Optim's repository, "
        "pip install '.[compare]'.\n"
    )


def test_agents_names_the_extra_it_lacks() -> None:
    done = run("import agents", {"flax"})
    assert "flax is not installed; it comes with the extra 'agents'" in done.stderr


OFFLINE = "offline --algorithm iql --dataset {0} --critic-optimizer adam --out {0}"


@pytest.mark.parametrize(
    ("library", "extra", "command"),
    [
        ("evosax", "meta", "meta-train --optimizer optim4rl --tasks Catch-bsuite --out {}"),
        ("minari", "offline", "collect --env hopper --root {}"),
        ("h5py", "offline", OFFLINE),
    ],
)
def test_a_command_names_the_extra_it_lacks(
    library: str,
    extra: str,
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SystemExit) as stop:
        main(command.format(tmp_path / "x").split())
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line == (
        f"rl-optim: {library} is not installed; it comes with the extra {extra!r}: in a copy of "
        f"RL-Optim's repository, pip install '.[{extra}]'.\n"
    )
    assert not (tmp_path / "x").exists()


def test_the_extras_that_are_named_bring_what_is_missing() -> None:
    distributions = importlib.metadata.packages_distributions()
    named = 0
    for path in (path for package in rl_optim.PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require_extra":
                extra, *modules = (ast.literal_eval(argument) for argument in node.args)
                brought = brought_by(EXTRAS[extra])
                for module in modules:
                    named += 1
                    assert {name_of(name) for name in distributions[module]} & brought, module
    assert named >= 14


def test_all_brings_every_extra_of_users() -> None:
    users = [one for name, extra in EXTRAS.items() if name in OF_USERS for one in extra]
    assert brought_by(EXTRAS["all"]) == brought_by(users)


def test_examples() -> None:
    result = doctest.testmod(rl_optim)
    assert result.attempted >= 4
    assert result.failed == 0
