"""What this machine is and what it can do.

Knows nothing of torch, of models or of plans: micro-benchmarks come in as callables (`kernels/probes.py` makes them).
Open `machine.py` for the records, then `detect.py` (it asks `host.py`, `system.py`, `nvml.py` and `drivers.py`);
`ceilings.py` keeps what was measured for every forecast, `survey.py` what `redline doctor --measure` adds, `specs.py` what data
sheets say, and `doctor.py` turns all three into findings.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redline.hardware.ceilings import Ceilings as Ceilings
    from redline.hardware.ceilings import DeviceIdentity as DeviceIdentity
    from redline.hardware.ceilings import Probes as Probes
    from redline.hardware.ceilings import identify as identify
    from redline.hardware.machine import Cpu as Cpu
    from redline.hardware.machine import Gpu as Gpu
    from redline.hardware.machine import Machine as Machine

_EXPORTS = dict.fromkeys(("Ceilings", "DeviceIdentity", "Probes", "identify"), "redline.hardware.ceilings")
_EXPORTS |= dict.fromkeys(("Cpu", "Gpu", "Machine"), "redline.hardware.machine")


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
