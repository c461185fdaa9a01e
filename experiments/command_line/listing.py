"""`rl-optim list`: environments, optimizers and their options, settings and presets."""

from __future__ import annotations

import dataclasses
import fnmatch
import inspect
import shutil
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.command_line.arguments import Command, UsageError, option, read_by
from experiments.command_line.docstrings import described
from experiments.settings import Settings, describe, unknown

if TYPE_CHECKING:
    import optim

LISTS = ("envs", "optimizers", "options", "presets", "settings")
# Of our own optimizers, by what the catalogue calls them; optax's come last.
_GROUPS = {
    "rl": "For reinforcement learning:",
    "general": "General-purpose:",
    "matrix": "For weight matrices:",
    "learned": "Learned, used as NAME@WEIGHTS, with a file of weights or packaged ones:",
}
_LONGEST_LINE = 100

Groups = Mapping[str, Mapping[str, str]]  # by heading: texts by name


def _read_list(text: str) -> str:
    if text not in LISTS:
        raise UsageError(str(unknown("list", text, LISTS)))
    return text


@dataclasses.dataclass(frozen=True)
class List(Command):
    """List environments, optimizers and their options, settings or presets.

    Example: rl-optim list optimizers adam
    """

    what: Annotated[str, tyro.conf.Positional, read_by(_read_list, "{" + ",".join(LISTS) + "}")]
    """What to list."""
    pattern: Annotated[str, tyro.conf.Positional, option("[PATTERN]", "all")] = ""
    """Only names that contain this text, in upper or lower case; with wildcards, names that match
    as a whole, e.g. 'adam*'. For options, the optimizer, e.g. adamo or redo:base=adamo."""

    def run(self) -> None:
        """Prints a table for each group that has a name that matches.

        Raises:
            ValueError: if no name does.
        """
        if self.what == "options":
            print(_options(self.pattern))
            return
        kind, read = {
            "envs": ("environment", _environments),
            "optimizers": ("optimizer", _optimizers),
            "presets": ("preset", _presets),
            "settings": ("setting", _settings),
        }[self.what]
        groups, note = read()
        names = [name for rows in groups.values() for name in rows]
        chosen = [name for name in names if _matches(name, self.pattern)]
        if not chosen:
            import optim

            hint = optim.suggestion(self.pattern, names)
            raise ValueError(f"no {kind} matches {self.pattern!r}; {hint}.")
        for heading, rows in groups.items():
            if found := sorted(set(rows) & set(chosen), key=str.lower):
                print(f"{heading}\n\n{table({name: rows[name] for name in found})}\n")
        print(wrapped(note))


def table(rows: Mapping[str, str]) -> str:
    """Names with texts beside them, as wide as the terminal; a text's own lines stay apart."""
    indent = " " * (max(map(len, rows)) + 2)
    return "\n".join(name + wrapped(text, indent)[len(name) :] for name, text in rows.items())


def wrapped(text: str, indent: str = "") -> str:
    """Breaks lines at the terminal's width, but not beyond what reads well."""
    width = max(min(shutil.get_terminal_size().columns, _LONGEST_LINE), len(indent) + 20)
    lines = []
    for line in text.splitlines():
        start = indent + line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line.strip(),
            width,
            initial_indent=start,
            subsequent_indent=start,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _matches(name: str, pattern: str) -> bool:
    pattern = pattern.lower()
    if not any(wildcard in pattern for wildcard in "*?["):
        pattern = f"*{pattern}*"
    return fnmatch.fnmatchcase(name.lower(), pattern)


def _environments() -> tuple[Groups, str]:
    from agents.environments import BRAX, GRIDWORLDS
    from experiments.online.tasks import TASKS

    groups: dict[str, dict[str, str]] = {
        group: {} for group in ("MinAtar", "Classic control and bsuite", "Gridworlds", "Brax")
    }
    for name, task in TASKS.items():
        if name.endswith("-MinAtar"):
            group = "MinAtar"
        elif name in GRIDWORLDS:
            group = "Gridworlds"
        else:
            group = "Brax" if name in BRAX else "Classic control and bsuite"
        settings = (
            "published settings"
            if task.published
            else "family defaults, not tuned for this environment"
        )
        groups[group][name] = f"{task.learning_rate:<7g}{settings}"
    return {f"{group}:": rows for group, rows in groups.items()}, (
        "The number is the default learning rate.\n"
        "Options follow the name. Brax's environments take backend=generalized, positional "
        "(default), spring or mjx, e.g. ant:backend=spring; all others take Gymnax's parameters, "
        "e.g. CartPole-v1:max_steps_in_episode=200.\n"
        "Tasks can change while an agent learns, every phase=STEPS environment steps:\n"
        "  flip=true (classic control): actions are turned round in every second phase, e.g. "
        "CartPole-v1:flip=true,phase=2e4.\n"
        "  offset=2 (classic control): a constant is added to observations, drawn for each phase "
        "with this standard deviation.\n"
        "  permute=channels, actions or both (MinAtar): they are permuted anew.\n"
        "  Sequence-MinAtar:games=Breakout+Asterix,phase=1.5e6: games in turns.\n"
        "  move=true (gridworlds): rewards move among the objects.\n"
        "  friction=0.02..2 (Brax on feet): the ground's, log-uniform; wear=0.3..1 (Brax): of each "
        "actuator's strength, which only falls; e.g. "
        "ant:backend=spring,friction=0.02..2,phase=2e6. With change=linear they go from the first "
        "number to the second in one phase, with change=sinusoidal back and forth. On mjx friction "
        "needs solver iterations: there are 4 with it, or solver_iterations=N.\n"
        "  table=1 draws other phases than table=0; all seeds and optimizers meet the same."
    )


def _optimizers() -> tuple[Groups, str]:
    import optim

    groups: dict[str, dict[str, str]] = {heading: {} for heading in _GROUPS.values()}
    from_optax: dict[str, str] = {}
    for name in optim.optimizer_names():
        if details := optim.details(name):
            groups[_GROUPS[details.group]][name] = _details(details)
        else:
            from_optax[name] = optim.describe(name)
    for name in optim.learned_names():
        groups[_GROUPS["learned"]][name] = _learned(name)
    return groups | {"From optax:": from_optax}, (
        "Unless stated otherwise, our own optimizers need no extra inputs and cost about as much "
        "as Adam.\n"
        "Options follow the name: adam:learning_rate=3e-4,b2=0.99 or "
        "open@weights.safetensors:key=1; rl-optim list options adam explains them.\n"
        "Actor and critic can have optimizers of their own: actor=adam+critic=adamo:kappa=1. In a "
        "chain, 'clip:0.5|l2:1e-4|adam|decoupled_decay:0.1', clip and l2 change the gradient, "
        "clip and decoupled_decay the update. MODULE:NAME is a function of your own. A mask names "
        "networks: adamo:matrix_mask=critic.\n"
        "All of them, learned ones too, take weight decay: l2=1e-4 adds 1e-4 times the parameters "
        "to the gradient that the optimizer gets; decoupled_decay=1e-4 takes 1e-4 times the "
        "learning rate times the parameters (for learned optimizers 1e-4 times the parameters) "
        "from them, beside the update."
    )


def _presets() -> tuple[Groups, str]:
    from experiments.meta_training.presets import PIPELINE_PRESETS
    from experiments.offline.presets import OFFLINE_PRESETS
    from experiments.online.presets import PRESETS

    presets: dict[str, Mapping[str, Any]] = {
        "rl-optim compare": PRESETS,
        "rl-optim offline": OFFLINE_PRESETS,
        "rl-optim meta-train --method pipeline": PIPELINE_PRESETS,
    }
    groups = {
        f"{command} --preset NAME:": {name: preset.description for name, preset in known.items()}
        for command, known in presets.items()
    }
    return groups, "Options on the command line override the preset's."


def _settings() -> tuple[Groups, str]:
    from agents.ppo import PPOConfig
    from experiments.online.tasks import FAMILIES

    texts = described(PPOConfig) | described(Settings)
    rows = {}
    for field in dataclasses.fields(Settings):
        values = [getattr(family, field.name) for family in FAMILIES.values()]
        as_json = [[*value] if isinstance(value, tuple) else value for value in values]
        first, *others = (describe(field.name, value) for value in as_json)
        named = zip([*FAMILIES][1:], others, strict=True)
        differ = "".join(f", {family} {value}" for family, value in named if value != first)
        rows[field.name] = f"({first}{differ}) {texts[field.name].removeprefix('static; ')}."
    return {"rl-optim compare, train and sweep --set KEY=VALUE:": rows}, (
        "In brackets the defaults, MinAtar's first. Learning rates and the like are options of the "
        "optimizer, adam:learning_rate=3e-4: see rl-optim list options adam."
    )


def _options(text: str) -> str:
    """What an optimizer takes after its name."""
    from optim.registry import documented, option_parameters

    if not text:
        raise ValueError("list options needs an optimizer, e.g. rl-optim list options adamo.")
    parameters = option_parameters(text)
    said = {"base": "the name of the optimizer that this one wraps"}
    for function in documented(text):
        said |= described(function)
    rows = {
        name: _default(parameter) + (f"\n  {said[name]}." if name in said else "")
        for name, parameter in parameters.items()
    }
    heading = f"Options of {text}, with (default) and what they take in NAME:key=value,...:"
    return f"{wrapped(heading)}\n\n{table(rows)}"


def _default(parameter: inspect.Parameter) -> str:
    """What an option takes, and what it is unless it is given."""
    from optim.spec import takes

    default = parameter.default
    if default is parameter.empty:
        shown = "the environment's" if parameter.name == "learning_rate" else "no default"
    else:
        shown = default.__name__ if callable(default) else describe(parameter.name, default)
    kind = takes(parameter)
    return f"({shown}) {kind}" if kind else f"({shown}) in Python only"


def _details(details: optim.OptimizerDetails) -> str:
    """What one of our own optimizers does, comes from, needs and costs."""
    facts = [details.paper]
    if details.inputs != "none":
        facts.append(f"Extra inputs: {details.inputs}")
    facts.append(f"State per parameter: {details.state}")
    if details.cost != "none":
        facts.append(f"Cost beyond Adam's: {details.cost}")
    if details.wraps:
        facts.append("Wraps the optimizer that its option base names, else Adam")
    return f"{details.summary}\n  {'. '.join(facts)}."


def _learned(name: str) -> str:
    """The same of a learned optimizer, and its packaged weights."""
    import optim

    details = optim.details(name)
    assert details is not None
    packaged = [_weights(name, weights) for weights in optim.packaged_meta_params(name)]
    return "\n  ".join([_details(details), *(packaged or ["No packaged weights."])])


def _weights(name: str, weights: str) -> str:
    """What a packaged file says of itself; it is not checked, which would take long."""
    import safetensors

    from optim.learned.meta_params import find_meta_params

    with safetensors.safe_open(find_meta_params(name, weights), framework="numpy") as file:
        says = file.metadata()
    return (
        f"{name}@{weights}: trained on {says['training_tasks']}; {says['licence']}; "
        f"{says['origin']}."
    )
