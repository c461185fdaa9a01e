"""Grids of meta-training: where each key goes, and what its value replaces."""

import pytest

from experiments.meta_training.grid import requests
from experiments.meta_training.imitation import ImitationRunConfig
from experiments.meta_training.methods import meta_run
from experiments.meta_training.pipeline import PipelineRunConfig
from experiments.meta_training.request import MetaRequest
from experiments.runs.grid import grid, parse_axes

PIPELINE = MetaRequest(
    optimizer="optim4rl",
    method="pipeline",
    tasks=("Catch-bsuite",),
    learner="a2c",
    pipeline=("agents=2", "window=2", "optimizer=adam:b1=0.5"),
    set=("num_envs=2", "num_steps=4", "widths=4"),
    generations=3,
)
ES = MetaRequest(optimizer="optim4rl", tasks=("Catch-bsuite",), strategy="openai_es:sigma=0.5")
IMITATION = MetaRequest(
    optimizer="optim4rl", method="imitation", target="adam", tasks=("Catch-bsuite",)
)


def asked(request: MetaRequest, *texts: str) -> list[MetaRequest]:
    axes = parse_axes(texts)
    found = requests(request, axes)
    assert list(found) == grid(axes)
    return list(found.values())


def test_of_pipeline_training() -> None:
    texts = ("meta_learning_rate=1e-3,1e-2", "reset_interval=4,8", "num_steps=5", "l2=1e-4")
    request = MetaRequest(**(vars(PIPELINE) | {"set": ("num_envs=2", "widths=4")}))
    found = asked(request, *texts)
    assert found[-1] == MetaRequest(
        **vars(request)
        | {
            "optimizer": "optim4rl:l2=0.0001",
            "pipeline": (
                *request.pipeline,
                "reset_interval=8",
                "optimizer=adam:b1=0.5,learning_rate=0.01",
            ),
            "set": ("num_envs=2", "widths=4", "num_steps=5"),
        }
    )
    runs = [meta_run(one) for one in found]
    assert all(isinstance(run, PipelineRunConfig) for run in runs)
    trainers = [run.config()["pipeline"] for run in runs]
    assert [trainer["reset_interval"] for trainer in trainers] == [4, 8, 4, 8]
    assert [trainer["optimizer"] for trainer in trainers] == [
        f"adam:b1=0.5,learning_rate={rate}" for rate in (0.001, 0.001, 0.01, 0.01)
    ]
    assert {run.tasks[0].settings.num_steps for run in runs} == {5}


def test_the_meta_learning_rate_is_that_of_the_optimizer_in_its_setting() -> None:
    """Of the default, of a preset's and of one that is swept as well."""
    bare = MetaRequest(**vars(PIPELINE) | {"pipeline": ()})
    preset = MetaRequest(optimizer="optim4rl", method="pipeline", preset="small")
    for request in (bare, preset):
        first, last = asked(request, "meta_learning_rate=1,2")
        assert first.pipeline == (*request.pipeline, "optimizer=adam:learning_rate=1")
        assert last.pipeline == (*request.pipeline, "optimizer=adam:learning_rate=2")
    (first, last) = asked(bare, "meta_learning_rate=1", "optimizer=adam:b2=0.9,rmsprop")
    assert first.pipeline[-1] == "optimizer=adam:b2=0.9,learning_rate=1"
    assert last.pipeline[-1] == "optimizer=rmsprop:learning_rate=1"


def test_what_is_swept_comes_before_a_preset() -> None:
    request = MetaRequest(optimizer="optim4rl", method="pipeline", preset="catch")
    texts = ("optimizer.learning_rate=1e-2", "grad_clip=2,3", "reset_interval=4", "widths=8")
    run = meta_run(asked(request, *texts)[0])
    assert isinstance(run, PipelineRunConfig)
    assert run.learned.options == {"grad_clip": 2}
    assert run.tasks[0].learning_rate == 1e-2
    assert run.tasks[0].settings.widths == (8,)
    assert run.options.reset_interval == 4
    assert run.options.optimizer == "adam:learning_rate=1e-3"


def test_of_evolution() -> None:
    first, last = asked(ES, "meta_learning_rate=0.1,0.2", "optimizer.learning_rate=1e-3")
    assert first.strategy == "openai_es:sigma=0.5,learning_rate=0.1"
    assert last.strategy == "openai_es:sigma=0.5,learning_rate=0.2"
    assert first.learning_rates == ("1e-3",)
    bare = MetaRequest(**vars(ES) | {"strategy": "openai_es"})
    assert [one.strategy for one in asked(bare, "sigma=1,2", "strategy.learning_rate=3")] == [
        f"openai_es:sigma={sigma},learning_rate=3" for sigma in (1, 2)
    ]


def test_of_imitation() -> None:
    runs = [meta_run(one) for one in asked(IMITATION, "meta_learning_rate=1e-3,2e-3", "agents=2")]
    assert all(isinstance(run, ImitationRunConfig) for run in runs)
    found = [run.config()["imitation"] for run in runs]
    assert [(one["learning_rate"], one["agents"]) for one in found] == [(1e-3, 2), (2e-3, 2)]


@pytest.mark.parametrize(
    ("request_", "text", "line"),
    [
        (PIPELINE, "meta_lerning_rate=1,2",
         "unknown key of --over 'meta_lerning_rate'; the nearest is 'meta_learning_rate'."),
        (PIPELINE, "pipeline.windows=1,2",
         "unknown key of --over 'pipeline.windows'; the nearest is 'pipeline.window'."),
        (PIPELINE, "window=2,4", "'window' is given twice, by --over and by --pipeline."),
        (PIPELINE, "set.widths=2,4", "'widths' is given twice, by --over and by --set."),
        (PIPELINE, "sigma=1,2", "unknown key of --over 'sigma'; none is like it."),
        (MetaRequest(**vars(PIPELINE) | {"pipeline": ("optimizer=adam:learning_rate=1",)}),
         "meta_learning_rate=1,2",
         "'meta_learning_rate' is given twice, by --over and by --pipeline."),
        (MetaRequest(**vars(PIPELINE) | {"learning_rates": ("1",)}), "learning_rate=1,2",
         "'learning_rate' is given twice, by --over and by --learning-rates."),
        (MetaRequest(**vars(PIPELINE) | {"optimizer": "optim4rl:l2=1"}), "l2=1,2",
         "'l2' is given twice, by --over and by --optimizer."),
        (ES, "sigma=1,2", "'sigma' is given twice, by --over and by --strategy."),
        (ES, "learning_rate=1,2", "key 'learning_rate' of --over could be of --strategy or "
         "--optimizer; write strategy.learning_rate or optimizer.learning_rate."),
        (IMITATION, "learning_rate=1,2", "key 'learning_rate' of --over could be of --imitation or "
         "--optimizer; write imitation.learning_rate or optimizer.learning_rate."),
        (MetaRequest(optimizer="adam", method="pipeline"), "eps=1,2",
         "unknown learned optimizer 'adam'; choose from l2lgd2, learned_correction, linear_optim, "
         "open, optim4rl, star, velo."),
        (MetaRequest(optimizer="optim4rl", method="pipelin"), "eps=1,2",
         "unknown method 'pipelin'; the nearest is 'pipeline'."),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit(request_: MetaRequest, text: str, line: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        requests(request_, parse_axes([text]))
    assert str(error.value) == line
