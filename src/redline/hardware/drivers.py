"""What an NVIDIA driver and a build of torch rule out for a GPU: `rulings`. Torch-free; torch's build is read from its files.

Sources: CUDA toolkit release notes, "CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility"
(`LEAST_DRIVERS`, Linux) and each release's deprecated architectures; CUDA driver API reference, "since" notes (`FEATURES`);
CUDA compatibility guide (what a minor version may lack). Open `rulings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from redline.hardware.architectures import ARCHITECTURES, architecture
from redline.hardware.machine import Driver, Gpu, TorchBuild

LEAST_DRIVERS: dict[int, str] = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""The oldest driver for programs of each CUDA major version."""

FEATURES: tuple[tuple[tuple[int, int], str], ...] = (
    ((12, 0), "bulk tensor copies (TMA descriptors), so kernels for Hopper and later fall back to plain loads"),
    ((12, 3), "dependent launches inside CUDA graphs, so decode steps wait between kernels"),
)
"""(driver's CUDA version, what an older one lacks and what that costs)."""


@dataclass(frozen=True)
class Ruling:
    """One thing that does not go. `fatal`: the GPU cannot be used at all."""

    sentence: str
    fatal: bool


def torch_build() -> TorchBuild | None:
    """The installed torch, without importing it; None where there is none or its files do not tell."""
    from importlib import metadata  # a fifteenth of what `redline plan` imports, which asks nobody for torch

    try:
        distribution = metadata.distribution("torch")
        text = distribution.locate_file("torch/version.py").read_text()
    except (metadata.PackageNotFoundError, OSError):
        return None
    return parse_build(distribution.version, text)


def parse_build(version: str, text: str) -> TorchBuild:
    """From torch's own `version.py`, which names its CUDA version also where the package's version does not."""
    match = re.search(r"^cuda\b[^=]*=\s*'(\d+)\.(\d+)'", text, re.MULTILINE)
    return TorchBuild(version, (int(match.group(1)), int(match.group(2))) if match else None)


def rulings(gpu: Gpu, driver: Driver | None, torch: TorchBuild | None) -> tuple[Ruling, ...]:
    """What cannot be done with `gpu` under `driver` by `torch`, each with what to do. Nothing is said of what is not known."""
    return (*_by_driver(gpu, driver), *_by_torch(gpu, torch), *_between(driver, torch))


def _by_driver(gpu: Gpu, driver: Driver | None) -> Iterator[Ruling]:
    known = architecture(gpu.capability)
    if driver is None or driver.cuda is None:
        return
    if known is not None and driver.cuda < known.first_cuda:
        yield Ruling(
            f"driver {driver.version} runs CUDA {_dotted(driver.cuda)}, and {gpu.name} needs {_dotted(known.first_cuda)}: "
            "install a newer driver",
            fatal=True,
        )
    for needed, what in FEATURES:
        if driver.cuda < needed:
            yield Ruling(
                f"driver {driver.version} (CUDA {_dotted(driver.cuda)}) has no {what}: install one for CUDA {_dotted(needed)} or later",
                fatal=False,
            )


def _by_torch(gpu: Gpu, torch: TorchBuild | None) -> Iterator[Ruling]:
    if torch is None:
        return
    if torch.cuda is None:
        yield Ruling(
            f"torch {torch.version} is a build for CPUs and cannot use {gpu.name}: install torch's CUDA build", fatal=True
        )
        return
    known = architecture(gpu.capability)
    if known is None:
        return
    if known.last_cuda is not None and torch.cuda > known.last_cuda:
        yield Ruling(
            f"torch {torch.version} is built with CUDA {_dotted(torch.cuda)}, which makes no code for {known.name}: "
            f"install a build for CUDA {_dotted(known.last_cuda)} or older",
            fatal=True,
        )
    # Code for a capability runs on later ones of the same major number, so the first toolkit of the family is enough.
    first = min(row.first_cuda for row in ARCHITECTURES if row.capability[0] == known.capability[0])
    if torch.cuda < first:
        yield Ruling(
            f"torch {torch.version} is built with CUDA {_dotted(torch.cuda)}, which is older than {gpu.name}: "
            f"install a build for CUDA {_dotted(first)} or later",
            fatal=True,
        )


def _between(driver: Driver | None, torch: TorchBuild | None) -> Iterator[Ruling]:
    if driver is None or driver.cuda is None or torch is None or torch.cuda is None:
        return
    if driver.cuda[0] < torch.cuda[0]:
        least = LEAST_DRIVERS.get(torch.cuda[0])
        newer = f"driver {least} or later" if least else "a newer driver"
        yield Ruling(
            f"driver {driver.version} runs CUDA {_dotted(driver.cuda)}, and torch {torch.version} is built with CUDA "
            f"{_dotted(torch.cuda)}: install {newer} (or, on a data centre card, the cuda-compat package), or a torch build for "
            f"CUDA {driver.cuda[0]}",
            fatal=True,
        )
    elif driver.cuda < torch.cuda:
        yield Ruling(
            f"driver {driver.version} is for CUDA {_dotted(driver.cuda)} and torch for {_dotted(torch.cuda)}: compiled kernels run, "
            "programs in PTX from the newer toolkit do not",
            fatal=False,
        )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
