"""Parameters of a test, of which only some run where nothing else is asked for: the others are slow variants."""

import pytest


def fast(cases, *chosen):
    """Those of `cases` that are `chosen` as they are, the others marked as slow variants. A case may be a tuple."""
    assert all(case in cases for case in chosen), "a case that is none"

    def marked(case):
        return pytest.param(
            *(case if isinstance(case, tuple) else (case,)), marks=[pytest.mark.slow, pytest.mark.variant]
        )

    return [case if case in chosen else marked(case) for case in cases]
