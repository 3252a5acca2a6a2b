"""Grammars where decode steps are captured: a graph gives the logits, masks and draws come behind it. The tests of op by op."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from graphs import use_graphs
from redline.engine import graphs
from unit.engine.test_constraints import *  # noqa: F403


@pytest.fixture(autouse=True, scope="module")
def captured() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "WANTED_EAGER", 1)
        patch.setattr(graphs, "WANTED_COVERED", 1)
        made = use_graphs(patch)
        yield
        assert any(capture.captures for capture in made)
