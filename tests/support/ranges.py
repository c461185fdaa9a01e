"""Checks that numbers outside of an argument's range are refused."""

import pytest

OUTSIDE = {
    "[0, 1)": (1.0, -0.1),
    "[0, inf)": (-0.1,),
    "(0, inf)": (0.0, -1.0),
    "(-inf, inf)": (float("inf"), -float("inf")),
}


def check_ranges(factory, **ranges):
    """`ranges` maps arguments of a function of the learning rate to their ranges, as told."""
    for name, words in ranges.items():
        for value in (*OUTSIDE[words], float("nan"), "1", True):
            with pytest.raises(ValueError) as error:  # noqa: PT011
                factory(0.01, **{name: value})
            assert str(error.value) == f"{name} must be in {words}, got {value!r}."
