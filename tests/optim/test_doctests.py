import doctest
import importlib
import pkgutil

import pytest

import optim

MODULES = ["optim"] + [
    module.name for module in pkgutil.walk_packages(optim.__path__, "optim.") if not module.ispkg
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_everything_public_is_exported_and_documented():
    for name in optim.__all__:
        assert getattr(optim, name).__doc__, name
