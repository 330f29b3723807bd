"""Which cases of a slow test a plain run takes."""

import pytest


def quick(cases, *kept):
    """The `cases` of a parametrized test; all but those in `kept` have the marker slow."""
    made = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        made.append(pytest.param(*values, marks=() if case in kept else pytest.mark.slow))
    return made
