"""Tasks: environments by text, and what an optimizer gets from its task."""

import doctest

import pytest

import optim
from agents.environments import BRAX, SEQUENCE, environment_names
from experiments.online import tasks
from experiments.online.tasks import TASKS, make_environment, parse_environment, resolve_optimizer


def test_every_environment_has_a_task() -> None:
    assert set(TASKS) == set(environment_names())


@pytest.mark.parametrize("name", [name for name in TASKS if name not in BRAX])
def test_gymnax_environments_are_made(name: str) -> None:
    assert make_environment(name).name == name
    if name == SEQUENCE:  # its games have their own
        return
    assert make_environment(f"{name}:max_steps_in_episode=7").max_episode_steps == 7


def test_options_reach_the_environment() -> None:
    ant = make_environment("ant:backend=spring,max_episode_steps=50")
    assert (ant.name, ant.max_episode_steps) == ("ant", 50)
    assert ant.backend == "spring"  # type: ignore[attr-defined]
    assert make_environment("CartPole-v1:gravity=5").name == "CartPole-v1"  # whole, but a number
    assert make_environment("Asterix-MinAtar:ramping=false").name == "Asterix-MinAtar"


def test_parse() -> None:
    assert parse_environment("ant") == ("ant", {})
    options = {"backend": "spring", "max_episode_steps": 50}
    assert parse_environment("ant:backend=spring,max_episode_steps=50") == ("ant", options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown environment ''; choose from Acrobot-v1, "),
        ("breakout", "unknown environment 'breakout'; the nearest is 'Breakout-MinAtar'."),
        ("Ant", "unknown environment 'Ant'; the nearest is 'ant'."),
        ("ant:", "environment must have the form NAME[:key=value,...], got 'ant:'."),
        ("ant:spring", "options of 'environment' must have the form key=value, got 'spring'."),
        ("ant:backend=springs", "unknown backend 'springs'; the nearest is 'spring'."),
        ("ant:backend=3", "unknown backend '3'; choose from generalized, mjx, positional, spring."),
        ("ant:backed=spring", "'ant' has no option 'backed'; the nearest is 'backend'."),
        ("ant:name=ant", "'ant' has no option 'name'; choose from backend, "),
        ("ant:max_episode_steps=0", "option 'max_episode_steps' of 'ant' must be a whole number, "),
        ("CartPole-v1:gravty=1", "'CartPole-v1' has no option 'gravty'; the nearest is 'gravity'."),
        ("CartPole-v1:gravity=nan", "option 'gravity' of 'CartPole-v1' must be a finite number; "),
        ("CartPole-v1:gravity=true", "option 'gravity' of 'CartPole-v1' must be a finite number; "),
        ("CartPole-v1:max_steps_in_episode=1.5", "option 'max_steps_in_episode' of 'CartPole-v1' "),
        ("big_dense_long:respawn_probability=2", "respawn_probability must be in [0, 1]; got 2."),
        ("big_dense_long:respawn=1", "'big_dense_long' has no option 'respawn'; the nearest is "),
        ("Asterix-MinAtar:ramping=1", "option 'ramping' of 'Asterix-MinAtar' must be true or "),
        (
            "Acrobot-v1:available_torque=1",
            "'Acrobot-v1' has no option 'available_torque'; choose from ",
        ),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        make_environment(text)
    assert str(caught.value).startswith(message)


def test_tuned_options_fill_up_a_bare_optimizer_only() -> None:
    task = TASKS["Breakout-MinAtar"]
    tuned = dict(resolve_optimizer("adam", task).options)
    assert tuned == {"learning_rate": task.learning_rate} | dict(task.tuned["adam"])
    assert tuned["b2"] == 0.99
    changed = dict(resolve_optimizer("adam:b2=0.9", task).options)
    assert changed == tuned | {"b2": 0.9}
    given = "adam:learning_rate=0.5,b1=0.8"
    assert resolve_optimizer(given, task) == optim.OptimizerSpec.parse(given)
    assert dict(resolve_optimizer("lion", task).options) == {"learning_rate": task.learning_rate}
    for wrapper in ("redo", "redo:base=adam"):  # gets what its base does
        assert dict(resolve_optimizer(wrapper, task).options).items() >= tuned.items()
    assert "b2" not in dict(resolve_optimizer("redo:base=lion", task).options)


def test_no_option_of_a_wrapper_is_called_like_a_tuned_one() -> None:
    """Else it would be given what is meant for its base."""
    tuned = {key for task in TASKS.values() for known in task.tuned.values() for key in known}
    for name in optim.optimizer_names():
        options = optim.option_names(name)
        assert len(options) == len(set(options)), name
    assert tuned <= set(optim.option_names("adam"))


@pytest.mark.parametrize("name", TASKS)
def test_tuned_options_are_options(name: str) -> None:
    for optimizer, tuned in TASKS[name].tuned.items():
        spec = resolve_optimizer(optimizer, TASKS[name])
        assert dict(spec.options).items() >= tuned.items()
        optim.make(spec)  # says what is no option


@pytest.mark.parametrize(
    ("text", "normaliser"),
    [
        ("Breakout-MinAtar", 50.08),
        ("Breakout-MinAtar:max_steps_in_episode=50", None),
        ("Asterix-MinAtar:ramping=false", None),
        ("ant", 6517.31),
        ("ant:backend=positional", 6517.31),
        ("ant:backend=spring", None),
        ("ant:backend=mjx", None),
        ("ant:backend=generalized", None),
        ("ant:max_episode_steps=50", None),
        ("ant:backend=positional,max_episode_steps=50", None),
        ("humanoid", None),
        ("CartPole-v1", None),
    ],
)
def test_a_published_return_normalises_only_what_it_was_reached_in(
    text: str, normaliser: float | None
) -> None:
    name, options = parse_environment(text)
    assert TASKS[name].normaliser(options) == normaliser


def test_doctests() -> None:
    results = doctest.testmod(tasks)
    assert results.attempted > 0
    assert results.failed == 0
