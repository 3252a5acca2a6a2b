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
