"""What the tests import is the installed package, where the Makefile promises so."""

import importlib
import os
from pathlib import Path

import pytest


@pytest.mark.skipif(
    "RL_OPTIM_TEST_INSTALLED" not in os.environ, reason="set by `make test`, which installs a wheel"
)
@pytest.mark.parametrize("package", ["optim", "agents", "meta", "experiments"])
def test_installed_package_is_tested(package: str):
    source = Path(__file__).resolve().parents[1] / package
    imported = Path(importlib.import_module(package).__file__).resolve().parent
    assert imported != source
    assert "site-packages" in imported.parts
