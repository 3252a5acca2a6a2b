"""Grammars on a card, where the second half of a step is queued when its masks are known: the tests of the CPU, with the device changed."""

from __future__ import annotations

import pytest

from unit.engine.test_constraints import *  # noqa: F403

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def device() -> str:
    return "cuda:0"
