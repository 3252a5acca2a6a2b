"""What makers' data sheets say of a chip, found by the name its driver reports or the one a person types. Torch-free.

A table is for judging a measurement and for a card that cannot be measured; a receipt is never computed from it when a
measurement exists. An unknown chip is unknown: no figure is invented for it. `architectures.py` holds what compute
capabilities bring, `chips.py` what a row is, and `data_centre_cards.py`, `desktop_cards.py` and `superchips.py` hold the
products. Open `chip`, `named` and `architecture`.
"""

from __future__ import annotations

import re

from redline.hardware.architectures import ARCHITECTURES, INSTRUCTIONS, Architecture, architecture
from redline.hardware.chips import Board, Chip
from redline.hardware.data_centre_cards import DATA_CENTRE_CARDS
from redline.hardware.desktop_cards import DESKTOP_CARDS
from redline.hardware.superchips import SUPERCHIPS

__all__ = ["ARCHITECTURES", "CHIPS", "INSTRUCTIONS", "Architecture", "Board", "Chip", "architecture", "chip", "named"]

CHIPS: tuple[Chip, ...] = (*DATA_CENTRE_CARDS, *DESKTOP_CARDS, *SUPERCHIPS)
"""One row per product that planning is done for. Rows that a driver names differently (laptop, export and MIG variants, other
memory sizes) are other products: they are not here, and `chip` does not find them."""

ALIASES: dict[str, str] = {
    "v100": "V100 32GB SXM2",
    "v100s": "V100S PCIe",
    "a100": "A100 80GB SXM",
    "a10080gb": "A100 80GB SXM",
    "a10040gb": "A100 40GB SXM",
    "h100": "H100 SXM",
    "gh200": "GH200 96GB",
    "3090": "RTX 3090",
    "4090": "RTX 4090",
    "5090": "RTX 5090",
    "pro6000": "RTX PRO 6000",
    "dgxspark": "GB10",
    "orin": "Jetson AGX Orin 64GB",
    "jetsonorin": "Jetson AGX Orin 64GB",
    "thor": "Jetson AGX Thor",
    "jetsonthor": "Jetson AGX Thor",
    "rubin": "Rubin R100",
    "r100": "Rubin R100",
}
"""Short names of people, letters and digits alone, for a row of the table: the form that is sold most."""


def chip(driver_name: str) -> Chip | None:
    """The table's row for the name that the driver reports, or None: laptop, export and MIG variants differ."""
    return next((row for row in CHIPS if driver_name in row.driver_names), None)


def named(text: str) -> Chip | None:
    """The row that a person means: its name, its driver's name or a short form (`h100`, `rtx-4090`), in any spelling."""
    wanted = _plain(text)
    wanted = _plain(ALIASES.get(wanted, wanted))
    return next((row for row in CHIPS if wanted in map(_plain, (row.name, *row.driver_names))), None)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
