"""The command line: what it trains, what it prints, and how it turns bad input down."""

import csv
import dataclasses
import gc
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
from quick import quick_jit

from experiments.command_line import main as cli
from experiments.command_line.compare import Plan
from experiments.command_line.progress import TrainingProgress
from experiments.online import training
from experiments.online.tasks import make_environment
from experiments.runs.stopping import Terminated
from experiments.runs.training import Point

TINY = "--set num_envs=4 num_steps=16 minibatches=2 epochs=2 widths=8x8"
TRAIN = f"train --env CartPole-v1 --optimizer adam --steps 1200 --seeds 3 {TINY} --no-cache"
COMPARE = TRAIN.replace("train --env", "compare --envs").replace("optimizer", "optimizers")


def fails(capsys: pytest.CaptureFixture[str], arguments: str, code: int = 2) -> str:
    """The one line on stderr with which the command line gives up."""
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(arguments))
    printed = capsys.readouterr()
    assert stop.value.code == code
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("rl-optim: ")
    return line.removeprefix("rl-optim: ")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# Training


def test_comparison_writes_what_it_documents(comparison: Path) -> None:
    run = comparison / "CartPole-v1" / "adam"
    config = json.loads((run / "config.json").read_text())
    assert config["environment"] == "CartPole-v1"
    assert config["optimizer"] == "adam"
    assert config["steps"] == 1216  # whole iterations of 4 x 16
    assert config["iterations"] == 19
    assert config["seeds"] == [0, 1, 2]
    assert config["settings"]["widths"] == [8, 8]
    assert config["versions"]["jax"]
    metrics = read(run / "metrics.csv")
    assert [(row["point"], row["seed"]) for row in metrics] == [
        (str(point), str(seed)) for point in range(19) for seed in range(3)
    ]
    assert [int(row["step"]) for row in metrics[::3]] == [64 * (i + 1) for i in range(19)]
    assert len(read(run / "timing.csv")) == 19
    assert [row["seed"] for row in read(run / "evaluation.csv")] == ["0", "1", "2"]
    # In Cart-pole an episode's return is its length.
    for row in metrics:
        assert row["episode_return"] == row["episode_length"]
    names = {"summary.csv", "summary.md", "summary.tex", "CartPole-v1"}
    names |= {"curves.png", "curves.svg", "curves.pdf"}
    assert {path.name for path in comparison.iterdir()} == names


def test_order_of_the_report_is_the_users(comparison: Path) -> None:
    rows = read(comparison / "summary.csv")
    assert [row["optimizer"] for row in rows] == ["adam", "sgd:learning_rate=1e30"]


def test_diverged_seeds_are_counted_and_stop_nothing(comparison: Path) -> None:
    adam, diverged = read(comparison / "summary.csv")
    assert (adam["diverged_seeds"], adam["finished"]) == ("0", "1")
    assert (diverged["diverged_seeds"], diverged["finished"]) == ("3", "1")
    lowest = min(
        float(row["episode_return"])
        for row in read(comparison / "CartPole-v1" / "sgd-learning_rate=1e30" / "metrics.csv")
        if row["episode_return"]
    )
    assert float(diverged["final_return_mean"]) == lowest
    assert float(diverged["evaluation_return_mean"]) == lowest


def test_finished_runs_are_only_reported_again(
    comparison: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs"
    shutil.copytree(comparison, out)
    for file in out.iterdir():
        if file.is_file():
            file.unlink()
    before = contents(out)
    monkeypatch.setattr(training, "compiled", None)
    both = COMPARE.replace("adam", "adam sgd:learning_rate=1e30")
    cli.main(shlex.split(f"{both} --out {out} --resume"))
    after = contents(out)
    assert {path: after[path] for path in before} == before
    summary = (out / "summary.csv").read_text().replace(str(out), str(comparison))
    assert summary == (comparison / "summary.csv").read_text()


def test_optimizers_can_be_added_to_a_comparison(
    comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    shutil.copytree(comparison, out)
    before = contents(out / "CartPole-v1")
    both = COMPARE.replace("adam", "adam adam:learning_rate=0.5")
    cli.main(shlex.split(f"{both} --out {out} --resume"))
    after = contents(out / "CartPole-v1")
    assert {path: after[path] for path in before} == before
    assert [row["optimizer"] for row in read(out / "summary.csv")] == [
        "adam",
        "adam:learning_rate=0.5",
        "sgd:learning_rate=1e30",
    ]
    printed = capsys.readouterr()
    others = f"{Path('CartPole-v1') / 'sgd-learning_rate=1e30'}"
    assert f"The report also holds runs that were in {out} before: {others}.\n" in printed.out
    assert "adam:learning_rate=0.5: done, 3,648 of 3,648 steps" in printed.err
    assert f"Written: {out}/summary.csv" in printed.out


def test_train_writes_the_same_as_compare(comparison: Path, tmp_path: Path) -> None:
    cli.main(shlex.split(f"{TRAIN} --out {tmp_path / 'run'}"))
    for file in ("metrics.csv", "evaluation.csv"):
        expected = (comparison / "CartPole-v1" / "adam" / file).read_bytes()
        assert (tmp_path / "run" / file).read_bytes() == expected
    assert (tmp_path / "run" / "summary.md").exists()


def test_arms_with_labels_and_decay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A comparison of A2C under optimizers that decay the weights, and one that does not."""
    tiny = "--set num_envs=4 num_steps=16 widths=8 learner=a2c reward_scale=0.1 max_grad_norm=inf"
    optimizers = "usual=adam both=adam:l2=0.5,decoupled_decay=10"
    command = f"compare --envs CartPole-v1 --optimizers {optimizers} --steps 640 --seeds 2 {tiny}"
    cli.main(shlex.split(f"{command} --no-cache --out {tmp_path / 'out'}"))
    assert [row["optimizer"] for row in read(tmp_path / "out" / "summary.csv")] == [
        "usual",
        "both",
    ]
    assert "usual: done" in capsys.readouterr().err
    runs = tmp_path / "out" / "CartPole-v1"
    config = json.loads((runs / "both" / "config.json").read_text())
    assert (config["label"], config["optimizer"]) == ("both", "adam:l2=0.5,decoupled_decay=10")
    assert "l2=0.5" in config["resolved_optimizer"]
    assert (config["algorithm"], config["settings"]["epochs"]) == ("a2c", 1)
    norms = {}
    for name in ("usual", "both"):
        with safetensors.safe_open(runs / name / "agents.safetensors", framework="numpy") as file:
            norms[name] = sum(float(np.abs(file.get_tensor(key)).sum()) for key in file.keys())  # noqa: SIM118
    assert norms["both"] < norms["usual"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--optimizer adam:l2=-1", "l2 must be in [0, inf), got -1."),
        ("--optimizer adam:decoupled_decay=inf", "decoupled_decay must be in [0, inf), got inf."),
        ("--optimizer open@breakout:l2=nan", "l2 must be in [0, inf), got nan."),
        (
            "--optimizer trac:decoupled_decay=1",
            "decoupled_decay must be 0 for 'trac', which works out the parameters from copies of "
            "its own and would undo it; l2 has an effect.",
        ),
        (
            "--optimizer adam --set restart=true",
            "restarts need an environment that changes in phases; 'CartPole-v1' does not.",
        ),
        (
            "--optimizer adam --set learner=a2c clip=0.2",
            "a2c makes one epoch of one minibatch without clipping; got clip=0.2.",
        ),
        ("--optimizer adam --set value_clip=-1", "setting 'value_clip' must be in (0, inf], or "),
    ],
)
def test_what_an_arm_cannot_be(
    arguments: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert fails(capsys, f"train --env CartPole-v1 {arguments} --out {out}").startswith(line)
    assert not out.exists()


@pytest.mark.slow
def test_arms_of_the_literature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resets, relative time, equal decay rates and TRAC, all by name."""
    make_environment("CartPole-v1")
    monkeypatch.setattr(jax, "jit", quick_jit)
    arms = {
        "trac": "trac",
        "adam_rel": "adam_rel",
        "adam_reset": "adam_reset",
        "every 32": "adam_reset:period=32",
        "equal": "adam:b1=0.99,b2=0.99",
        "l2": "adam:b1=0.99,b2=0.99,l2=1e-3",
    }
    texts = " ".join(shlex.quote(f"{label}={text}") for label, text in arms.items())
    command = f"compare --envs CartPole-v1 --optimizers {texts} --steps 1200 --seeds 2 {TINY}"
    cli.main(shlex.split(f"{command} --no-cache --out {tmp_path}"))
    rows = read(tmp_path / "summary.csv")
    assert [row["optimizer"] for row in rows] == list(arms)
    assert all((row["diverged_seeds"], row["finished"]) == ("0", "1") for row in rows)
    curves = {path.read_bytes() for path in tmp_path.glob("CartPole-v1/*/metrics.csv")}
    assert len(curves) == len(arms)  # each is another optimizer


def test_reports_need_run_directories_alone(
    comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(comparison / "CartPole-v1" / "adam", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    cli.main(["report", str(tmp_path), "--out", str(tmp_path / "out")])
    figures = {f"curves.{kind}" for kind in ("pdf", "png", "svg")}
    tables = {f"summary.{kind}" for kind in ("csv", "md", "tex")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == figures | tables
    assert "CartPole-v1, 1,216 steps" in capsys.readouterr().out


def test_existing_runs_are_neither_touched_nor_trained(
    comparison: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(comparison)
    run = comparison / "CartPole-v1" / "adam"
    hint = f"{run} exists already; use --resume to continue it or --overwrite to replace it."
    assert fails(capsys, f"{COMPARE} --out {comparison}") == hint
    assert fails(capsys, f"{TRAIN} --out {run}") == hint
    # The second run is in the way, so the first is not begun.
    assert fails(capsys, f"{COMPARE.replace('adam', 'lion adam')} --out {comparison}") == hint
    for change, difference in [
        (
            "--steps 5e3",
            "steps 1216, you asked for 5056, and it cannot be prolonged: "
            "its learning rate falls to 0 over the whole run",
        ),
        ("--steps 500", "steps 1216, you asked for 512"),
        ("--seeds 2", "seeds 0-2, you asked for 0-1"),
        (f"{TINY} anneal=false", "annealed true, you asked for false"),
        (f"{TINY} clip=0.1", "settings.clip 0.2, you asked for 0.1"),
    ]:
        option = change.split()[0]
        start, _, rest = TRAIN.partition(f"{option} ")
        rest = rest[rest.find("--") :]
        line = fails(capsys, f"{start} {change} {rest} --out {run} --resume")
        assert line == f"cannot resume {run}: it was run with {difference}."
    assert contents(comparison) == before


def test_collections_are_as_before_after_a_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = gc.get_threshold()
    fails(capsys, "compare")
    assert gc.get_threshold() == before


def test_an_existing_directory_is_noticed_before_jax_is_loaded(comparison: Path) -> None:
    script = (
        "import sys, experiments.command_line.main as cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: print(sorted({'jax', 'orbax', 'brax'} & set(sys.modules)))"
    )
    arguments = [*shlex.split(COMPARE), "--out", str(comparison)]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert "exists already" in done.stderr


def loaded(script: str, *arguments: str) -> set[str]:
    """Modules that a new process has loaded when a script has run, which may end it."""
    whole = (
        "import sys, experiments.command_line.main as cli\n"
        f"try:\n{textwrap.indent(script, '    ')}\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", whole, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return set(done.stdout.rpartition("LOADED ")[2].split())


def test_help_needs_neither_numpy_nor_jax() -> None:
    modules = loaded("cli.main(['--help'])")
    assert "experiments.command_line.compare" in modules
    assert not modules & {"numpy", "jax", "optim", "importlib.metadata"}


def test_a_comparison_begins_without_what_draws(tmp_path: Path) -> None:
    script = (
        "from experiments.online import training\n"
        "training.train = lambda *arguments, **options: sys.exit()\n"
        "cli.main(sys.argv[1:])"
    )
    arguments = "compare --preset quickstart --no-cache --out"
    modules = loaded(script, *arguments.split(), str(tmp_path / "x"))
    assert {"gymnax", "experiments.online.training"} <= modules
    assert not modules & {"matplotlib", "seaborn", "pandas", "scipy.stats", "orbax.checkpoint"}


STOPS = [
    (OSError(28, "No space left on device", "runs/x"), 1, "No space left on device: runs/x"),
    (MemoryError("adam on ant does not fit."), 1, "adam on ant does not fit"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (Terminated(signal.SIGTERM), 143, "terminated"),
    (Terminated(signal.SIGHUP), 129, "terminated"),
]


@pytest.mark.parametrize(("error", "code", "message"), STOPS)
@pytest.mark.parametrize("logs", [True, False])
def test_what_stops_a_run_is_said_with_the_way_on(
    error: BaseException,
    code: int,
    message: str,
    logs: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "two  words"

    def stop(plan: Plan) -> None:
        out.mkdir()
        if logs:
            (out / "metrics.csv").write_text("point\n0\n")
        raise error

    monkeypatch.setattr(Plan, "run", stop)
    line = fails(capsys, f"{TRAIN} --out '{out}'", code)
    resumed = f"{message}; what is logged is kept. To continue: rl-optim {TRAIN} --out '{out}'"
    assert line == (f"{resumed} --resume" if logs else f"{message}.")


@pytest.mark.parametrize(
    ("option", "touches", "goes_on"),
    [("--resume", False, True), ("--overwrite", True, True), ("--overwrite", False, False)],
)
def test_the_way_on_from_a_run_that_is_resumed_or_replaced(
    option: str,
    touches: bool,
    goes_on: bool,
    comparison: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(comparison / "CartPole-v1" / "adam", run)

    def stop(plan: Plan) -> None:
        if touches:
            (run / "metrics.csv").unlink()
            (run / "metrics.csv").write_text("point\n0\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(Plan, "run", stop)
    line = fails(capsys, f"{TRAIN} {option} --out {run}", 130)
    way_on = f"; what is logged is kept. To continue: rl-optim {TRAIN} --out {run} --resume"
    assert line == f"interrupted{way_on if goes_on else '.'}"


def test_what_is_replaced_is_deleted_before_anything_begins(
    comparison: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption leaves no old run that `--resume` would take for a new one."""
    out = tmp_path / "out"
    shutil.copytree(comparison, out)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingProgress, "take", stop)
    shutil.copytree(out / "CartPole-v1" / "adam", out / "CartPole-v1" / "sgd")  # it was one
    several = COMPARE.replace("--optimizers adam", "--optimizers adam sgd")
    with pytest.raises(SystemExit):
        cli.main([*shlex.split(several), "--out", str(out), "--overwrite"])
    adam, sgd = (out / "CartPole-v1" / name for name in ("adam", "sgd"))
    assert (adam / "config.json").is_file()
    assert not (adam / "evaluation.csv").exists()
    assert not (sgd / "config.json").exists()
    assert not (sgd / "evaluation.csv").exists()


def test_the_command_that_is_printed_continues_the_run(
    comparison: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "runs $1"

    def stop(progress: TrainingProgress, point: Point) -> None:
        if point.number == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainingProgress, "take", stop)
        with pytest.raises(SystemExit) as stopped:
            cli.main([*shlex.split(COMPARE), "--out", str(out), "--overwrite"])
    assert stopped.value.code == 130
    program, *arguments = shlex.split(capsys.readouterr().err.splitlines()[-1].split(": ")[-1])
    assert program == "rl-optim"
    assert arguments == [*shlex.split(COMPARE), "--out", str(out), "--resume"]
    cli.main(arguments)
    for file in ("metrics.csv", "evaluation.csv"):
        expected = (comparison / "CartPole-v1" / "adam" / file).read_bytes()
        assert (out / "CartPole-v1" / "adam" / file).read_bytes() == expected


def test_a_signal_ends_a_command_that_has_nothing_to_save(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan, "run", lambda plan: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    line = fails(capsys, f"{TRAIN} --out {tmp_path / 'run'}", 143)
    assert line == "terminated."  # nothing was logged
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_needs_too_much_memory_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import jax

    def stop(*_: object, **__: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")

    monkeypatch.setattr(training, "train", stop)
    line = fails(capsys, f"{TRAIN} --out {tmp_path / 'run'}", 1)
    assert line.startswith("adam on CartPole-v1 does not fit into memory; lower num_envs or")


# Help and lists


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    if command in ("compare", "train"):
        assert "Environment steps per seed" in text
        assert "(default: True)" not in text  # of --no-cache
        assert "(default: False)" not in text  # of --resume
        assert f"Example: rl-optim {command} --env" in text
    if not command:
        assert all(f" {name} " in text for name in cli.COMMANDS)
        assert "tail -f runs/x/metrics.csv" in text
        assert "rl-optim report runs/x" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"rl-optim {importlib.metadata.version('rl-optim')}\n"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_wrapped_by_the_terminal_alone(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    fields = dataclasses.fields(cli.COMMANDS[command])
    for field in fields:
        assert len(field.metadata["help"]) > 5
        assert sum(f" {field.metadata['help']} " in line for line in lines) == 1


# Bad input


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("",
         "a command is needed: compare, train, sweep, meta-train, meta-sweep, convert, offline, "
         "collect, rerun, list, report."),
        ("comprae", "unknown command 'comprae'; the nearest is 'compare'."),
        ("--foo",
         "unknown option '--foo'; the commands are compare, train, sweep, meta-train, meta-sweep, "
         "convert, offline, collect, rerun, list, report."),
        ("--steps 5 compare", "--steps must come after compare."),
        ("list", "list needs one of envs, optimizers, options, presets, settings."),
        ("list env", "unknown list 'env'; the nearest is 'envs'."),
        ("list envs antt", "no environment matches 'antt'; the nearest is 'ant'."),
        ("list envs a more", "unexpected argument 'more'; see rl-optim list --help."),
        ("train", "train needs --env, --optimizer and --out."),
        ("train --env CartPole-v1", "train needs --optimizer and --out."),
        ("compare", "compare needs --envs, --optimizers and --out, or a --preset."),
        ("compare --envs", "compare needs --envs, --optimizers and --out, or a --preset."),
        ("compare --envs ant --out x", "compare needs --optimizers, or a --preset."),
        ("compare --envz ant", "unknown option '--envz'; the nearest is '--envs'."),
        ("compare --learning-rate 1",
         "unknown option '--learning-rate'; optimizers have one: OPTIMIZER:learning_rate=VALUE."),
        ("train --lr=1",
         "unknown option '--lr'; optimizers have one: OPTIMIZER:learning_rate=VALUE."),
        ("compare --num-envs 4",
         "unknown option '--num-envs'; it is a setting: --set num_envs=VALUE."),
        ("convert --devices 4", "unknown option '--devices'; choose from --architecture, "
         "--gru-features, --help, --hidden-size, --licence, --origin, --overwrite, "
         "--training-tasks."),
        ("compare --cache", "unknown option '--cache'; the nearest is '--no-cache'."),
        ("compare --out", "--out needs a value."),
        ("compare --set a=1 --set b=2", "--set is given twice; give it once, with all its values."),
        ("compare --preset quick", "unknown preset 'quick'; the nearest is 'quickstart'."),
        ("compare --preset ant --resume --overwrite",
         "--resume and --overwrite cannot be used together."),
        ("rerun", "rerun needs DIR and --out."),
        ("rerun no/such --out x", "DIR must be a directory; got 'no/such'."),
        ("report", "at least one directory must be given."),
        ("report no/such", "DIR must be a directory; got 'no/such'."),
        ("list --what envs", "unknown option '--what'; the nearest is '--help'."),
        ("compare --diagnostics-every 0",
         "--diagnostics-every must be a whole number, at least 1; got '0'."),
        ("compare --steps abc", "--steps must be a whole number, at least 1; got 'abc'."),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(
    arguments: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fails(capsys, arguments) == line


@pytest.mark.parametrize("text", ["abc", "1.5", "0", "-3", "nan", "inf", "-inf", "1e400", ""])
@pytest.mark.parametrize("option", ["--steps", "--seeds"])
def test_counts(option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    allowed = {
        "--steps": "a whole number, at least 1",
        "--seeds": "a number from 1 to 10000, a range such as 3-6 or a list such as 0,2,5",
    }[option]
    expected = f"{option} must be {allowed}; got {text!r}."
    assert fails(capsys, f"compare {option} '{text}'") == expected


@pytest.mark.parametrize(
    ("replaced", "by", "line"),
    [
        ("CartPole-v1", "cartpol", "unknown environment 'cartpol'; the nearest is 'CartPole-v1'."),
        ("CartPole-v1", "CartPole-v1:",
         "environment must have the form NAME[:key=value,...], got 'CartPole-v1:'."),
        ("CartPole-v1", "CartPole-v1:gravty=1",
         "'CartPole-v1' has no option 'gravty'; the nearest is 'gravity'."),
        ("CartPole-v1", "ant:backend=springs",
         "unknown backend 'springs'; the nearest is 'spring'."),
        ("CartPole-v1", "CartPole-v1 CartPole-v1", "'CartPole-v1' is given twice."),
        ("adam", "adma", "unknown optimizer 'adma'; the nearest is 'adam'."),
        ("--seeds 3", "--seeds 3 --diagnostics-every 20",
         "--diagnostics-every must be in [1, 19], the run's iterations; got 20."),
        ("adam", "adam adam", "'adam' is given twice."),
        ("adam", "adam adam:b1=1.5", "b1 must be in [0, 1), got 1.5."),
        ("adam", "adam:beta2=0.9", "'adam' has no option 'beta2'; the nearest is 'b2'."),
        ("adam", "adamo:matrix_mask=critics",
         "unknown network 'critics'; the nearest is 'critic'."),
        ("adam", "adam:learning_rate=0", "learning_rate must be in (0, inf), got 0."),
        ("adam", "adam@breakout", "'adam' has no learned weights, got weights 'breakout'."),
        ("num_envs=4", "num_env=4", "unknown setting 'num_env'; the nearest is 'num_envs'."),
        ("num_envs=4", "lr=0.1",
         "'lr' is no setting but an option of optimizers: OPTIMIZER:learning_rate=0.1."),
        ("num_envs=4", "eps=1e-5",
         "'eps' is no setting but an option of optimizers: OPTIMIZER:eps=1e-5."),
        ("num_envs=4", "learning_rate=0.1",
         "'learning_rate' is no setting but an option of optimizers: OPTIMIZER:learning_rate=0.1."),
        ("adam", "adamo:lr=0.1", "'adamo' has no option 'lr'; the nearest is 'learning_rate'."),
        ("CartPole-v1", "Hopper-v5",
         "environment 'Hopper-v5' is Gymnasium's, which rl-optim offline and collect take; agents "
         "are trained on Brax's tasks, with other physics, and Gymnax's: rl-optim list envs."),
        ("num_envs=4", "num_envs=x", "setting 'num_envs' must be a whole number; got 'x'."),
        ("minibatches=2", "minibatches=7",
         "setting 'minibatches' must be a divisor of num_envs * num_steps = 64; got 7."),
        ("1200", "1e18", "--steps must be in [1, 34359738304] with these settings; "
         "got 1000000000000000000."),
    ],
)  # fmt: skip
def test_names_and_values_are_checked_before_anything_is_written(
    replaced: str, by: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replaced in COMPARE
    command = COMPARE.replace(replaced, by, 1)
    assert fails(capsys, f"{command} --out {tmp_path / 'runs'}") == line
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_be_written_is_named_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing was logged, so nothing is said to be kept."""
    for command in (COMPARE, TRAIN):
        line = fails(capsys, f"{command} --out {tmp_path / ('x' * 300)}", 1)
        assert re.fullmatch(rf"File name too long: {tmp_path}/x{{300}}\S*\.", line)


def test_a_box_that_is_not_understood_is_put_on_one_line() -> None:
    box = "╭─ Surprise ─────╮\n│ Nobody         │\n│ expected this. │\n╰────────────────╯\n"
    assert cli._one_line(box, "train", []).split() == ["Surprise", "Nobody", "expected", "this."]


def test_a_file_that_is_no_report_is_noticed_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    out.mkdir()
    (out / "summary.md").write_text("my own notes")
    line = fails(capsys, f"{COMPARE} --out {out}")
    assert str(out / "summary.md") in line
    assert "--overwrite" in line
    assert [path.name for path in out.iterdir()] == ["summary.md"]


def test_greedy_evaluation_and_normalisers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(capsys, f"{COMPARE} --evaluation-actions gredy --out {tmp_path / 'x'}")
    assert line == "unknown kind of evaluation 'gredy'; the nearest is 'greedy'."
    line = fails(capsys, f"{COMPARE} --normalisers CartPole-v1=x --out {tmp_path / 'x'}")
    assert "--normalisers" in line
    both = COMPARE.replace("CartPole-v1", "CartPole-v1 CartPole-v1:max_steps_in_episode=20")
    both = both.replace("--steps 1200", "--steps 128")
    out = tmp_path / "runs"
    more = ["--evaluation-actions", "greedy", "--normalisers", "min-max", "--out", str(out)]
    cli.main([*shlex.split(both), *more])
    assert "Greedy eval." in (out / "summary.md").read_text()
    assert (out / "aggregate.csv").is_file()
