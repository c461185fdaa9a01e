"""`rl-optim list`: what it prints, in which order, and how wide."""

import dataclasses
import subprocess
import sys

import pytest

import optim
from experiments.command_line import main as cli
from experiments.command_line.docstrings import described
from experiments.meta_training.presets import PIPELINE_PRESETS
from experiments.offline.presets import OFFLINE_PRESETS
from experiments.online.presets import PRESETS
from experiments.online.tasks import TASKS
from experiments.settings import Settings


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def listed(capsys: pytest.CaptureFixture[str], arguments: str) -> dict[str, list[str]]:
    """What is listed, by heading."""
    cli.main(["list", *arguments.split()])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    groups: dict[str, list[str]] = {}
    for previous, line in zip(["", *lines], lines, strict=False):
        if line.endswith(":") and not previous:
            groups[line] = names = []
        elif line and groups and not line.startswith(" "):
            if previous or not names:
                names.append(line.split()[0])
            else:
                break  # the note after the last group
    return groups


def test_optimizers(capsys: pytest.CaptureFixture[str]) -> None:
    groups = listed(capsys, "optimizers")
    assert [heading.split()[0] for heading in groups] == [
        *("For", "General-purpose:", "For", "Learned,", "From")
    ]
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(optim.optimizer_names() + optim.learned_names())
    for group in groups.values():
        assert group == sorted(group)
    rl, general, matrix, learned, optax = groups.values()
    assert learned == optim.learned_names()
    for name, group in {"adam_rel": rl, "adabound": general, "kron": matrix}.items():
        assert name in group
    assert all(optim.details(name) is None for name in optax)


def test_what_wraps_another_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["list", "optimizers", "weight_clipping"])
    assert "Wraps the optimizer that its option base names" in " ".join(
        capsys.readouterr().out.split()
    )
    cli.main(["list", "optimizers", "adamo"])
    assert "base" not in capsys.readouterr().out


def test_environments_and_presets(capsys: pytest.CaptureFixture[str]) -> None:
    envs = listed(capsys, "envs")
    assert sorted(name for group in envs.values() for name in group) == sorted(TASKS)
    assert envs["MinAtar:"] == sorted(name for name in TASKS if "MinAtar" in name)
    assert "inverted_pendulum" in envs["Brax:"]
    presets = listed(capsys, "presets")
    assert [set(group) for group in presets.values()] == [
        *map(set, (PRESETS, OFFLINE_PRESETS, PIPELINE_PRESETS))
    ]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("optimizers MUON", {"muon"}),
        ("optimizers momo", {"momo", "momo_adam"}),
        ("optimizers momo*", {"momo", "momo_adam"}),
        ("optimizers *momo", {"momo"}),
        ("optimizers sub*_[mn]*", {"subset_norm", "subspace_momentum"}),
        ("envs breakout", {"Breakout-MinAtar"}),
        ("envs MOUNTAINCAR-v?", {"MountainCar-v0"}),
        ("presets ant", {"ant", "collapse_ant"}),
    ],
)
def test_patterns(arguments: str, names: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    groups = listed(capsys, arguments)
    assert {name for group in groups.values() for name in group} == names
    assert all(groups.values())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("optimizers adma", "no optimizer matches 'adma'; the nearest is 'adam'."),
        ("optimizers ada", None),
        ("presets quick?", "no preset matches 'quick?'; the nearest is 'quickstart'."),
    ],
)
def test_no_match(arguments: str, line: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if line is None:
        assert listed(capsys, arguments)
        return
    with pytest.raises(SystemExit) as stop:
        cli.main(["list", *arguments.split()])
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out, printed.err) == (2, "", f"rl-optim: {line}\n")


def test_what_an_entry_says(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["list", "optimizers", "adahessian"])
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "Yao et al., 2021, arXiv 2006.00719. Extra inputs: obj_fn or hvp. State per parameter: 2. "
        "Cost beyond Adam's: one Hessian-vector product, about two gradients."
    ) in printed
    cli.main(["list", "optimizers", "open"])
    assert (
        "open@breakout: trained on Breakout-MinAtar; Apache-2.0; rl-optim meta-train, "
        "method imitation, seed 0."
    ) in " ".join(capsys.readouterr().out.split())
    cli.main(["list", "envs", "Acrobot"])
    assert "Acrobot-v1  0.001  family defaults, not tuned" in capsys.readouterr().out


def test_settings_with_defaults_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    groups = listed(capsys, "settings")
    assert sorted(*groups.values()) == sorted(field.name for field in dataclasses.fields(Settings))
    cli.main(["list", "settings", "num_envs"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(64, classic control 4, with continuous actions 16, Brax 2048) environments " in text
    cli.main(["list", "settings", "widths"])
    assert "(64x64, gridworlds 32) units of each network's hidden" in capsys.readouterr().out


def test_options_of_an_optimizer(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(text: str) -> str:
        cli.main(["list", "options", text])
        return " ".join(capsys.readouterr().out.split())

    for text in ("adamo", "redo:base=adamo", "lion", "open", "learned_correction"):
        printed = shown(text)
        assert all(f" {name} (" in printed for name in optim.option_names(text))
    printed = shown("adamo")
    assert "learning_rate (the environment's) a number step size, greater than 0" in printed
    assert "kappa (0.0001) a number size of the correction relative to Adam's" in printed
    assert (
        "matrix_mask (none) names of networks joined by +, e.g. critic or actor+critic" in printed
    )
    assert "l2 (0.0) a number" in printed
    assert "base (adam_gnt) a name the name of the optimizer that this one wraps." in shown("redo")
    with pytest.raises(SystemExit):
        cli.main(["list", "options", "adma"])
    assert capsys.readouterr().err == "rl-optim: unknown optimizer 'adma'; the nearest is 'adam'.\n"
    with pytest.raises(SystemExit):
        cli.main(["list", "options"])
    assert "list options needs an optimizer, e.g. " in capsys.readouterr().err


def test_what_docstrings_say() -> None:
    def documented(first: int, second: int) -> None:
        """A function.

        Args:
            first: one thing. And
                more, :class:`~a.b.C` and ``code``.
            second (int): the last: of them.

        Returns:
            Nothing: at all.
        """

    assert described(documented) == {
        "first": "one thing. And more, a.b.C and `code`",
        "second": "the last: of them",
    }
    assert described(lambda: None) == {}


def test_a_list_needs_neither_rich_nor_other_commands_parsers() -> None:
    script = (
        "import sys, experiments.command_line.main as cli\n"
        "cli.main(['list', 'presets'])\n"
        "print(sorted({'rich', 'typeguard'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
