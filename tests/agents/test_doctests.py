import doctest
import importlib
import pkgutil

import pytest

import agents

MODULES = [f"agents.{module.name}" for module in pkgutil.iter_modules(agents.__path__)]
WITH_EXAMPLES = {
    *("a2c", "advantages", "diagnostics", "distributions", "environments", "evaluation"),
    *("gridworlds", "policies", "ppo"),
}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    if name.removeprefix("agents.") in WITH_EXAMPLES:
        assert result.attempted > 0


def test_modules_with_examples_exist():
    assert {f"agents.{name}" for name in WITH_EXAMPLES} <= set(MODULES)
