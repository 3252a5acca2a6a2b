"""Overlays, safe names and places, and older files as new ones."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from saidata.errors import BadName, Misuse, NotHere
from saidata.format import layout
from saidata.format.document import Text
from saidata.format.merge import merge, on_system
from saidata.format.schema import mistakes
from saidata.format.upgrade import upgraded


def test_merge_is_deep_replaces_lists_and_null_removes() -> None:
    default = {
        "version": "0.3",
        "metadata": {"name": "a", "tags": ["x"], "urls": {"icon": "i", "website": "w"}},
        "ports": [{"port": 1}],
    }
    overlay = {
        "metadata": {"tags": ["y", "z"], "urls": {"icon": None}, "license": "MIT"},
        "ports": None,
        "providers": {"apt": {"a": None}},
    }
    merged = merge(default, overlay)
    assert merged == {
        "version": "0.3",
        "metadata": {"name": "a", "tags": ["y", "z"], "urls": {"website": "w"}, "license": "MIT"},
        "providers": {"apt": {}},
    }
    merged["metadata"]["tags"].append("changed")
    assert overlay["metadata"]["tags"] == ["y", "z"] and default["metadata"]["tags"] == ["x"]
    assert merge(default, {}) == default


def test_merge_replaces_what_has_another_shape() -> None:
    assert merge({"a": [1], "b": {"c": 1}}, {"a": {"d": 2}, "b": "x"}) == {"a": {"d": 2}, "b": "x"}


def test_on_a_system(tmp_path: Path) -> None:
    default = tmp_path / "default.yaml"
    default.write_text('version: "0.3"\nmetadata:\n  name: a\n  license: MIT\n')
    (tmp_path / "ubuntu").mkdir()
    (tmp_path / "ubuntu" / "22.04.yaml").write_text('version: "0.3"\nmetadata:\n  license: null\n')
    assert on_system(default, "ubuntu", "22.04") == (
        {"version": "0.3", "metadata": {"name": "a"}},
        [default, tmp_path / "ubuntu" / "22.04.yaml"],
    )
    assert on_system(default, "ubuntu", "24.04")[1] == [default]
    with pytest.raises(NotHere, match="nothing for fedora") as error:
        on_system(default, "fedora", "40")
    assert error.value.hint == "it has ubuntu"
    assert layout.overlay_of(tmp_path / "ubuntu" / "22.04.yaml") == default
    assert layout.overlay_of(default) is None


def test_places() -> None:
    assert layout.place("nginx") == PurePosixPath("ng/nginx/default.yaml")
    assert layout.place("R") == PurePosixPath("r/R/default.yaml")
    assert layout.place("libstdc++6", "debian", "12") == PurePosixPath("li/libstdc++6/debian/12.yaml")


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "..",
        "../etc",
        "a/b",
        "a\\b",
        "/etc/passwd",
        ".hidden",
        "a..b",
        "a.",
        "a\0b",
        "a\n",
        "CON",
        "nul.txt",
        "é",
        "-x",
        "a b",
        "~",
        "x" * 129,
    ],
    ids=ascii,
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(BadName) as error:
        layout.place(name)
    assert error.value.hint and error.value.exit_code == 2


def test_a_name_of_a_megabyte_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadName, match="1000000 characters") as error:
        layout.place("x" * 1_000_000)
    assert len(error.value.sentence()) < 200
    with pytest.raises(BadName):
        layout.place("nginx", "../..", "12")


def test_files_are_found_below_a_folder_but_not_in_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/c.yaml", "a.yml", ".git/x.yaml", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(layout.files(tmp_path)) == [tmp_path / "a.yml", tmp_path / "b/c.yaml"]
    assert list(layout.files(tmp_path / "d.txt")) == [tmp_path / "d.txt"]


OLD = """\
version: "0.2"  # of the format
metadata: {name: a}
packages:
  - name: a-server   # the real name
  - name: b
    package_name: b1
providers:
  apt:
    packages:
      - name: c
        version: "1"
"""


def test_0_2_becomes_0_3_and_keeps_its_lines() -> None:
    made, left = upgraded(Text.parse(OLD, "a"))
    assert left == [] and mistakes(made.value, strict=True) == []
    assert made.dump() == OLD.replace('"0.2"', '"0.3"').replace(
        "# the real name\n", "# the real name\n    package_name: a-server\n"
    ).replace("      - name: c\n", "      - name: c\n        package_name: c\n")


FIRST = """\
version: 0.1
packages:
  default: {name: nginx, version: latest}
  dev: {name: nginx-dev, version: 1.10}
services:
  default: {name: nginx, service_name: nginx}
directories:
  log: {path: /var/log/nginx, mode: 0755}
  data: ~
commands:
  main: {command: /usr/sbin/nginx, arguments: [-t]}
ports:
  http: {port: 80, protocol: tcp}
  other: {port: ~, protocol: tcp}
containers:
  upstream: {name: nginx, image: nginx, version: latest, env: [A=b=c]}
urls: {website: "https://nginx.example.org", icon: ~}
category: {default: web, sub: ~, tags: [x]}
license: MIT
processes: {default: {path: nginx}}
"""


def test_0_1_becomes_0_3_and_says_what_has_no_place() -> None:
    made, left = upgraded(Text.parse(FIRST, "a"), "nginx")
    assert left == ["processes"] and mistakes(made.value, strict=True) == []
    assert made.value == {
        "version": "0.3",
        "metadata": {
            "name": "nginx",
            "category": "web",
            "tags": ["x"],
            "license": "MIT",
            "urls": {"website": "https://nginx.example.org"},
        },
        "packages": [{"name": "nginx", "package_name": "nginx"}, {"name": "dev", "package_name": "nginx-dev", "version": "1.10"}],
        "services": [{"name": "nginx", "service_name": "nginx"}],
        "directories": [{"name": "log", "path": "/var/log/nginx", "mode": "0755"}],
        "commands": [{"name": "nginx", "path": "/usr/sbin/nginx", "arguments": ["-t"]}],
        "ports": [{"port": 80, "protocol": "tcp", "service": "http"}],
        "containers": [{"name": "nginx", "image": "nginx", "tag": "latest", "environment": {"A": "b=c"}}],
    }


def test_what_cannot_be_converted_says_why() -> None:
    with pytest.raises(Misuse, match="does not say the software's name"):
        upgraded(Text.parse(FIRST, "a"))
    with pytest.raises(Misuse, match="saidata 7.0"):
        upgraded(Text.parse('version: "7.0"\nmetadata: {name: a}\n', "a"))
    text = Text.parse('version: "0.3"\n', "a")
    assert upgraded(text) == (text, [])
