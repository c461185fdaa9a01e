"""`rl-optim list`: environments, optimizers and presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.command_line.arguments import Command, UsageError, read_by
from experiments.settings import unknown

if TYPE_CHECKING:
    from rich.table import Table

    import optim

LISTS = ("envs", "optimizers", "presets")


def _read_list(text: str) -> str:
    if text not in LISTS:
        raise UsageError(str(unknown("list", text, LISTS)))
    return text


@dataclasses.dataclass(frozen=True)
class List(Command):
    """List environments, optimizers or presets."""

    what: Annotated[str, tyro.conf.Positional, read_by(_read_list, "{" + ",".join(LISTS) + "}")]
    """What to list."""

    def run(self) -> None:
        """Prints a line each; our own optimizers have more."""
        {"envs": _environments, "optimizers": _optimizers, "presets": _presets}[self.what]()


def _environments() -> None:
    from experiments.online.tasks import TASKS

    rows = {
        name: ("published settings" if task.published else "settings of its kind, untuned")
        + f"; learning rate {task.learning_rate:g}"
        for name, task in TASKS.items()
    }
    _print(
        _table(rows),
        "\nBrax's environments (ant and what follows) take :backend=generalized, positional "
        "(default), spring or mjx; all others take Gymnax's parameters, e.g. "
        ":max_steps_in_episode=200.",
    )


def _optimizers() -> None:
    import optim

    others, ours = {}, {}
    for name in optim.optimizer_names():
        if details := optim.details(name):
            ours[name] = _details(details)
        else:
            others[name] = optim.describe(name)
    _print(
        _table(ours),
        "\nLearned, with a file of weights, or with weights that are packaged:\n",
        _table({name: _learned(name) for name in optim.learned_names()}),
        "\nFrom optax:\n",
        _table(others),
        "\nOptions follow the name: adam:learning_rate=3e-4,b2=0.99, "
        "open@weights.safetensors:key=1.",
    )


def _presets() -> None:
    from experiments.meta_training.presets import PIPELINE_PRESETS
    from experiments.offline.presets import OFFLINE_PRESETS
    from experiments.online.presets import PRESETS

    tables: list[tuple[str, Mapping[str, Any]]] = [
        ("rl-optim compare", PRESETS),
        ("rl-optim offline", OFFLINE_PRESETS),
        ("rl-optim meta-train --method pipeline", PIPELINE_PRESETS),
    ]
    for command, presets in tables:
        _print(
            f"With {command} --preset NAME:\n",
            _table({name: preset.description for name, preset in presets.items()}),
            "",
        )


def _details(details: optim.OptimizerDetails) -> str:
    """What one of our own optimizers does, comes from, needs and costs."""
    from rich.markup import escape

    facts = [
        f"{details.paper}; extra inputs: {details.inputs}",
        f"state per parameter: {details.state}",
        f"cost beyond Adam's: {details.cost}",
    ]
    if details.package is not None:
        facts.append(f"needs the package {details.package}")
    return f"{details.summary}\n[dim]{escape('; '.join(facts))}.[/dim]"


def _learned(name: str) -> str:
    """The same of a learned optimizer, and its packaged weights."""
    import optim

    details = optim.details(name)
    assert details is not None
    packaged = ", ".join(f"{name}@{weights}" for weights in optim.packaged_meta_params(name))
    return f"{_details(details)}\n[dim]Packaged: {packaged or 'none'}.[/dim]"


def _table(rows: Mapping[str, str]) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _print(*parts: Table | str) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for part in parts:
        console.print(part)
