"""Meta-trains a learned optimizer, with metrics, checkpoints and resumption.

Here is what all methods share; each has a module of its own.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

import optim
from experiments.meta_training import protocol
from experiments.meta_training.architectures import LearnedOptimizer
from experiments.meta_training.request import MetaRequest
from experiments.meta_training.tasks import MetaTask
from experiments.runs import weights as weights_files
from experiments.runs.directory import RunDirectory
from experiments.runs.files import whole_rows
from experiments.runs.stopping import Stopped, deferred
from experiments.settings import whole_number
from meta.curriculum import steps_of_each
from meta.population import evaluation
from meta.task import Lifetimes, lifetimes
from meta.trainer import MetaParams, Trainer

METRICS = "meta_metrics.csv"
WEIGHTS = "meta_params.safetensors"
BEST = "best_meta_params.safetensors"
_FORMAT = 2  # of the run directory, as config.json states it


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaRun(abc.ABC):
    """One architecture, some tasks, one trainer: what every method has.

    Attributes:
        optimizer: `NAME[@WEIGHTS][:key=value,...]`, see `experiments.meta_training.architectures`.
        tasks: what it is trained on.
        generations: steps of the trainer, at least 1.
        curriculum: after how many generations each task but the first takes the place of the one
            before it, rising; empty to train on all tasks in every generation. Evaluations are on
            all tasks in any case.
        evaluate_every: generations between two evaluations of the weights, at least 1; the last
            generation has one too.
        evaluation_seeds: lifetimes of an evaluation on each task, always the same, at least 1.
        patience: how many evaluations in a row, at least 1, may be no better than the best before
            them; then training ends. None to go on to the last generation.
        seed: of everything else.

    Raises:
        ValueError: on construction, if anything in it is unknown or not allowed.
    """

    optimizer: str
    tasks: tuple[MetaTask, ...]
    generations: int
    curriculum: tuple[int, ...] = ()
    evaluate_every: int = 20
    evaluation_seeds: int = 4
    patience: int | None = None
    seed: int = 0

    method: ClassVar[str]
    most_skipped: ClassVar[int | None] = None  # steps in a row, after which the run is stopped
    remedy: ClassVar[str] = ""  # what may help then

    def __post_init__(self) -> None:
        learned = self.learned
        for name in ("generations", "evaluate_every", "evaluation_seeds", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, {2**32 - 1}]; got {self.seed}.")
        for task in self.tasks:
            task.build(learned)  # says what is not allowed
        _ = self.trainer  # says what does not fit together

    @classmethod
    @abc.abstractmethod
    def from_request(cls, request: MetaRequest) -> MetaRun:
        """The run that is asked for.

        Raises:
            ValueError: if anything in the request is unknown or not allowed.
        """

    @property
    @abc.abstractmethod
    def parts(self) -> int:
        """What the number of iterations of a lifetime is a multiple of."""

    @property
    @abc.abstractmethod
    def task_env_steps(self) -> Sequence[int]:
        """Environment steps of a generation on each task, evaluations aside."""

    @functools.cached_property
    @abc.abstractmethod
    def trainer(self) -> Trainer:
        """The trainer."""

    @property
    def env_steps(self) -> int:
        """Environment steps of a generation on all tasks, evaluations aside."""
        return sum(self.task_env_steps)

    def env_steps_until(self, generation: int) -> int:
        """Environment steps of the generations before one, evaluations aside."""
        counts = steps_of_each(self.curriculum, len(self.tasks), generation)
        return sum(map(operator.mul, self.task_env_steps, counts))

    @functools.cached_property
    def start(self) -> bytes | None:
        """Content of the file where training starts, which is read once; None if it is drawn."""
        return weights_files.read(optim.OptimizerSpec.parse(self.optimizer))

    @functools.cached_property
    def learned(self) -> LearnedOptimizer:
        """What is trained."""
        with weights_files.copied(optim.OptimizerSpec.parse(self.optimizer), self.start) as spec:
            return LearnedOptimizer.parse(str(spec))

    def with_seed(self, seed: int) -> Self:
        """The run with another seed; what is compiled for one of the two serves both."""
        other = dataclasses.replace(self, seed=seed)
        shared = {"start": self.start, "learned": self.learned, "trainer": self.trainer}
        vars(other).update(shared, evaluate=self.evaluate)
        return other

    def config(self) -> dict[str, Any]:
        """What `config.json` says, but for the circumstances."""
        return {
            "format": _FORMAT,
            "method": self.method,
            "optimizer": self.optimizer,
            "tasks": {str(index): task.config(self.parts) for index, task in enumerate(self.tasks)},
            "generations": self.generations,
            "curriculum": list(self.curriculum) or None,
            "evaluate_every": self.evaluate_every,
            "evaluation_seeds": self.evaluation_seeds,
            "patience": self.patience,
            "seed": self.seed,
        } | ({"start_sha256": weights_files.sha256(self.start)} if self.start else {})

    def lifetimes(self, stretches: int, **how: Any) -> list[Lifetimes]:
        """The tasks as evolution plays them, and evaluations unless theirs have other lengths.

        What evolution's fitness is, `how` says; evaluations are of the final return.
        """
        # The same lifetimes whether cut or whole, so their length is that of the cut ones.
        return [
            lifetimes(task.task(self.parts), task.build(self.learned), stretches, **how)
            for task in self.tasks
        ]

    @functools.cached_property
    def evaluate(self) -> Callable[[MetaParams], np.ndarray]:
        """From meta-parameters to their fitness, of shape (tasks,), on seeds of their own."""
        play = evaluation(self._evaluated_lifetimes(), self.evaluation_seeds)
        key = jax.random.fold_in(jax.random.key(0), protocol.SELECTION)
        return lambda meta_params: play(meta_params, key).mean(axis=1)

    def _evaluated_lifetimes(self) -> list[Lifetimes]:
        if all(task.evaluation_steps is None for task in self.tasks):
            return self.lifetimes(1)
        return [lifetimes(task.evaluated.task(1), task.build(self.learned)) for task in self.tasks]

    def on_point(self, path: Path) -> None:  # noqa: B027 (most methods have nothing to write)
        """Called after each evaluation, to write what follows from the metrics logged so far."""


def asked_of_all(request: MetaRequest) -> dict[str, Any]:
    """What every method takes from a request, but for the tasks, as fields of `MetaRun`.

    Raises:
        ValueError: if the curriculum is not of whole numbers.
    """
    try:
        curriculum = tuple(whole_number(text) for text in request.curriculum)
    except (ValueError, OverflowError):
        raise ValueError(
            f"--curriculum must be whole numbers; got {' '.join(request.curriculum)!r}."
        ) from None
    return {
        "optimizer": request.optimizer,
        "generations": 500 if request.generations is None else request.generations,
        "curriculum": curriculum,
        "evaluate_every": request.evaluate_every,
        "evaluation_seeds": request.evaluation_seeds,
        "patience": request.patience,
        "seed": request.seed,
    }


class Progress(NamedTuple):
    """What a checkpoint holds."""

    state: Any  # the trainer's
    best: MetaParams  # those that were evaluated best so far, the first ones among them
    best_evaluation: jax.Array  # shape=(), dtype=float32; -inf if it was NaN
    best_generations: jax.Array  # shape=(), dtype=int32: for how many these were trained

    def is_at_rest(self, run: MetaRun, generations: int) -> bool:
        """Whether so many evaluations in a row were no better that training ends."""
        if run.patience is None:
            return False
        since = generations - int(self.best_generations)
        return since >= run.patience * run.evaluate_every


class Generation(NamedTuple):
    """What is known after a generation, or a meta-iteration."""

    number: int  # 0, 1, ...
    seconds: float  # wall time since the run began
    metrics: Mapping[str, np.ndarray]  # the trainer's
    evaluation: float  # of the mean, averaged over tasks and seeds; NaN where there was none


def meta_train(
    run: MetaRun,
    path: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_start: Callable[[int], None] = lambda generation: None,
    on_generation: Callable[[Generation], None] = lambda generation: None,
    on_note: Callable[[str], None] = warnings.warn,
    checkpoint_seconds: float = 60.0,
) -> None:
    """Meta-trains into a directory, or finishes what was cut short.

    `meta_metrics.csv` gets a row for each generation: the trainer's metrics, those with a number
    for each task as columns `..._0`, `..._1`, ..., and the evaluation of the mean where there was
    one. `meta_params.safetensors` holds the mean as of the last evaluation,
    `best_meta_params.safetensors` the one that was evaluated best, where training starts among them
    (of equal ones the first; one whose evaluation is NaN counts as the worst). With `run.patience`,
    training ends after so many evaluations that were no better.

    Args:
        run: what to train.
        path: the run directory.
        resume: continue what is in the directory. Metrics and meta-parameters come out as without
            the interruption, bit for bit (on the same machine, devices and versions). A run of
            fewer generations is prolonged.
        overwrite: replace the run in the directory.
        on_start: called once, with the generations that were done before.
        on_generation: called after each generation.
        on_note: called with a sentence when something in the directory turns out to be damaged,
            when patience ends, and with the memory that a meta-iteration needs, where the trainer
            knows it.
        checkpoint_seconds: least time between two checkpoints.

    Raises:
        ValueError: see `RunDirectory.create`.
        OSError: if something cannot be written; what was logged can be resumed.
        Stopped: if `run.most_skipped` steps in a row had no finite meta-gradient. The last good
            meta-parameters are saved. Also if something in the directory cannot be used, see
            `RunDirectory.begin`.
        Terminated: if the process was told to end; the last generation can be resumed.
    """
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "on_note": on_note}
    how["files"] = {"start.safetensors": run.start} if run.start else {}
    with RunDirectory.create(path, run.config(), metrics=METRICS, **how) as directory:
        written = [_generations_in(path / name) for name in (WEIGHTS, BEST)]
        is_written = written[0] == run.generations and written[1] is not None
        if is_written and directory.has_logged(run.generations):
            on_start(run.generations)
            return
        trainer = run.trainer
        progress: Progress
        first, progress = directory.begin(_newborn(trainer, run.seed))
        on_start(first)
        if trainer.memory is not None and first < run.generations:
            needed = trainer.memory(progress.state) / 2**20
            on_note(f"a meta-iteration needs {needed:,.0f} MiB on each device.")
        if first == 0:  # where training starts may stay the best
            judged = float(run.evaluate(progress.best).mean())
            progress = _with_best(progress, progress.best, judged, 0)
        done = first
        with deferred():
            while done < run.generations and not progress.is_at_rest(run, done):
                progress = _generation(
                    run, directory, progress, done, on_generation, checkpoint_seconds
                )
                done += 1
        if done == first:  # killed between its last checkpoint and the weights
            _save_weights(path, run, progress, done)
        if done < run.generations:
            on_note(
                f"training ends after generation {done}: the best evaluation was after generation "
                f"{int(progress.best_generations)}."
            )


def has_stopped(run: MetaRun, path: Path) -> bool:
    """Whether the run in a directory ended where too many meta-gradients were not finite.

    Args:
        run: as it is in the directory.
        path: the directory, which may be empty or missing.
    """
    if run.most_skipped is None:
        return False
    header, *rows = whole_rows(path / METRICS) or [""]
    if not rows:
        return False
    columns, cells = (text.removesuffix("\n").split(",") for text in (header, rows[-1]))
    last = dict(zip(columns, cells, strict=True))
    return float(last.get("skipped_in_a_row") or 0) >= run.most_skipped


def _generation(
    run: MetaRun,
    directory: RunDirectory,
    progress: Progress,
    number: int,
    on_generation: Callable[[Generation], None],
    checkpoint_seconds: float,
) -> Progress:
    """Trains for a generation and logs it; the arguments are those of `meta_train`.

    Raises:
        Stopped: see `meta_train`.
    """
    state, metrics = run.trainer.step(progress.state)
    progress = progress._replace(state=state)
    row: dict[str, Any] = {"generation": number, "env_steps": run.env_steps_until(number + 1)}
    values: dict[str, np.ndarray] = jax.device_get(metrics)
    row |= _columns(values)
    is_last = number + 1 == run.generations
    in_a_row = int(values.get("skipped_in_a_row", 0))
    stopped = run.most_skipped is not None and in_a_row >= run.most_skipped
    judged = None
    if is_last or (number + 1) % run.evaluate_every == 0:
        meta_params = run.trainer.meta_params(state)
        judged = run.evaluate(meta_params)
        progress = _with_best(progress, meta_params, float(judged.mean()), number + 1)
    row |= _evaluation_columns(judged, len(run.tasks))
    is_end = is_last or stopped or progress.is_at_rest(run, number + 1)
    seconds = directory.log(number, [row], progress, 0.0 if is_end else checkpoint_seconds)
    if judged is not None or stopped:
        _save_weights(directory.path, run, progress, number + 1)
    judgement = math.nan if judged is None else float(judged.mean())
    on_generation(Generation(number, seconds, values, judgement))
    if stopped:
        raise Stopped(
            f"the meta-gradient was not finite {in_a_row} times in a row; the meta-parameters "
            f"from before are in {directory.path / WEIGHTS}{run.remedy}"
        )
    return progress


def _newborn(trainer: Trainer, seed: int) -> Progress:
    """Progress before anything was evaluated."""
    state = trainer.init(jax.random.key(seed))
    return Progress(
        state, trainer.meta_params(state), jnp.float32(-math.inf), jnp.zeros((), jnp.int32)
    )


def _with_best(
    progress: Progress, meta_params: MetaParams, evaluation: float, generations: int
) -> Progress:
    """Progress after an evaluation."""
    evaluation = -math.inf if math.isnan(evaluation) else evaluation
    if evaluation <= progress.best_evaluation:
        return progress
    return progress._replace(
        best=meta_params,
        best_evaluation=jnp.float32(evaluation),
        best_generations=jnp.int32(generations),
    )


def _columns(metrics: Mapping[str, np.ndarray]) -> dict[str, str]:
    """A column for each number, those of arrays with their places: `name_0`, `name_0_1`."""
    columns = {}
    for name, value in sorted(metrics.items(), key=lambda item: np.ndim(item[1])):
        for place, entry in np.ndenumerate(value):
            columns["_".join([name, *map(str, place)])] = _text(entry)
    return columns


def _evaluation_columns(judged: np.ndarray | None, tasks: int) -> dict[str, str]:
    if judged is None:
        return dict.fromkeys(["evaluation", *(f"evaluation_{i}" for i in range(tasks))], "")
    return {"evaluation": _text(judged.mean())} | {
        f"evaluation_{i}": _text(value) for i, value in enumerate(judged)
    }


def _text(value: Any) -> str:
    return repr(np.asarray(value).item())


def _save_weights(path: Path, run: MetaRun, progress: Progress, generations: int) -> None:
    """Writes the last weights and the best, and what follows from the metrics."""
    learned = run.learned
    options = dict(learned.options)
    metadata: dict[str, Any] = {
        "architecture": learned.architecture,
        "options": options,
        "training_tasks": " ".join(task.environment for task in run.tasks),
        "optimizer": run.optimizer,
        "origin": f"rl-optim meta-train, method {run.method}, seed {run.seed}",
    }
    own = options.pop("learning_rate", None)
    rates = [own if t.learning_rate is None else t.learning_rate for t in run.tasks]
    if len(set(rates)) > 1:  # to use the weights, one has to be chosen
        metadata["learning_rates"] = " ".join(
            "default" if rate is None else str(rate) for rate in rates
        )
    elif rates[0] is not None:
        options["learning_rate"] = rates[0]

    def save(name: str, meta_params: MetaParams, generations: int) -> None:
        optim.save_meta_params(
            path / name,
            jax.device_get(meta_params),
            metadata | {"generations": str(generations)},
        )

    save(WEIGHTS, run.trainer.meta_params(progress.state), generations)
    save(BEST, progress.best, int(progress.best_generations))
    run.on_point(path)


def _generations_in(path: Path) -> int | None:
    """For how many generations weights were trained; None if they cannot be read."""
    try:
        return int(optim.load_metadata(path)["generations"])
    except (OSError, KeyError, ValueError):
        return None
