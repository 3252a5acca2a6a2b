"""Starts the engine process and hands it its socket and its configuration.

The engine is `python -m redline.engine.worker FD`. It inherits one end of a Unix socket pair and nothing else, gets the
configuration as the first message, and must end when the socket closes: that is how it learns that its parent died.
Knows nothing of what the engine does. Open `launch` first.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence

from redline import env
from redline.config import EngineConfig
from redline.engine.message import Configure, frame

WORKER = "redline.engine.worker"

# oneDNN keeps code for the last 1,024 shapes of a product that it met, torch as many for bfloat16, and steps come in as many
# shapes as there are numbers of tokens: 1.2 GiB for a model of a few megabytes. A quarter of that is enough to stay fast.
FEW_SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}


def launch(
    config: EngineConfig, *, module: str = WORKER, arguments: Sequence[str] = ()
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start `module` as the engine and return the process and our end of its socket (non-blocking).

    The engine gets a session of its own, so an interrupt at the terminal reaches the API process alone, which decides
    how to drain. Raises OSError where the process cannot be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        try:
            ours.sendall(frame(Configure(config)))
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), *arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=env.for_child(**FEW_SHAPES),
            )
        except BaseException:
            ours.close()
            raise
    ours.setblocking(False)
    return process, ours
