"""The live display: on a terminal, elsewhere, and after a resumption."""

import io
import logging
import math
import time

import pytest
from rich.console import Console

from experiments.command_line import display as module
from experiments.command_line.display import Display
from experiments.command_line.progress import EvolutionProgress, TrainingProgress
from experiments.runs.training import Point
from meta import population


class SlowProgram:
    """Takes its time to be compiled; it is its own result."""

    def compile(self) -> "SlowProgram":
        time.sleep(0.3)
        return self


class Ticking:
    """A clock that shows 7 seconds more each time one looks."""

    now = 0.0

    def monotonic(self) -> float:
        self.now += 7.0
        return self.now


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, _environ={})


def printed(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def point(step: int, seconds: float, returns: list[float], diverged: int = 0) -> Point:
    rows = [
        {"episode_return": "" if math.isnan(value) else repr(value), "diverged": int(i < diverged)}
        for i, value in enumerate(returns)
    ]
    return Point(0, step, seconds, rows)


def training(optimizer: str) -> TrainingProgress:
    return TrainingProgress(environment="ant", optimizer=optimizer, steps=1000)


def test_plain_lines(clock: Clock) -> None:
    target = console()
    run = TrainingProgress(
        environment="ant:backend=spring",
        optimizer="adam:learning_rate=[1]",
        steps=2_000_000,
        seeds=4,
    )
    with Display([run], target) as display:
        run.state = "compiling"
        display.update(run)
        run.state = "training"
        for run.done in (1000, 2000):  # too soon for a second line
            display.update(run)
        clock.now += 20
        run.take(point(125_000, 20.0, [1.0, math.nan, 3.0, math.inf], diverged=2))
        display.update(run)
        display.note("mind [this]")
        run.state, run.done = "done", 2_000_000
        display.update(run)
    assert printed(target).splitlines() == [
        "ant:backend=spring adam:learning_rate=[1]: compiling, 0 of 2,000,000 steps, 0 steps/s, "
        "return \N{EN DASH}, ETA unknown",
        "ant:backend=spring adam:learning_rate=[1]: training, 1,000 of 2,000,000 steps, 0 steps/s, "
        "return \N{EN DASH}, ETA 0:00",
        "ant:backend=spring adam:learning_rate=[1]: training, 500,000 of 2,000,000 steps, "
        "25,000 steps/s, return 2, 2 diverged, ETA 1:00",
        "note: mind [this]",
        "ant:backend=spring adam:learning_rate=[1]: done, 2,000,000 of 2,000,000 steps, "
        "100,000 steps/s, return 2, 2 diverged, ETA 0:00",
    ]


def test_a_line_for_each_change_of_state(clock: Clock) -> None:
    target = console()
    runs = [training("adam"), training("lion")]
    with Display(runs, target) as display:
        for run in runs:
            with display.shown(run) as show:
                show.start(0)
                for step in (250, 500, 750, 1000):
                    clock.now += 1
                    show.point(point(step, step / 250, [1.0]))
    lines = [line.split(", ") for line in printed(target).splitlines()]
    assert [line[0] for line in lines] == [
        f"ant {name}: {state}"
        for name in ("adam", "lion")
        for state in ("compiling", "training", "evaluating", "done")
    ]
    assert [line[-1] for line in lines] == [
        *("ETA unknown", "ETA 0:07 (all runs)", "ETA 0:04 (all runs)", "ETA 0:04 (all runs)"),
        *("ETA 0:04 (all runs)", "ETA 0:03 (all runs)", "ETA 0:00 (all runs)"),
        "ETA 0:00 (all runs)",
    ]


def test_meta_training(clock: Clock) -> None:
    target, terminal = console(), console(terminal=True)
    run = EvolutionProgress(optimizer="open", strategy="openai_es", steps=50)
    for where in (target, terminal):
        with Display([run], where) as display:
            run.begin(10)
            run.failed, run.evaluation = 0, math.nan
            display.update(run)
            clock.now += 20
            run.state, run.done, run.fitness_mean, run.fitness_best = "training", 20, 0.5, 0.75
            run.failed, run.evaluation = 3, 0.625
            display.update(run)
    assert printed(target).splitlines() == [
        "open openai_es: compiling, generation 10 of 50, mean fitness \N{EN DASH}, best "
        "\N{EN DASH}, evaluation of the mean \N{EN DASH}, ETA unknown",
        "open openai_es: training, generation 20 of 50, mean fitness 0.5, best 0.75, 3 failed, "
        "evaluation of the mean 0.625, ETA 1:00",
    ]
    for part in ("ETA 1:00", "20 of 50", "0.75", "0.625", "mean fitness", "training"):
        assert part in printed(terminal)


def test_terminal(clock: Clock) -> None:
    target = console(terminal=True)
    runs = [training("adam"), training("a[b]")]
    with Display(runs, target) as display:
        clock.now += 5
        runs[0].take(point(250, 5.0, [1.0, 2.0]))
        display.update(runs[0])
        display.note("mind [this]")
        display._live.refresh()  # type: ignore[union-attr]
    text = printed(target)
    for part in (
        "ETA 0:35 (all runs)",
        "25 %",
        "training",
        "waiting",
        "1.5",
        "50",
        "note: mind [this]",
    ):
        assert part in text
    assert "ETA 0:35 (all runs)" in text
    assert "a[b]" in text


def test_returns_without_an_episode_leave_the_last_ones() -> None:
    run = training("adam")
    for done, returns in enumerate([4.0, math.nan]):
        run.take(point(done, 1.0, [returns]))
    assert run.episode_return == 4.0
    assert run.state == "training"
    run.take(point(1000, 1.0, [5.0]))
    assert (run.episode_return, run.state) == (5.0, "evaluating")


def test_time_left_does_not_count_what_was_done_before(clock: Clock) -> None:
    finished, resumed = (training(name) for name in ("a", "b"))
    with Display([finished, resumed], console()) as display:
        assert math.isnan(display.seconds_left())
        finished.done = finished.done_before = 1000
        resumed.done = resumed.done_before = 400
        clock.now += 1
        assert math.isnan(display.seconds_left())
        resumed.done = 500
        clock.now += 9
        # 100 steps in 10 seconds, 500 to go.
        assert display.seconds_left() == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (59.6, "1:00"), (3599.0, "59:59"), (3600.0, "1:00:00"), (1e5, "27:46:40")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert module._duration(seconds) == text


def test_what_takes_long_to_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population, "_SECONDS_OF_SILENCE", 0.1)
    monkeypatch.setattr(population, "time", Ticking())
    target, programs = console(), [SlowProgram(), SlowProgram()]
    run = EvolutionProgress(optimizer="open", strategy="snes", steps=10)
    level = logging.getLogger("meta.population").level
    with Display([run], target) as display, display.shown(run) as show:
        show.start(0)
        assert population.compile_all(iter(programs), "a meta-iteration") == programs
        assert population.compile_all(iter([]), "nothing") == []
    population.compile_all([SlowProgram()], "something else")  # nobody listens any more
    states = [line.split(": ")[1].split(", generation")[0] for line in printed(target).splitlines()]
    assert states[0] == "compiling"
    compiling = states[1:-1]
    assert len(compiling) >= 3
    assert compiling == [
        f"compiling a meta-iteration, {7 * (i + 1)} s" for i in range(len(compiling))
    ]
    assert states[-1] == "done"
    assert logging.getLogger("meta.population").level == level
