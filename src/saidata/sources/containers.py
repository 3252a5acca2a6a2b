"""Container registries: an image's labels through skopeo, or its tags from a registry's own API."""

from __future__ import annotations

import re

import msgspec

from saidata.facts import FactKind
from saidata.sources.licences import to_spdx
from saidata.sources.provider import Absent, Provider, Said, kept_ones

_LABEL = "org.opencontainers.image."
_LABELS: dict[str, tuple[FactKind, str]] = {
    "url": ("homepage", ""),
    "source": ("url", "source"),
    "documentation": ("url", "documentation"),
    "description": ("description", ""),
    "title": ("summary", ""),
    "vendor": ("maintainer", ""),
}
MOST_TAGS = 20
_VERSION = re.compile(r"v?\d+(\.\d+)*$")


def read_image(answer: bytes, name: str) -> list[Said]:
    """`skopeo inspect`: labels, digest and tags."""
    about = msgspec.json.decode(answer)
    labels = about.get("Labels") or {}
    said = kept_ones([("package", about["Name"], about.get("Digest", ""))])
    said += kept_ones([(kind, labels.get(_LABEL + label), detail) for label, (kind, detail) in _LABELS.items()])
    said += kept_ones([("licence", to_spdx(labels.get(_LABEL + "licenses", "")), "image label")])
    return said + _versions(about.get("RepoTags") or [])


def read_tags(answer: bytes, name: str) -> list[Said]:
    """The tag list of a registry."""
    about = msgspec.json.decode(answer)
    if not about.get("tags"):
        raise Absent
    return [Said("package", about["name"]), *_versions(about["tags"])]


def _versions(tags: list[str]) -> list[Said]:
    """Tags that are plain versions, highest first."""
    plain = [tag for tag in tags if _VERSION.match(tag)]
    plain.sort(key=lambda tag: [int(part) for part in re.findall(r"\d+", tag)], reverse=True)
    return [Said("version", tag, "tag") for tag in plain[:MOST_TAGS]]


CONTAINER = Provider(
    name="container",
    command=("skopeo", "inspect", "docker://{name}"),
    read=read_image,
    absent=r"manifest unknown|repository name not known|name unknown",
    path="v2/{name}/tags/list",
    read_answer=read_tags,
)
