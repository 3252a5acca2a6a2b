"""Processor and memory of the host, from /proc, /sys and the control groups this process lives in.

Every path is an argument, so the tests own a small false /proc. A file that is absent or unreadable means "not told":
containers hide parts of /sys, and other systems have no /proc at all. Open `read_cpu` and `read_memory` first.
"""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from redline.hardware.machine import Cpu

# In the order of what they are worth to a matrix product; x86 first, then Arm ("Features" in /proc/cpuinfo).
VECTORS = (
    "amx_bf16",
    "amx_int8",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "avx512f",
    "avx_vnni",
    "avx2",
    "fma",
    "f16c",
    "sve2",
    "sve",
    "bf16",
    "i8mm",
    "asimddp",
    "asimd",
)


def read_cpu(proc: Path, sys: Path) -> Cpu:
    """Model, usable cores and vector extensions. Usable: allowed by the affinity mask and by the cgroup's quota."""
    text = _read(proc / "cpuinfo") or ""
    flags = set((_field(text, "flags") or _field(text, "Features") or "").split())
    model = _field(text, "model name") or _field(text, "Hardware") or platform.processor() or platform.machine()
    quota = _cpu_quota(proc, sys)
    cores = _affinity(proc)
    if quota is not None:
        cores = min(cores, max(1, math.ceil(quota)))
    vectors = tuple(name for name in VECTORS if name in flags)
    return Cpu(model=model, cores=cores, vectors=vectors, l3_bytes=_last_level_cache(sys))


def read_memory(proc: Path, sys: Path) -> tuple[int, int]:
    """(all, available) bytes, the cgroups' limits respected; (0, 0) where the system does not tell.

    A group's page cache of files (`inactive_file`) counts as available, as the kernel drops it on demand.
    """
    text = _read(proc / "meminfo") or ""
    total, available = _kilobytes(text, "MemTotal"), _kilobytes(text, "MemAvailable")
    if total == 0:
        total = available = _sysconf_memory()
    for limit, used in _memory_groups(proc, sys):
        total = min(total, limit)
        available = min(available, max(0, limit - used))
    return total, min(available, total)


def _affinity(proc: Path) -> int:
    """Cores in the affinity mask, read from /proc so that a false /proc can tell; else what the system says."""
    listed = _field(_read(proc / "self" / "status") or "", "Cpus_allowed_list")
    if listed:
        spans = [[int(end) for end in part.split("-")] for part in listed.split(",")]
        return sum(span[-1] - span[0] + 1 for span in spans)
    return os.cpu_count() or 1


def _cpu_quota(proc: Path, sys: Path) -> float | None:
    """Cores per period that the strictest enclosing control group grants; None: no quota."""
    quotas = []
    for folder in _group_folders(proc, sys, "cpu"):
        unified = (_read(folder / "cpu.max") or "").split()
        quota, period = (
            unified if len(unified) == 2 else (_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
        )
        if quota and period and quota.strip().isdigit() and int(period) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _memory_groups(proc: Path, sys: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes in use that cannot be dropped) of every enclosing control group that has a limit."""
    for folder in _group_folders(proc, sys, "memory"):
        limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes") or ""
        if not limit.strip().isdigit():  # "max", or a group without the controller
            continue
        used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes") or "0"
        cached = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(folder / "memory.stat") or "", re.MULTILINE)
        yield int(limit), max(0, int(used) - (int(cached.group(1)) if cached else 0))


def _group_folders(proc: Path, sys: Path, controller: str) -> list[Path]:
    """This process's control group and its parents, version 2 and version 1, as folders that exist.

    Inside a container the path in /proc/self/cgroup is often the host's and not visible; the mount's root is then the
    container's own group, so it is always part of the list.
    """
    folders: list[Path] = []
    for line in (_read(proc / "self" / "cgroup") or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number != "0" and controller not in controllers.split(","):
            continue
        for mount in _group_mounts(sys / "fs" / "cgroup", number, controllers, controller):
            group = Path(path.lstrip("/"))
            folders += [mount / step for step in (group, *group.parents) if ".." not in step.parts and (mount / step).is_dir()]
    return folders


def _group_mounts(root: Path, number: str, controllers: str, controller: str) -> tuple[Path, ...]:
    return (root, root / "unified") if number == "0" else (root / controllers, root / controller)


def _last_level_cache(sys: Path) -> int | None:
    text = _read(sys / "devices" / "system" / "cpu" / "cpu0" / "cache" / "index3" / "size")
    match = re.fullmatch(r"(\d+)([KM])", (text or "").strip())
    return int(match.group(1)) << (10 if match.group(2) == "K" else 20) if match else None


def _sysconf_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _field(text: str, name: str) -> str | None:
    match = re.search(rf"^{re.escape(name)}\s*:[ \t]*(.*)$", text, re.MULTILINE)
    return match.group(1).strip() if match else None


def _kilobytes(text: str, name: str) -> int:
    value = (_field(text, name) or "0").split()[0]
    return int(value) * 1024


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
