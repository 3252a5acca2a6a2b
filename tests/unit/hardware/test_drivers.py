"""What a driver and a build of torch rule out is said once, with the way out; what is not known is not said."""

from __future__ import annotations

import pytest

from redline.hardware import Gpu
from redline.hardware.drivers import parse_build, rulings, torch_build
from redline.hardware.machine import Driver, TorchBuild

CU130, CU126 = TorchBuild("2.11.0+cu130", (13, 0)), TorchBuild("2.11.0+cu126", (12, 6))
NEW, OLD = Driver("580.159.04", (13, 0)), Driver("550.54.15", (12, 4))


def gpu(name: str, major: int, minor: int) -> Gpu:
    return Gpu(0, "GPU-1", name, (major, minor), 1 << 30, 1 << 30, "580")


H200, V100, B200 = gpu("NVIDIA H200", 9, 0), gpu("Tesla V100-SXM2-32GB", 7, 0), gpu("NVIDIA B200", 10, 0)


@pytest.mark.parametrize(
    ("card", "driver", "torch", "words"),
    [
        (H200, OLD, CU130, "runs CUDA 12.4, and torch 2.11.0+cu130 is built with CUDA 13.0: install driver 580.65.06 or later"),
        (H200, NEW, TorchBuild("2.11.0+cpu", None), "a build for CPUs and cannot use NVIDIA H200"),
        (V100, NEW, CU130, "makes no code for Volta: install a build for CUDA 12.9 or older"),
        (B200, NEW, CU126, "older than NVIDIA B200: install a build for CUDA 12.8 or later"),
        (B200, OLD, CU126, "runs CUDA 12.4, and NVIDIA B200 needs 12.8"),
        (H200, Driver("470.57.02", (11, 4)), TorchBuild("2", (11, 4)), "needs 11.8"),
    ],
)
def test_what_cannot_work_is_fatal(card: Gpu, driver: Driver, torch: TorchBuild, words: str) -> None:
    assert any(words in ruling.sentence for ruling in rulings(card, driver, torch) if ruling.fatal)


@pytest.mark.parametrize(
    ("driver", "torch", "words"),
    [
        (Driver("525.60.13", (12, 0)), CU126, "dependent launches inside CUDA graphs"),
        (Driver("550", (12, 4)), CU126, "programs in PTX"),
    ],
)
def test_what_costs_speed_is_said_and_not_fatal(driver: Driver, torch: TorchBuild, words: str) -> None:
    said = rulings(H200, driver, torch)
    assert any(words in ruling.sentence for ruling in said) and not any(ruling.fatal for ruling in said)


@pytest.mark.parametrize(("driver", "torch"), [(NEW, CU130), (NEW, CU126), (None, None), (NEW, None), (None, CU130)])
def test_a_sound_or_unknown_pair_is_not_complained_of(driver: Driver | None, torch: TorchBuild | None) -> None:
    assert rulings(H200, driver, torch) == ()


def test_nothing_is_said_of_a_capability_that_nobody_knows() -> None:
    """Not even that it is too new; only that the CPU build of torch cannot reach it."""
    assert all("X" not in ruling.sentence for ruling in rulings(gpu("NVIDIA X", 9, 9), NEW, CU130))


def test_code_of_the_family_runs_on_its_later_members() -> None:
    assert rulings(gpu("NVIDIA B300 SXM6 AC", 10, 3), NEW, TorchBuild("2.9+cu128", (12, 8))) == ()
    assert any(r.fatal for r in rulings(gpu("NVIDIA Thor", 11, 0), NEW, TorchBuild("2.9+cu128", (12, 8))))


def test_torchs_own_file_names_its_cuda_version() -> None:
    text = "__version__ = '2.11.0'\ndebug = False\ncuda: Optional[str] = '13.0'\ngit_version = 'x'\nhip: Optional[str] = None\n"
    assert parse_build("2.11.0", text) == TorchBuild("2.11.0", (13, 0))
    assert parse_build("2.13.0+cpu", text.replace("'13.0'", "None")).cuda is None


def test_the_torch_that_is_installed_is_read_and_not_imported() -> None:
    import torch

    build = torch_build()
    # A package's version need not have the local part (2.13.0) that the module's has (2.13.0+cu130).
    assert build is not None and build.version.partition("+")[0] == torch.__version__.partition("+")[0]
    assert build.cuda == (torch.version.cuda and tuple(int(part) for part in torch.version.cuda.split(".")))
