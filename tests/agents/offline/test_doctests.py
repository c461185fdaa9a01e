import doctest
import importlib
import pkgutil

import pytest

import agents.offline

MODULES = [module.name for module in pkgutil.iter_modules(agents.offline.__path__)]
WITHOUT_EXAMPLES = {"common", "networks", "td3"}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(f"agents.offline.{name}"))
    assert result.failed == 0
    assert (result.attempted > 0) == (name not in WITHOUT_EXAMPLES)
