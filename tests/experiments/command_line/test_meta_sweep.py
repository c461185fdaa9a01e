"""`rl-optim meta-sweep` from end to end, cut short and resumed, and what it turns down."""

import csv
import json
import math
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hills import Tiny, task
from probes import quick_jit
from safetensors.numpy import load_file

from experiments.command_line import main as cli
from experiments.command_line.progress import MetaProgress
from experiments.meta_training import architectures
from experiments.meta_training.evolution import EvolutionRunConfig
from experiments.meta_training.pipeline import PipelineRunConfig
from experiments.meta_training.training import Generation
from experiments.online.tasks import make_environment
from experiments.runs import compiled
from meta.task import Lifetimes
from meta.windows import Windows

COMMON = (
    "--optimizer tiny:scale=2 --method pipeline --tasks CartPole-v1 --evaluation-seeds 2 "
    "--evaluation-steps 512 --generations 5 --evaluate-every 2 --no-cache --learner a2c "
    "--set num_envs=4 num_steps=16 widths=8x8 --pipeline agents=2 window=2 age_bins=2 "
    "most_skipped=2"
)
SWEEP = f"meta-sweep {COMMON} --seeds 2 --over meta_learning_rate=0.1,0.01 reset_interval=2,4"
SETTINGS = [f"meta_learning_rate={a},reset_interval={b}" for a in ("0.1", "0.01") for b in (2, 4)]
WINDOWS, EVALUATED = PipelineRunConfig.windows, PipelineRunConfig._evaluated_lifetimes
LOGGED = ("meta_metrics.csv", "returns_by_age.csv")
WEIGHTS = ("meta_params.safetensors", "best_meta_params.safetensors")


def height(meta_params: Any) -> Any:
    return -jnp.square(meta_params["rate"]) - jnp.square(meta_params["sign"][0] + 1.0)


def evaluated(run: PipelineRunConfig) -> list[Lifetimes]:
    return [task(lambda meta_params, key: height(meta_params))] * len(run.tasks)


def lives(run: PipelineRunConfig, worst: float = math.inf) -> list[Windows]:
    """A hill in the place of learners, and a cliff for rates that are beyond the worst."""

    def loss(meta_params: Any, life: Any) -> Any:
        metrics = {"episodes": jnp.ones((), jnp.int32), "return_sum": life}
        value = -height(meta_params) * jnp.where(meta_params["rate"] > worst, jnp.nan, 1.0)
        return value, (life + 1.0, metrics)

    def init(meta_params: Any, key: jax.Array) -> Any:
        return jnp.zeros(())

    def grow(meta_params: Any, life: Any) -> Any:
        return life + 1.0

    return [Windows(init, grow, loss, 4)] * len(run.tasks)


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(architectures.ARCHITECTURES, "tiny", Tiny)
        patch.setattr(PipelineRunConfig, "_evaluated_lifetimes", evaluated)
        patch.setattr(PipelineRunConfig, "windows", lives)
        yield


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def logged(out: Path) -> dict[str, bytes]:
    """What the runs logged and learned, and what the sweep found."""
    names = (*LOGGED, *WEIGHTS, "meta_sweep.csv", "meta_sweep.md", "meta_sweep.png")
    return {
        str(path.relative_to(out)): path.read_bytes().replace(str(out).encode(), b"OUT")
        for path in out.rglob("*")
        if path.name in names
    }


def fails(capsys: pytest.CaptureFixture[str], arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(arguments))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("rl-optim: ")


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int, command: str) -> None:
    """Runs a command that is interrupted once so many generations are logged."""
    seen: list[int] = []

    def stop(progress: MetaProgress, generation: Generation) -> None:
        seen.append(generation.number)
        if len(seen) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MetaProgress, "take", stop)
        with pytest.raises(SystemExit) as stopped:
            cli.main(shlex.split(command))
    assert stopped.value.code == 130
    assert len(seen) == after


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("swept") / "runs"
    cli.main(shlex.split(f"{SWEEP} --out {out}"))
    return out


def test_a_sweep_writes_what_it_documents(swept: Path) -> None:
    files = {f"meta_sweep.{end}" for end in ("csv", "md", "png", "svg", "pdf")}
    assert {path.name for path in swept.iterdir()} == {*SETTINGS, *files}
    rows = read(swept / "meta_sweep.csv")
    folders = [[f"{name}/seed-{seed}" for seed in (0, 1)] for name in SETTINGS]
    assert [row["run_directory"].split("; ") for row in rows] == folders
    for row, those in zip(rows, folders, strict=True):
        last = [read(swept / folder / "meta_metrics.csv")[-1]["evaluation"] for folder in those]
        assert [row["evaluation_seed_0"], row["evaluation_seed_1"]] == last
        assert float(row["score"]) == sum(map(float, last)) / 2
        for seed, folder in enumerate(those):
            config = json.loads((swept / folder / "config.json").read_text())
            assert config["seed"] == seed
            assert config["tasks"]["0"]["evaluation_steps"] == 512
            rate, interval = row["meta_learning_rate"], row["reset_interval"]
            assert config["pipeline"]["optimizer"] == f"adam:learning_rate={rate}"
            assert config["pipeline"]["reset_interval"] == int(interval)
    best = max(rows, key=lambda row: float(row["score"]))
    assert (best["best"], best["within_10_percent"]) == ("1", "1")
    assert best["meta_learning_rate"] == "0.1"  # which climbs the hill faster
    near = sum(row["within_10_percent"] == "1" for row in rows)
    text = (swept / "meta_sweep.md").read_text()
    assert f"Share of settings within 10 % of the best: {near / 4:.2f} ({near} of 4)." in text


def test_a_run_of_a_sweep_is_the_one_of_meta_train(swept: Path, tmp_path: Path) -> None:
    train = f"meta-train {COMMON} reset_interval=4 optimizer=adam:learning_rate=0.01 --seed 1"
    cli.main(shlex.split(f"{train} --out {tmp_path / 'run'}"))
    ours = swept / SETTINGS[3] / "seed-1"
    assert_same(ours, tmp_path / "run")
    configs = [json.loads((run / "config.json").read_text()) for run in (ours, tmp_path / "run")]
    assert configs[0] == configs[1]


def test_a_run_of_a_sweep_of_evolution_is_the_one_of_meta_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second seed, which shares the first one's programs."""
    lifetimes = [task(lambda meta_params, key: height(meta_params) + jax.random.normal(key))]
    monkeypatch.setattr(EvolutionRunConfig, "lifetimes", lambda run, stretches, **how: lifetimes)
    common = (
        "--optimizer tiny --tasks CartPole-v1 --population 4 --generations 2 --steps 64 "
        "--no-cache --set num_envs=4 num_steps=16 minibatches=2 widths=8x8"
    )
    over = "--over sigma=0.5,1 meta_learning_rate=0.1 --seeds 2"
    cli.main(shlex.split(f"meta-sweep {common} {over} --out {tmp_path / 'runs'}"))
    strategy = "openai_es:sigma=1,learning_rate=0.1"
    train = f"meta-train {common} --strategy {strategy} --seed 1 --out {tmp_path / 'run'}"
    cli.main(shlex.split(train))
    ours = tmp_path / "runs" / "sigma=1,meta_learning_rate=0.1" / "seed-1"
    assert_same(ours, tmp_path / "run", LOGGED[:1])
    assert "2 generations, 2 seeds" in (tmp_path / "runs" / "meta_sweep.md").read_text()


def assert_same(run: Path, other: Path, logged: tuple[str, ...] = LOGGED) -> None:
    for name in logged:
        assert (run / name).read_bytes() == (other / name).read_bytes()
    for name in WEIGHTS:
        one, two = (load_file(path / name) for path in (run, other))
        assert one.keys() == two.keys()
        assert all(one[key].tobytes() == two[key].tobytes() for key in one)


def test_the_command_that_trains_the_best_anew(swept: Path, tmp_path: Path) -> None:
    """A loop of the shell over as many other seeds."""
    lines = (swept / "meta_sweep.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("for seed in 2 3; do rl-optim meta-train")]
    assert line.endswith(f" --seed $seed --out {swept}-best/seed-$seed; done")
    command = line.removeprefix("for seed in 2 3; do rl-optim ").removesuffix("; done")
    command = command.replace(f"{swept}-best", str(tmp_path)).replace("$seed", "3")
    cli.main([*shlex.split(command), "--no-cache"])
    (best,) = (row for row in read(swept / "meta_sweep.csv") if row["best"] == "1")
    anew = json.loads((tmp_path / "seed-3" / "config.json").read_text())
    selected = swept / best["run_directory"].split("; ")[0] / "config.json"
    assert anew == json.loads(selected.read_text()) | {"seed": 3}


def test_one_seed_is_trained_anew_by_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    over = SWEEP.replace("0.1,0.01", "0.1").replace("--seeds 2", "--seeds 0-0")
    cli.main(shlex.split(f"{over} --out {tmp_path / 'runs'}"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "meta-train" in line]
    assert line.startswith("rl-optim meta-train --optimizer tiny:scale=2 ")
    assert line.endswith(f" --seed 1 --out {tmp_path / 'runs'}-best")


@pytest.mark.parametrize("after", [3, 12])  # generations: in the first run, in the third of eight
def test_a_sweep_that_was_interrupted_ends_the_same(
    after: int, swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs"
    interrupt(monkeypatch, after, f"{SWEEP} --out {out}")
    assert len(list(out.glob("*/*/meta_metrics.csv"))) == -(-after // 5)
    assert not (out / "meta_sweep.csv").exists()
    cli.main(shlex.split(f"{SWEEP} --out {out} --resume"))
    assert logged(out) == logged(swept)


def test_a_finished_sweep_is_only_reported_again(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs"
    shutil.copytree(swept, out)
    monkeypatch.setattr(MetaProgress, "take", None)
    cli.main(shlex.split(f"{SWEEP} --out {out} --resume --floor -20"))
    before, after = logged(swept), logged(out)
    runs = [name for name in before if not name.startswith("meta_sweep")]
    assert [after[name] for name in runs] == [before[name] for name in runs]
    assert "The floor was given: -20." in (out / "meta_sweep.md").read_text()


def test_all_that_is_replaced_goes_before_the_first_begins(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs"
    shutil.copytree(swept, out)
    interrupt(monkeypatch, 7, f"{SWEEP} --out {out} --overwrite")
    assert len(list(out.glob("*/*/meta_metrics.csv"))) == 2
    cli.main(shlex.split(f"{SWEEP} --out {out} --resume"))
    assert logged(out) == logged(swept)


def test_a_run_that_is_stopped_ends_no_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is left as it is when the sweep is resumed."""
    monkeypatch.setattr(PipelineRunConfig, "windows", lambda run: lives(run, worst=-2.85))
    out, sweep = tmp_path / "runs", SWEEP.replace(" reset_interval=2,4", "")
    cli.main(shlex.split(f"{sweep} --out {out}"))
    said = capsys.readouterr()
    assert said.err.count("note: the meta-gradient was not finite 2 times in a row") == 2
    assert "2 of 4 runs diverged" in said.out
    fast, slow = read(out / "meta_sweep.csv")
    assert (fast["diverged_seeds"], slow["diverged_seeds"]) == ("2", "0")
    assert (fast["evaluation_seed_0"], fast["within_10_percent"]) == ("", "0")
    assert float(fast["score"]) == min(float(slow[f"evaluation_seed_{seed}"]) for seed in (0, 1))
    assert slow["best"] == "1"
    before = logged(out)
    cli.main(shlex.split(f"{sweep} --out {out} --resume"))
    assert logged(out) == before
    assert "0.1/seed-0 pipeline: stopped" in capsys.readouterr().err


def test_many_compiled_programs_are_forgotten_between_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    monkeypatch.setattr(compiled, "forget_if_many", lambda: events.append("forget"))
    monkeypatch.setattr(MetaProgress, "begin", lambda self, done: events.append(self.optimizer))
    over = SWEEP.replace("0.1,0.01", "0.1").replace("--seeds 2", "--seeds 0-0")
    cli.main(shlex.split(f"{over} --out {tmp_path / 'runs'}"))
    runs = [f"meta_learning_rate=0.1,reset_interval={b}/seed-0" for b in (2, 4)]
    assert events == ["forget", runs[0], "forget", runs[1]]


@pytest.mark.parametrize(
    ("change", "by", "line"),
    [
        ("reset_interval=2,4", "rest_interval=2,4",
         "unknown key of --over 'rest_interval'; the nearest is 'reset_interval'."),
        ("reset_interval=2,4", "reset_interval=2,0", "reset_interval must be at least 1; got 0."),
        ("reset_interval=2,4", "reset_interval=2,x", "setting 'reset_interval' of --pipeline must "
         "be a whole number or none; got 'x'."),
        ("reset_interval=2,4", "discount=0.9,2", "setting 'discount' must be in [0, 1]; got 2.0."),
        ("reset_interval=2,4", "scale=1,2",
         "'scale' is given twice, by --over and by --optimizer."),
        ("reset_interval=2,4", "learner=a2c,ppo",
         "setting 'learner' must be left out, --learner says it; got a2c."),
        ("reset_interval=2,4", "agents=2,4",
         "'agents' is given twice, by --over and by --pipeline."),
        ("rate=0.1,0.01", "rate=0.1,-1", "learning_rate must be in (0, inf), got -1."),
        ("rate=0.1,0.01", "rate=0.1,x", "learning_rate must be in (0, inf), got 'x'."),
        ("meta_learning_rate=0.1,0.01 reset_interval=2,4", "reset_interval=2",
         "--over must make at least two settings; got 1."),
        ("--evaluation-steps 512 ", "",
         "--evaluation-steps must be given where --over changes how long agents live, here from "
         "256 to 512 steps: what they reach in evaluations is not comparable otherwise; the "
         "longest is --evaluation-steps 512."),
        ("--seeds 2", "--seed 2", "unknown option '--seed'; the nearest is '--seeds'."),
        ("--seeds 2", "--seeds 2 --floor nan", "--floor must be a finite number; got nan."),
        ("--seeds 2", "--seeds 2 --halving 2", "unknown option '--halving'; the nearest is "
         "'--sampling'."),
        ("--method pipeline", "--method pipelin",
         "unknown method 'pipelin'; the nearest is 'pipeline'."),
        ("tiny:scale=2", "adam",
         "unknown learned optimizer 'adam'; choose from l2lgd2, learned_correction, linear_optim, "
         "open, optim4rl, star, tiny, velo."),
        ("--seeds 2", "--resume --overwrite",
         "--resume and --overwrite cannot be used together."),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_said_before_anything_is_trained(
    change: str, by: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert change in SWEEP
    command = f"{SWEEP.replace(change, by, 1)} --out {tmp_path / 'runs'}"
    assert fails(capsys, command) == line
    assert not (tmp_path / "runs").exists()


def test_what_is_there_is_neither_touched_nor_trained(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = swept / SETTINGS[0] / "seed-0"
    hint = f"{run} exists already; use --resume to continue it or --overwrite to replace it."
    assert fails(capsys, f"{SWEEP} --out {swept}") == hint
    out = tmp_path / "runs"
    out.mkdir()
    (out / "meta_sweep.csv").write_text("my,own\n1,2\n")
    line = fails(capsys, f"{SWEEP} --out {out} --resume")
    assert line.startswith(f"{out / 'meta_sweep.csv'} exists already and is not part of a report")
    assert [path.name for path in out.iterdir()] == ["meta_sweep.csv"]
    other = SWEEP.replace("--generations 5", "--generations 4")
    line = fails(capsys, f"{other} --out {swept} --resume")
    assert line == f"cannot resume {run}: it was run with generations 5, you asked for 4."


# With real learners


REAL = (
    "--optimizer optim4rl --method pipeline --tasks Catch-bsuite --learner a2c --generations 2 "
    "--evaluation-seeds 1 --no-cache --set num_envs=2 num_steps=4 widths=4 "
    "--pipeline agents=1 window=1 reset_interval=8"
)


@pytest.mark.slow
def test_real_learners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short in the first run and resumed; the second is bit for bit that of meta-train."""
    monkeypatch.setattr(PipelineRunConfig, "windows", WINDOWS)
    monkeypatch.setattr(PipelineRunConfig, "_evaluated_lifetimes", EVALUATED)
    make_environment("Catch-bsuite")
    monkeypatch.setattr(jax, "jit", quick_jit)
    out, rates = tmp_path / "runs", "--over meta_learning_rate=1e-3,1e-2 --seeds 1"
    interrupt(monkeypatch, 1, f"meta-sweep {REAL} {rates} --out {out}")
    cli.main(shlex.split(f"meta-sweep {REAL} {rates} --out {out} --resume"))
    for rate in ("1e-3", "1e-2"):
        alone = tmp_path / rate
        optimizer = f"optimizer=adam:learning_rate={rate}"
        cli.main(shlex.split(f"meta-train {REAL} {optimizer} --out {alone}"))
        assert_same(out / f"meta_learning_rate={rate}" / "seed-0", alone)
    rows = read(out / "meta_sweep.csv")
    assert [row["meta_learning_rate"] for row in rows] == ["1e-3", "1e-2"]
    for row in rows:
        last = read(out / row["run_directory"] / "meta_metrics.csv")[-1]["evaluation"]
        assert row["score"] == row["evaluation_seed_0"] == last
