"""What every test may use: the length of long tests, and the real models, which skip with the reason where they are missing.

Markers are declared in pyproject.toml.
"""

from __future__ import annotations

from pathlib import Path

import pytest

SOAK_FACTOR = 50


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help=f"run the long tests at full length, {SOAK_FACTOR} times the usual one")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip on a machine without one; torch is asked only where such a test was collected."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and torch sees none"))


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> int:
    """How often a long test repeats its work: 1, or `SOAK_FACTOR` under --soak."""
    return SOAK_FACTOR if request.config.getoption("--soak") else 1


def _real_model(alias: str) -> Path:
    from redline.checkpoint import store
    from redline.errors import NotFound

    try:
        return store.resolve(alias)
    except NotFound as missing:
        pytest.skip(missing.sentence())


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct (Q4_1)."""
    return _real_model("smollm2-135m")


@pytest.fixture(scope="session")
def qwen_coder() -> Path:
    """The GGUF file of Qwen2.5-Coder-0.5B-Instruct (Q4_K_M)."""
    return _real_model("qwen2.5-coder-0.5b")
