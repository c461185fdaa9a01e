"""Gymnax comes without the libraries that its environments draw with, until one of them draws."""

import os
import subprocess
import sys

SCRIPT = """
import sys
from agents import gymnax_environment

drawing = {"matplotlib", "matplotlib.pyplot", "pandas", "scipy.stats", "seaborn"}
print(sorted(drawing & set(sys.modules)))

import gymnax, jax
environment, parameters = gymnax.make("Pong-misc")
_, state = environment.reset(jax.random.key(0), parameters)
image = environment.render(state, parameters)

import matplotlib.image, matplotlib.pyplot
from gymnax.environments.bsuite import catch
print(isinstance(image, matplotlib.image.AxesImage), catch.plt.figure is matplotlib.pyplot.figure)
"""

EARLIER = """
import matplotlib, sys
from agents import gymnax_environment
from gymnax.environments.misc import pong
import matplotlib.pyplot

print(sys.modules["matplotlib"] is matplotlib, pong.colors is matplotlib.colors)
print(pong.plt.figure is matplotlib.pyplot.figure)
"""


def printed(script: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_plotting_libraries_are_loaded_when_an_environment_draws() -> None:
    assert printed(SCRIPT) == ["[]", "True True"]


def test_a_plotting_library_that_was_there_stays() -> None:
    assert printed(EARLIER) == ["True True", "True"]
