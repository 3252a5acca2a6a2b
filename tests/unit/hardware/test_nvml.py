"""GPUs are numbered as CUDA numbers them, and what a card does not tell is None with a reason."""

from __future__ import annotations

import pytest

from fake_nvml import GIB, NVLINK_4, Card, FakeNvml
from redline.hardware.machine import MigSlice, Pcie
from redline.hardware.nvml import Link, NvmlUnavailable, read_gpus, read_paths, silent

CARDS = [Card("GPU-aa1"), Card("GPU-ab2"), Card("GPU-cc3")]


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        (None, ["GPU-aa1", "GPU-ab2", "GPU-cc3"]),
        ("2,0", ["GPU-cc3", "GPU-aa1"]),
        ("GPU-c", ["GPU-cc3"]),
        ("", []),
        ("-1", []),
        ("1,7,0", ["GPU-ab2"]),  # the list ends where an entry names nothing
        ("GPU-a", []),  # ambiguous
        ("1,1", ["GPU-ab2"]),
    ],
)
def test_visible_devices_are_numbered_in_the_order_of_the_variable(visible: str | None, uuids: list[str]) -> None:
    gpus = read_gpus(FakeNvml(CARDS), visible)
    assert [gpu.uuid for gpu in gpus] == uuids
    assert [gpu.device for gpu in gpus] == [f"cuda:{i}" for i in range(len(uuids))]


def test_a_card_that_tells_everything() -> None:
    (gpu,) = read_gpus(FakeNvml([Card("GPU-1", processes=((4321, 20 * GIB), (77, None)))]))
    assert gpu.untold == ()
    assert (gpu.sms, gpu.ecc, gpu.compute_mode, gpu.memory_kind, gpu.mig) == (132, True, "default", "own", False)
    assert (gpu.power_min_w, gpu.power_max_w, gpu.power_w, gpu.sm_mhz, gpu.temperature_c) == (200.0, 700.0, 76.0, 345, 31)
    assert gpu.pcie == Pcie(1, 16, 5, 16) and gpu.pcie.bytes_per_s == pytest.approx(63e9, rel=0.01)
    assert gpu.nvlinks is not None and (gpu.nvlinks.count, gpu.nvlinks.version, gpu.nvlinks.bytes_per_s) == (18, "4.0", 450e9)
    assert gpu.nvlinks.peers == (("switch", 18),)
    assert gpu.processes is not None and [(row.pid, row.memory_bytes) for row in gpu.processes] == [(4321, 20 * GIB), (77, None)]
    assert gpu.pin_bytes_per_s == pytest.approx(4.917e12, rel=1e-3)  # 3201 MHz, twice, over 6144 bits


def test_every_figure_that_a_card_does_not_tell_is_none_with_a_reason() -> None:
    card = Card("GPU-1", power=(None, None), clocks=(None, None), clocks_now=(None, None), reasons=None)
    card.power_range = card.power_now = card.temperature = card.utilization = card.processes = card.ecc = None
    card.ecc_errors = card.cores = card.bus_bits = card.mode = card.bus_id = card.pcie = card.links = card.mig = None
    (gpu,) = read_gpus(FakeNvml([card]))
    empty = {name for name, value in vars(gpu).items() if value is None}
    assert empty - dict(gpu.untold).keys() == {"numa_node", "parent", "mig"}  # detect's, a slice's, and older than MIG
    assert all(reason for _, reason in gpu.untold) and dict(gpu.untold)["ecc"] == "Not Supported"
    assert gpu.pin_bytes_per_s is None and gpu.slices == ()


def test_an_unknown_architecture_has_no_guessed_multiprocessors() -> None:
    (gpu,) = read_gpus(FakeNvml([Card("GPU-1", capability=(15, 0))]))
    assert gpu.sms is None and "not known" in dict(gpu.untold)["sms"]


def test_a_unified_gpu_has_the_hosts_memory() -> None:
    """GB10's driver does not support the question; a stranger that answers so is taken for one too."""
    for name in ("NVIDIA GB10", "NVIDIA Something"):
        (gpu,) = read_gpus(FakeNvml([Card("GPU-1", name, (12, 1), total=None)]), host_memory=(120 * GIB, 100 * GIB))
        assert (gpu.memory_bytes, gpu.free_bytes, gpu.memory_kind) == (120 * GIB, 100 * GIB, "unified")


def test_a_grace_hopper_is_coherent() -> None:
    (gpu,) = read_gpus(FakeNvml([Card("GPU-1", "NVIDIA GH200 480GB")]))
    assert gpu.memory_kind == "coherent" and gpu.memory_bytes == 140 * GIB


def test_a_lost_card_hides_no_other() -> None:
    nvml = FakeNvml([Card("GPU-a"), Card("GPU-b", lost="GPU is lost"), Card("GPU-c")])
    assert [(gpu.index, gpu.uuid) for gpu in read_gpus(nvml)] == [(0, "GPU-a"), (1, "GPU-c")]
    assert silent(nvml) == ("GPU 1 of the driver does not answer: GPU is lost",)


def test_paths_know_peers_and_direct_links() -> None:
    first = Card("GPU-a", bus_id="0000:01:00.0", links=(Link(NVLINK_4, "0000:02:00.0"),) * 4)
    nvml = FakeNvml([first, Card("GPU-b", bus_id="0000:02:00.0")])
    (path,) = read_paths(nvml, read_gpus(nvml))
    assert (path.first, path.second, path.level, path.peer, path.nvlinks) == (0, 1, "system", True, 4)
    nvml.peers = None
    assert read_paths(nvml, read_gpus(nvml))[0].peer is None


SLICES = (MigSlice("MIG-1", "NVIDIA H200 MIG 1g.18gb", 16 * GIB, 15 * GIB, 16), MigSlice("MIG-2", "x", 16 * GIB, 16 * GIB))


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [(None, ["MIG-1"]), ("0", ["MIG-1"]), ("MIG-2", ["MIG-2"]), ("MIG-2,MIG-1", ["MIG-2"]), ("GPU-a", [])],
)
def test_cuda_shows_one_slice_of_a_card_in_mig_mode(visible: str | None, uuids: list[str]) -> None:
    gpus = read_gpus(FakeNvml([Card("GPU-a", mig=(True, True), slices=SLICES)]), visible)
    assert [gpu.uuid for gpu in gpus] == uuids
    for gpu in gpus:
        assert gpu.parent == "GPU-a" and gpu.memory_bytes == 16 * GIB and gpu.nvlinks is None
        assert gpu.sms == (16 if gpu.uuid == "MIG-1" else None) and gpu.pin_bytes_per_s is None


def test_a_card_in_mig_mode_without_slices_is_no_device() -> None:
    assert read_gpus(FakeNvml([Card("GPU-a", mig=(True, True))])) == ()


def test_a_driver_that_answers_nothing_raises() -> None:
    with pytest.raises(NvmlUnavailable, match="mismatch"):
        read_gpus(FakeNvml(broken="Driver/library version mismatch"))
