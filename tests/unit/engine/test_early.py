"""What a start does beside the import of torch leaves the process as it was."""

from __future__ import annotations

import contextlib
import gc

from redline.engine.early import Early


def test_the_collector_rests_until_the_engine_is_built() -> None:
    """And stays as it is where somebody has switched it off."""
    with contextlib.closing(Early("random:tiny-llama", None, "cpu")):
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        Early("random:tiny-llama", None, "cpu").close()
        assert not gc.isenabled()
    finally:
        gc.enable()
