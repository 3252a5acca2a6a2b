"""Every provider beside apt, by name: `PROVIDERS`. apt has the index and `deb`."""

from __future__ import annotations

from saidata.errors import Misuse
from saidata.sources import containers, desktops, registries, systems
from saidata.sources.provider import Provider

PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        *(registries.PYPI, registries.NPM, registries.CONDA),
        *(systems.DNF, systems.APK, systems.PACMAN, systems.NIX),
        *(desktops.BREW, desktops.WINGET, desktops.CHOCO),
        containers.CONTAINER,
    )
}


def find(name: str) -> Provider:
    """The provider called so; Misuse lists the known ones."""
    if name not in PROVIDERS:
        raise Misuse(f"there is no provider {name!r:.60}", f"known are apt, {', '.join(PROVIDERS)}")
    return PROVIDERS[name]
