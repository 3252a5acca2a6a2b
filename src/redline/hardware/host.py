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

from redline.hardware.machine import Cache, Cpu, NumaNode, Untold

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


# Arm cores by (implementer, part) of their main identity register, which is all that /proc/cpuinfo has for a name there
# (Arm's technical reference manuals; NVIDIA Grace is Neoverse V2, GB10 has X925 and A725, Thor V3AE, Orin A78AE).
ARM_CORES = {
    ("0x41", "0xd0c"): "Arm Neoverse N1",
    ("0x41", "0xd40"): "Arm Neoverse V1",
    ("0x41", "0xd42"): "Arm Cortex-A78AE",
    ("0x41", "0xd49"): "Arm Neoverse N2",
    ("0x41", "0xd4f"): "Arm Neoverse V2",
    ("0x41", "0xd83"): "Arm Neoverse V3AE",
    ("0x41", "0xd84"): "Arm Neoverse V3",
    ("0x41", "0xd85"): "Arm Cortex-X925",
    ("0x41", "0xd87"): "Arm Cortex-A725",
    ("0x41", "0xd8e"): "Arm Neoverse N3",
}


def read_cpu(proc: Path, sys: Path) -> Cpu:
    """Model, usable cores and vector extensions, caches and nodes. Usable: allowed by the affinity mask and the cgroup's quota."""
    text = _read(proc / "cpuinfo") or ""
    flags = set((_field(text, "flags") or _field(text, "Features") or "").split())
    quota = _cpu_quota(proc, sys)
    allowed = _affinity(proc)
    cores = len(allowed) if allowed else os.cpu_count() or 1
    if quota is not None:
        cores = min(cores, max(1, math.ceil(quota)))
    caches = _caches(sys, allowed[0] if allowed else 0)
    logical, physical, sockets = _topology(text, sys)
    megahertz = _read(sys / "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    return Cpu(
        model=_model(text),
        cores=cores,
        vectors=tuple(name for name in VECTORS if name in flags),
        l3_bytes=next((cache.size_bytes for cache in caches if cache.level == 3), None),
        logical_cores=logical,
        physical_cores=physical,
        sockets=sockets,
        max_mhz=int(megahertz) / 1000 if megahertz else None,
        caches=caches,
        numa=_numa(sys),
        allowed=allowed,
        untold=_untold(proc, sys, bool(text), caches, logical, megahertz),
    )


def _untold(proc: Path, sys: Path, told: bool, caches: tuple[Cache, ...], logical: int | None, megahertz: str | None) -> Untold:
    """Why figures of the processor are missing."""
    found = [] if told else [(field, f"{proc / 'cpuinfo'} cannot be read") for field in ("model", "vectors")]
    folder = sys / "devices/system/cpu"
    why = f"{folder} cannot be read" if not folder.is_dir() else ""
    if not caches:
        found += [(field, why or f"the kernel lists no caches below {folder}") for field in ("caches", "l3_bytes")]
    elif all(cache.level != 3 for cache in caches):
        found.append(("l3_bytes", "the kernel lists no cache of level 3"))
    if logical is None:
        found += [(field, why or "the kernel lists no cores") for field in ("logical_cores", "physical_cores", "sockets")]
    if megahertz is None:
        found.append(("max_mhz", why or "the kernel scales no clocks here, as in most virtual machines"))
    if not (sys / "devices/system/node").is_dir():
        found.append(("numa", f"{sys / 'devices/system/node'} cannot be read"))
    return tuple(found)


def _model(text: str) -> str:
    """What the processor calls itself; on Arm the kinds of cores, several where they are mixed."""
    name = _field(text, "model name")
    if name:
        return name
    implementers = re.findall(r"^CPU implementer\s*:\s*(\S+)$", text, re.MULTILINE)
    parts = re.findall(r"^CPU part\s*:\s*(\S+)$", text, re.MULTILINE)
    kinds = dict.fromkeys(ARM_CORES.get(pair, "") for pair in zip(implementers, parts, strict=False))
    known = " and ".join(kind for kind in kinds if kind)
    return known or _field(text, "Hardware") or platform.processor() or platform.machine()


def _caches(sys: Path, core: int) -> tuple[Cache, ...]:
    """Of one core, smallest level first."""
    found = []
    for folder in sorted((sys / f"devices/system/cpu/cpu{core}/cache").glob("index*")):
        size, level = _size(_read(folder / "size")), _read(folder / "level")
        if size is None:
            continue
        sharing = _cores((_read(folder / "shared_cpu_list") or "").strip())
        number = int(level) if level else int(folder.name.removeprefix("index"))
        found.append(Cache(number, (_read(folder / "type") or "Unified").strip(), size, len(sharing) or None))
    return tuple(sorted(found, key=lambda cache: (cache.level, cache.kind)))


def _topology(text: str, sys: Path) -> tuple[int | None, int | None, int | None]:
    """(logical cores, physical cores, sockets) of the machine, from sysfs, else from /proc/cpuinfo."""
    pairs = []
    for folder in (sys / "devices/system/cpu").glob("cpu[0-9]*/topology"):
        package, core = _read(folder / "physical_package_id"), _read(folder / "core_id")
        if package is not None and core is not None:
            pairs.append((package.strip(), core.strip()))
    if not pairs:
        packages = re.findall(r"^physical id\s*:\s*(\d+)$", text, re.MULTILINE)
        pairs = list(zip(packages, re.findall(r"^core id\s*:\s*(\d+)$", text, re.MULTILINE), strict=False))
    if not pairs:
        return None, None, None
    return len(pairs), len(set(pairs)), len({package for package, _ in pairs})


def _numa(sys: Path) -> tuple[NumaNode, ...]:
    found = []
    for folder in (sys / "devices/system/node").glob("node[0-9]*"):
        memory = re.search(r"MemTotal:\s*(\d+) kB", _read(folder / "meminfo") or "")
        cores = _cores((_read(folder / "cpulist") or "").strip())
        found.append(NumaNode(int(folder.name.removeprefix("node")), cores, int(memory.group(1)) * 1024 if memory else None))
    return tuple(sorted(found, key=lambda node: node.index))


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


def _affinity(proc: Path) -> tuple[int, ...]:
    """Cores in the affinity mask, read from /proc so that a false /proc can tell; none where it does not."""
    return _cores(_field(_read(proc / "self" / "status") or "", "Cpus_allowed_list") or "")


def _cores(text: str) -> tuple[int, ...]:
    """The numbers in a kernel's list such as `0-5,8`."""
    spans = [[int(end) for end in part.split("-")] for part in text.split(",") if part.strip()]
    return tuple(number for span in spans for number in range(span[0], span[-1] + 1))


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


def _size(text: str | None) -> int | None:
    """Bytes of a size as sysfs writes it: `32K`, `1M`."""
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
