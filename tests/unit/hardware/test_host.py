"""Cores and memory of the host are what this process may use, not what the machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline.hardware.host import read_cpu, read_memory

GIB = 1 << 30
CPUINFO = "processor\t: 0\nmodel name\t: AMD EPYC 9354\nflags\t\t: fpu avx2 fma avx512f avx512_bf16 ht\n"
MEMINFO = "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\n"


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, Path]:
    """A false /proc and /sys: eight allowed cores, 16 GiB of which 8 are available, no control group limit."""
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    write(proc / "cpuinfo", CPUINFO)
    write(proc / "meminfo", MEMINFO)
    write(proc / "self" / "status", "Name:\tpython\nCpus_allowed_list:\t0-5,8,10\n")
    write(proc / "self" / "cgroup", "0::/box/inner\n")
    write(sys / "devices/system/cpu/cpu0/cache/index3/size", "32768K\n")
    return proc, sys


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_model_cores_extensions_and_cache(machine: tuple[Path, Path]) -> None:
    cpu = read_cpu(*machine)
    assert (cpu.model, cpu.cores, cpu.l3_bytes) == ("AMD EPYC 9354", 8, 32 << 20)
    assert cpu.vectors == ("avx512_bf16", "avx512f", "avx2", "fma")


def test_arm_spells_its_features_differently(machine: tuple[Path, Path]) -> None:
    write(machine[0] / "cpuinfo", "processor : 0\nFeatures : fp asimd sve bf16 i8mm\n")
    assert read_cpu(*machine).vectors == ("sve", "bf16", "i8mm", "asimd")


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 2), ("max 100000", 8), ("50000 100000", 1), ("9900000 100000", 8)]
)
def test_a_quota_of_the_control_group_limits_cores(machine: tuple[Path, Path], quota: str, cores: int) -> None:
    write(machine[1] / "fs/cgroup/box/inner/cpu.max", quota + "\n")
    assert read_cpu(*machine).cores == cores


def test_a_quota_of_version_1_groups_counts_too(machine: tuple[Path, Path]) -> None:
    proc, sys = machine
    write(proc / "self" / "cgroup", "4:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/\n")
    write(sys / "fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "300000\n")
    write(sys / "fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n")
    assert read_cpu(proc, sys).cores == 3


def test_memory_without_groups_is_the_hosts(machine: tuple[Path, Path]) -> None:
    assert read_memory(*machine) == (16 * GIB, 8 * GIB)


def test_the_strictest_enclosing_group_limits_memory(machine: tuple[Path, Path]) -> None:
    """The parent's limit is 4 GiB with 3 in use, one of them cached files that the kernel would drop."""
    proc, sys = machine
    write(sys / "fs/cgroup/box/inner/memory.max", "max\n")
    write(sys / "fs/cgroup/box/memory.max", str(4 * GIB))
    write(sys / "fs/cgroup/box/memory.current", str(3 * GIB))
    write(sys / "fs/cgroup/box/memory.stat", f"anon 5\ninactive_file {GIB}\nactive_file 7\n")
    assert read_memory(proc, sys) == (4 * GIB, 2 * GIB)


def test_a_container_that_sees_only_its_own_group_at_the_root(machine: tuple[Path, Path]) -> None:
    proc, sys = machine
    write(proc / "self" / "cgroup", "0::/../../host/path\n")
    write(sys / "fs/cgroup/memory.max", str(2 * GIB))
    write(sys / "fs/cgroup/memory.current", str(GIB))
    assert read_memory(proc, sys) == (2 * GIB, GIB)


def test_version_1_memory_limits(machine: tuple[Path, Path]) -> None:
    proc, sys = machine
    write(proc / "self" / "cgroup", "4:memory:/box\n0::/\n")
    write(sys / "fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(sys / "fs/cgroup/memory/box/memory.limit_in_bytes", str(3 * GIB))
    write(sys / "fs/cgroup/memory/box/memory.usage_in_bytes", str(2 * GIB))
    write(sys / "fs/cgroup/memory/box/memory.stat", f"cache 1\ntotal_inactive_file {GIB // 2}\n")
    assert read_memory(proc, sys) == (3 * GIB, 3 * GIB // 2)


def test_a_system_without_proc_and_sys_still_answers(tmp_path: Path) -> None:
    cpu = read_cpu(tmp_path, tmp_path)
    total, available = read_memory(tmp_path, tmp_path)
    assert cpu.cores >= 1 and cpu.l3_bytes is None and total >= available >= 0


def test_caches_cores_and_nodes(machine: tuple[Path, Path]) -> None:
    proc, sys = machine
    cache = sys / "devices/system/cpu/cpu0/cache"
    write(cache / "index3/level", "3\n")
    write(cache / "index3/type", "Unified\n")
    write(cache / "index3/shared_cpu_list", "0-5,8,10\n")
    for name, text in {"size": "48K", "level": "1", "type": "Data", "shared_cpu_list": "0-1"}.items():
        write(cache / "index0" / name, text + "\n")
    for core in range(12):  # two sockets of three cores with two threads each
        folder = sys / f"devices/system/cpu/cpu{core}/topology"
        write(folder / "physical_package_id", f"{core // 6}\n")
        write(folder / "core_id", f"{core % 3}\n")
    write(sys / "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "3799072\n")
    for node, cores in enumerate(("0-5", "6-11", "")):  # the last: memory of a coherent GPU
        write(sys / f"devices/system/node/node{node}/cpulist", cores + "\n")
        write(sys / f"devices/system/node/node{node}/meminfo", f"Node {node} MemTotal:  8388608 kB\nNode {node} MemFree: 1 kB\n")
    cpu = read_cpu(proc, sys)
    assert [(c.level, c.kind, c.size_bytes, c.shared_by) for c in cpu.caches] == [
        (1, "Data", 48 << 10, 2),
        (3, "Unified", 32 << 20, 8),
    ]
    assert (cpu.logical_cores, cpu.physical_cores, cpu.sockets, cpu.max_mhz) == (12, 6, 2, 3799.072)
    assert [(n.index, len(n.cores), n.memory_bytes) for n in cpu.numa] == [(0, 6, 8 * GIB), (1, 6, 8 * GIB), (2, 0, 8 * GIB)]
    assert cpu.allowed == (0, 1, 2, 3, 4, 5, 8, 10) and cpu.untold == ()


def test_cores_and_sockets_from_cpuinfo_where_sysfs_is_hidden(tmp_path: Path) -> None:
    lines = [f"processor : {i}\nmodel name : X\nphysical id : {i // 4}\ncore id : {i % 2}\n" for i in range(8)]
    write(tmp_path / "proc/cpuinfo", "\n".join(lines))
    cpu = read_cpu(tmp_path / "proc", tmp_path / "sys")
    assert (cpu.logical_cores, cpu.physical_cores, cpu.sockets) == (8, 4, 2)


def test_nothing_to_read_is_none_with_reasons(tmp_path: Path) -> None:
    cpu = read_cpu(tmp_path / "proc", tmp_path / "sys")
    assert cpu.cores >= 1 and cpu.model
    assert (cpu.l3_bytes, cpu.logical_cores, cpu.max_mhz, cpu.caches, cpu.numa) == (None, None, None, (), ())
    reasons = dict(cpu.untold)
    assert {"vectors", "caches", "l3_bytes", "sockets", "max_mhz", "numa"} <= reasons.keys()
    assert all("cannot be read" in reason for reason in reasons.values())


def test_arm_cores_are_named_by_their_numbers(machine: tuple[Path, Path]) -> None:
    """GB10's two kinds of cores; a number that nobody knows leaves the name to the system."""
    core = "processor : {0}\nCPU implementer : 0x41\nCPU part : {1}\nFeatures : asimd sve2\n\n"
    write(machine[0] / "cpuinfo", core.format(0, "0xd87") + core.format(1, "0xd87") + core.format(2, "0xd85"))
    assert read_cpu(*machine).model == "Arm Cortex-A725 and Arm Cortex-X925"
    write(machine[0] / "cpuinfo", core.format(0, "0xfff"))
    assert "Arm Cortex" not in read_cpu(*machine).model
