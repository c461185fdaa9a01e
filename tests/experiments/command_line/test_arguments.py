"""Arguments: which seeds, and that errors speak of options as they are typed."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.command_line import main as cli
from experiments.command_line.compare import Compare, Train
from experiments.command_line.meta_train import MetaTrain
from experiments.command_line.offline import Offline
from experiments.meta_training.evolution import STRATEGY_OPTIONS
from experiments.meta_training.imitation import ImitationOptions
from experiments.meta_training.pipeline import PipelineOptions
from experiments.meta_training.request import MetaRequest
from experiments.online.presets import PRESETS
from experiments.settings import Settings
from meta.strategies import STRATEGIES

BEFORE = {
    "compare": "compare --envs CartPole-v1 --optimizers adam --out",
    "train": "train --env CartPole-v1 --optimizer adam --out",
    "meta-train": "meta-train --optimizer optim4rl --tasks Catch-bsuite --out",
    "meta-sweep": "meta-sweep --optimizer optim4rl --tasks Catch-bsuite --over sigma=0.1,1 --out",
    "offline": "offline --algorithm td3_bc --dataset none --critic-optimizer adam --out",
    "collect": "collect --env hopper --root",
}


def parsed(command: str) -> cli.Command:
    return cli._parse(shlex.split(command))


# Seeds


@pytest.mark.parametrize("command", ["compare", "train", "offline"])
@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("4", (0, 1, 2, 3)),
        ("1e1", tuple(range(10))),
        ("10000", tuple(range(10_000))),
        ("3-6", (3, 4, 5, 6)),
        ("7-7", (7,)),
        ("0,2,5", (0, 2, 5)),
        ("5,0,2", (0, 2, 5)),
        ("0-3,8", (0, 1, 2, 3, 8)),
        ("8, 0-1, 4-5", (0, 1, 4, 5, 8)),
        ("4294967290-4294967295", tuple(range(2**32 - 6, 2**32))),
    ],
)
def test_seeds(command: str, text: str, seeds: tuple[int, ...]) -> None:
    read = parsed(f"{BEFORE[command]} x --seeds '{text}'")
    assert isinstance(read, Compare | Train | Offline)
    assert read.seeds == seeds


def test_seeds_that_are_not_given() -> None:
    train, compare, preset = (
        parsed(command)
        for command in (f"{BEFORE['train']} x", f"{BEFORE['compare']} x", "compare --preset ant")
    )
    assert isinstance(train, Train)
    assert isinstance(compare, Compare)
    assert isinstance(preset, Compare)
    assert train.plan().seeds == compare.plan().seeds == (0, 1, 2, 3)
    assert preset.plan().seeds == tuple(range(PRESETS["ant"].seeds))


@pytest.mark.parametrize("command", ["compare", "train", "offline"])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("6-3", "must name ranges from low to high; got '6-3'."),
        ("0-3,2", "must name each seed once; got 2 twice."),
        ("5,5", "must name each seed once; got 5 twice."),
        ("0-10000", "must name at most 10000 seeds; got '0-10000'."),
        ("10001", "must name at most 10000 seeds; got '10001'."),
        ("0-4294967295", "must name at most 10000 seeds; got '0-4294967295'."),
        ("4294967296-4294967297", "must name seeds up to 4294967295; got 4294967297."),
        ("1,4294967296", "must name seeds up to 4294967295; got 4294967296."),
        *(
            (
                text,
                "must be a number from 1 to 10000, a range such as 3-6 or a list such as 0,2,5; "
                f"got {text!r}.",
            )
            for text in ("1,", "3-", "-3-5", "1-2-3", "1;2", "1,,2", "1.5,2", "a-b")
        ),
    ],
)
def test_seeds_that_are_refused(command: str, text: str, line: str) -> None:
    with pytest.raises(cli.UsageError) as refused:
        parsed(f"{BEFORE[command]} x --seeds '{text}'")
    assert str(refused.value) == f"--seeds {line}"


def test_a_range_of_seeds_is_what_is_trained(
    comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = "--steps 1200 --set num_envs=4 num_steps=16 minibatches=2 epochs=2 widths=8x8 --no-cache"
    cli.main(shlex.split(f"{BEFORE['train']} {tmp_path / 'run'} --seeds 1-2,4 {tiny}"))
    metrics = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in metrics[1:4]] == ["1", "2", "4"]
    # A seed is the same whichever are beside it.
    others = (comparison / "CartPole-v1" / "adam" / "metrics.csv").read_text().splitlines()
    assert metrics[0] == others[0]
    for ours, theirs in zip(metrics[1::3], others[2::3], strict=True):
        assert ours.split(",")[:6] == theirs.split(",")[:6]


# Errors

SETTINGS = {
    *STRATEGY_OPTIONS,
    *(
        field.name
        for known in (Settings, PipelineOptions, ImitationOptions)
        for field in dataclasses.fields(known)
    ),
}


@pytest.mark.parametrize(
    ("command", "bad", "named"),
    [
        ("train", "--steps 1e30", "--steps"),
        ("train", "--seeds 3-1", "--seeds"),
        ("train", "--set num_envs=0", "num_envs"),
        ("train", "--set minibatches=7", "minibatches"),
        ("compare", "--steps 1e30", "--steps"),
        ("meta-train", "--seed x", "--seed"),
        ("meta-train", "--seed -1", "--seed"),
        ("meta-train", "--seed 4294967296", "--seed"),
        ("meta-train", "--population 3", "--population"),
        ("meta-train", "--population 5", "--population"),
        ("meta-train", "--at-once 0", "--at-once"),
        ("meta-train", "--lives 0", "--lives"),
        ("meta-train", "--generations 0", "--generations"),
        ("meta-train", "--evaluate-every 0", "--evaluate-every"),
        ("meta-train", "--evaluation-seeds 0", "--evaluation-seeds"),
        ("meta-train", "--evaluation-steps 0", "--evaluation-steps"),
        ("meta-train", "--evaluation-steps x", "--evaluation-steps"),
        ("meta-train", "--evaluation-steps 1 2", "--evaluation-steps"),
        ("meta-train", "--sampling some", "--sampling"),
        ("meta-train", "--sampling pairs --strategy snes", "--sampling"),
        ("meta-train", "--stretches 3", "--stretches"),
        ("meta-train", "--stretches 1 --strategy persistent_es", "--stretches"),
        ("meta-train", "--strategy snes:", "--strategy"),
        ("meta-train", "--strategy openai_es:sigma=0", "sigma"),
        ("meta-train", "--strategy snes:sigma_decay=0.9", "sigma_decay"),
        ("meta-train", "--steps 0", "--steps"),
        ("meta-train", "--steps x", "--steps"),
        ("meta-train", "--steps 1 2", "--steps"),
        ("meta-train", "--normalisers 0", "--normalisers"),
        ("meta-train", "--learning-rates 0", "--learning-rates"),
        ("meta-train", "--reward-scales inf", "--reward-scales"),
        ("meta-train", "--target adam", "--target"),
        ("meta-train", "--set anneal=true", "anneal"),
        ("meta-train", "--method pipeline --pipeline agents=x", "agents"),
        ("meta-train", "--method pipeline --pipeline agents=0", "agents"),
        ("meta-train", "--method pipeline --pipeline window=0", "window"),
        ("meta-train", "--method pipeline --pipeline at_once=0", "--pipeline"),
        ("meta-train", "--method pipeline --pipeline agents_at_once=0", "agents_at_once"),
        ("meta-train", "--method imitation", "--target"),
        ("meta-train", "--method imitation --target adam --imitation agents=0", "agents"),
        ("offline", "--seeds 0", "--seeds"),
        ("offline", "--evaluations x", "--evaluations"),
        ("offline", "--critic-learning-rate=x", "--critic-learning-rate"),
        ("offline", "--subset-seed 1.5", "--subset-seed"),
        ("collect", "--seed -1", "--seed"),
        ("collect", "--seed x", "--seed"),
        ("collect", "--noise x", "--noise"),
        ("collect", "--noise -1", "--noise"),
    ],
)
def test_errors_name_what_was_typed(
    command: str, bad: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(f"{BEFORE[command]} {tmp_path / 'out'} --no-cache {bad}"))
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert not (tmp_path / "out").exists()
    options = cli._options(command)
    assert named in options or named in SETTINGS
    assert re.search(rf"(?<![\w-]){re.escape(named)}(?![\w-])", line)
    # No name of Python's that could not be typed.
    assert set(re.findall(r"--[\w-]+", line)) <= set(options)
    typed = {*SETTINGS, *STRATEGIES}
    assert set(re.findall(r"(?<![\w'./-])[a-z]+(?:_[a-z]+)+", line)) <= typed


def test_python_names_are_replaced_in_sentences_only() -> None:
    command = MetaTrain(optimizer="optim4rl", out=Path("x"))
    for message, spoken in {
        "at_once must be 1; got 2.": "--at-once must be 1; got 2.",
        "steps must be 1.": "--steps must be 1.",
        "the steps are 1.": "the steps are 1.",
        "task_sampling must be 'all', as evaluation_seeds is.": (
            "--sampling must be 'all', as --evaluation-seeds is."
        ),
        "unknown setting 'at_once'.": "unknown setting 'at_once'.",
        "runs/at_once exists; agents_at_once must be 1.": (
            "runs/at_once exists; agents_at_once must be 1."
        ),
    }.items():
        assert cli._as_typed(message, command) == spoken
    assert cli._as_typed("at_once must be 1.", None) == "at_once must be 1."
    offline = "evaluations must be at least 0 and evaluation_episodes at least 1."
    assert cli._as_typed(offline, Offline()) == (
        "--evaluations must be at least 0 and --evaluation-episodes at least 1."
    )


# Meta-training


def test_meta_train_has_what_a_request_has() -> None:
    request, command = (
        {field.name: field.default for field in dataclasses.fields(known)}
        for known in (MetaRequest, MetaTrain)
    )
    of_command = {"out": dataclasses.MISSING, "resume": False, "overwrite": False, "cache": True}
    assert command == request | of_command | {"log": ()}


# Devices


@pytest.mark.parametrize(
    ("platform", "way_out"),
    [
        pytest.param(
            *("cuda", "unset JAX_PLATFORMS or install jax[cuda]"),
            marks=pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU"),
        ),
        ("abacus", "unset JAX_PLATFORMS"),
    ],
)
def test_without_a_device(platform: str, way_out: str, comparison: Path, tmp_path: Path) -> None:
    commands = [
        *(f"{before} {tmp_path / 'out'}" for before in BEFORE.values()),
        f"convert weights.npy {tmp_path / 'weights.safetensors'}",
        "list optimizers adam",
        "list envs ant",
        f"report {comparison} --out {tmp_path / 'report'}",
    ]
    script = (
        "import shlex, sys, experiments.command_line.main as cli\n"
        "for command in sys.argv[1:]:\n"
        "    try: cli.main(shlex.split(command))\n"
        "    except SystemExit as stop: print(stop.code, file=sys.stderr)\n"
        "    else: print('done', file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *commands],
        env=os.environ | {"JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
        timeout=300,
    )
    line = f"rl-optim: no device of the platform {platform} was found; {way_out}."
    assert done.stderr.splitlines() == [line, "2"] * 7 + ["done"] * 3
    assert {path.name for path in tmp_path.iterdir()} == {"report"}
