"""What this machine is and what it can do.

Knows nothing of torch, of models or of plans: micro-benchmarks come in as callables (`kernels/probes.py` makes them).
Open `machine.py` for the records, then `detect.py` (it asks `host.py`, `system.py`, `nvml.py` and `drivers.py`);
`ceilings.py` keeps what was measured for every forecast, `survey.py` what `redline doctor --measure` adds, `specs.py` what data
sheets say, and `doctor.py` turns all three into findings.
"""

from redline.hardware.ceilings import Ceilings, DeviceIdentity, Probes, identify
from redline.hardware.detect import detect
from redline.hardware.machine import Cpu, Gpu, Machine

__all__ = ["Ceilings", "Cpu", "DeviceIdentity", "Gpu", "Machine", "Probes", "detect", "identify"]
