"""What every test may use: the length of long tests, and the real models, which skip with the reason where they are missing.

Tests read the user's models and what was measured on his machine, and leave nothing else with him: what engines learn and servers
keep goes to a folder that is gone afterwards. Markers are declared in pyproject.toml.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

SOAK_FACTOR = 50
SHARED = ("models", "downloads", "kernels", "ceilings")  # of the user's cache folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help=f"run the long tests at full length, {SOAK_FACTOR} times the usual one")


def pytest_configure(config: pytest.Config) -> None:
    """A cache folder for this run, with the user's own parts where tests may share them, and a data folder."""
    from redline import env

    user, own = env.cache_dir(), Path(tempfile.mkdtemp(prefix="redline-tests-"))
    for name in SHARED:
        (user / name).mkdir(parents=True, exist_ok=True)
        (own / name).symlink_to(user / name)
    os.environ |= {"REDLINE_CACHE": str(own), "REDLINE_DATA": str(own / "data")}
    config.add_cleanup(lambda: shutil.rmtree(own, ignore_errors=True))


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
