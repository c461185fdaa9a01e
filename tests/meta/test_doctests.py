import doctest
import importlib
import pkgutil

import pytest

import meta

MODULES = [f"meta.{module.name}" for module in pkgutil.iter_modules(meta.__path__)]
WITH_EXAMPLES = {"evolution", "population", "randomised", "strategies", "task"}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    if name.removeprefix("meta.") in WITH_EXAMPLES:
        assert result.attempted > 0


def test_modules_with_examples_exist():
    assert {f"meta.{name}" for name in WITH_EXAMPLES} <= set(MODULES)
