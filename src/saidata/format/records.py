"""saidata 0.3 as typed records, in the order in which the keys are written. Open `Document` first.

A field that need not be there is `None` when it is absent. The records accept what the format allows and no more in the types
of values; unknown keys are dropped when a record is made from data. User files are judged by `schema.py` and the rules of
check, which say where a mistake stands; these records are for programs that want attributes instead of dictionaries.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Version = Annotated[str, Meta(pattern=r"^\d+\.\d+(\.\d+)?$")]
Checksum = Annotated[str, Meta(pattern="^(sha256|sha512|md5):[a-fA-F0-9]{32,128}$")]
Permissions = Annotated[str, Meta(pattern="^[0-7]{3,4}$")]
Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Seconds = Annotated[float, Meta(ge=0)]
Timeout = Annotated[int, Meta(ge=1, le=3600)]

Strings = list[str]
Texts = dict[str, str]


class Record(msgspec.Struct, omit_defaults=True):
    """What all records share: fields by name, and no trace of the absent ones when written."""


class Urls(Record, kw_only=True):
    """Where the software lives on the web."""

    website: str | None = None
    documentation: str | None = None
    source: str | None = None
    issues: str | None = None
    support: str | None = None
    download: str | None = None
    changelog: str | None = None
    license: str | None = None
    sbom: str | None = None
    icon: str | None = None


class Security(Record, kw_only=True):
    """Whom to tell of a vulnerability, and what has been told."""

    cve_exceptions: Strings | None = None
    security_contact: str | None = None
    vulnerability_disclosure: str | None = None
    sbom_url: str | None = None
    signing_key: str | None = None


class Metadata(Record, kw_only=True):
    """What the software is: names, prose, licence (an SPDX expression), addresses."""

    name: str
    display_name: str | None = None
    description: str | None = None
    version: str | None = None
    category: str | None = None
    subcategory: str | None = None
    tags: Strings | None = None
    license: str | None = None
    language: str | None = None
    maintainer: str | None = None
    urls: Urls | None = None
    security: Security | None = None


class Origin(Record, kw_only=True):
    """How the file itself came to be: key `saidata` of the document."""

    model: str | None = None
    generation_date: Moment | None = None
    generation_time: Seconds | None = None
    test_date: Moment | None = None
    human_review_date: Moment | None = None


class Package(Record, kw_only=True):
    """One installable package: `name` is the logical key, `package_name` what the package manager calls it."""

    name: str
    package_name: str
    version: str | None = None
    alternatives: Strings | None = None
    install_options: str | None = None
    repository: str | None = None
    checksum: str | None = None
    signature: str | None = None
    download_url: str | None = None


class Service(Record, kw_only=True):
    """A service: `service_name` is what the service manager calls it."""

    name: str
    service_name: str | None = None
    type: Literal["systemd", "init", "launchd", "windows_service", "docker", "kubernetes", "none"] | None = None
    enabled: bool | None = None
    config_files: Strings | None = None


class File(Record, kw_only=True):
    """A file that matters to whoever runs the software."""

    name: str
    path: str
    type: Literal["config", "binary", "library", "data", "log", "temp", "socket"] | None = None
    owner: str | None = None
    group: str | None = None
    mode: str | None = None
    backup: bool | None = None


class Directory(Record, kw_only=True):
    """A folder that matters to whoever runs the software."""

    name: str
    path: str
    owner: str | None = None
    group: str | None = None
    mode: str | None = None
    recursive: bool | None = None


class Command(Record, kw_only=True):
    """Something that can be run."""

    name: str
    path: str | None = None
    arguments: Strings | None = None
    aliases: Strings | None = None
    shell_completion: bool | None = None
    man_page: str | None = None


class Port(Record, kw_only=True):
    """A port the software listens on."""

    port: int
    protocol: Literal["tcp", "udp", "sctp"] | None = None
    service: str | None = None
    description: str | None = None


class Container(Record, kw_only=True):
    """An image to run."""

    name: str
    image: str
    tag: str | None = None
    registry: str | None = None
    platform: str | None = None
    ports: Strings | None = None
    volumes: Strings | None = None
    environment: Texts | None = None
    networks: Strings | None = None
    labels: Texts | None = None


class SourceCommands(Record, kw_only=True):
    """Commands that replace the build system's own."""

    download: str | None = None
    extract: str | None = None
    configure: str | None = None
    build: str | None = None
    install: str | None = None
    uninstall: str | None = None
    validation: str | None = None
    version: str | None = None


class Source(Record, kw_only=True):
    """A source archive and how it is built. The address may hold {{version}}, {{platform}}, {{architecture}}."""

    name: str
    url: str
    version: str | None = None
    build_system: Literal["autotools", "cmake", "make", "meson", "ninja", "custom"]
    build_dir: str | None = None
    source_dir: str | None = None
    install_prefix: str | None = None
    configure_args: Strings | None = None
    build_args: Strings | None = None
    install_args: Strings | None = None
    prerequisites: Strings | None = None
    environment: Texts | None = None
    checksum: Checksum | None = None
    custom_commands: SourceCommands | None = None


class Archive(Record, kw_only=True):
    """How a download is packed."""

    format: Literal["tar.gz", "tar.bz2", "tar.xz", "zip", "7z", "none"] | None = None
    strip_prefix: str | None = None
    extract_path: str | None = None


class BinaryCommands(Record, kw_only=True):
    """Commands that replace the usual download and copy."""

    download: str | None = None
    extract: str | None = None
    install: str | None = None
    uninstall: str | None = None
    validation: str | None = None
    version: str | None = None


class Binary(Record, kw_only=True):
    """A ready program to download. The address may hold {{version}}, {{platform}}, {{architecture}}."""

    name: str
    url: str
    version: str | None = None
    architecture: str | None = None
    platform: str | None = None
    checksum: Checksum | None = None
    install_path: str | None = None
    executable: str | None = None
    archive: Archive | None = None
    permissions: Permissions | None = None
    custom_commands: BinaryCommands | None = None


class ScriptCommands(Record, kw_only=True):
    """Commands that replace the running of the script."""

    download: str | None = None
    install: str | None = None
    uninstall: str | None = None
    validation: str | None = None
    version: str | None = None


class Script(Record, kw_only=True):
    """An installation script to download and run."""

    name: str
    url: str
    version: str | None = None
    interpreter: str | None = None
    checksum: Checksum | None = None
    arguments: Strings | None = None
    environment: Texts | None = None
    working_dir: str | None = None
    timeout: Timeout | None = None
    custom_commands: ScriptCommands | None = None


class PackageSource(Record, kw_only=True):
    """A named set of packages from one repository."""

    name: str
    priority: int | None = None
    recommended: bool | None = None
    repository: str
    packages: list[Package]
    notes: str | None = None


class Repository(Record, kw_only=True):
    """A repository that a package manager can be pointed at, and what differs when it is used."""

    name: str
    url: str | None = None
    key: str | None = None
    type: Literal["upstream", "os-default", "os-backports", "third-party"] | None = None
    components: Strings | None = None
    maintainer: str | None = None
    priority: int | None = None
    recommended: bool | None = None
    notes: str | None = None
    packages: list[Package] | None = None
    services: list[Service] | None = None
    files: list[File] | None = None
    directories: list[Directory] | None = None
    commands: list[Command] | None = None
    ports: list[Port] | None = None
    containers: list[Container] | None = None
    sources: list[Source] | None = None
    binaries: list[Binary] | None = None
    scripts: list[Script] | None = None


class ProviderConfig(Record, kw_only=True):
    """What is different, or only there, for one provider (apt, dnf, brew ...)."""

    prerequisites: Strings | None = None
    build_commands: Strings | None = None
    packages: list[Package] | None = None
    package_sources: list[PackageSource] | None = None
    repositories: list[Repository] | None = None
    services: list[Service] | None = None
    files: list[File] | None = None
    directories: list[Directory] | None = None
    commands: list[Command] | None = None
    ports: list[Port] | None = None
    containers: list[Container] | None = None
    sources: list[Source] | None = None
    binaries: list[Binary] | None = None
    scripts: list[Script] | None = None


class CompatibilityEntry(Record, kw_only=True):
    """Whether one provider works on a platform."""

    provider: str
    platform: str | Strings
    architecture: str | Strings | None = None
    os_version: str | Strings | None = None
    supported: bool
    notes: str | None = None
    tested: bool | None = None
    recommended: bool | None = None


class Versions(Record, kw_only=True):
    """Which versions of the software matter."""

    latest: str | None = None
    minimum: str | None = None
    latest_lts: str | None = None
    latest_minimum: str | None = None


class Compatibility(Record, kw_only=True):
    """Where the software runs."""

    matrix: list[CompatibilityEntry] | None = None
    versions: Versions | None = None


class Document(Record, kw_only=True):
    """A whole saidata file."""

    version: Version
    metadata: Metadata
    saidata: Origin | None = None
    packages: list[Package] | None = None
    services: list[Service] | None = None
    files: list[File] | None = None
    directories: list[Directory] | None = None
    commands: list[Command] | None = None
    ports: list[Port] | None = None
    containers: list[Container] | None = None
    sources: list[Source] | None = None
    binaries: list[Binary] | None = None
    scripts: list[Script] | None = None
    providers: dict[str, ProviderConfig] | None = None
    compatibility: Compatibility | None = None
