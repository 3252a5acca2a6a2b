"""The engine's own invariants on a card: the tests of the CPU, with the device changed."""

from __future__ import annotations

import pytest

from unit.engine.test_same_tokens import *  # noqa: F403

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def device() -> str:
    return "cuda:0"
