"""A file stays as it was but for what is changed, in every style people write; and what no reader should take is refused."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from saidata.errors import BadText, Misuse, NotHere
from saidata.format.document import Text
from saidata.format.tree import MAX_BYTES

NGINX = """\
# The web server.
version: "0.3"

metadata:
  name: nginx   # lower case
  tags: ["web", 'proxy', plain]
  description: >
    Serves pages,
    and proxies.
  urls: {website: "https://nginx.example.org", issues: ~}

packages:
  - name: nginx
    package_name: nginx # the real one
    alternatives:
      - nginx-full

      # not everywhere
      - nginx-light
  - name: nginx-doc
    package_name: nginx-doc

ports:
- port: 80
- port: 443
  protocol: tcp"""  # no newline at the end, as in many files

TIGHT = 'version: "0.3"\nmetadata:\n    name: "a"\n    urls:\n        website: "https://a.example.org"\npackages:\n- name: "a"\n  package_name: "a"\n'
WINDOWS = NGINX.replace("\n", "\r\n")


def changed(before: str, after: str) -> list[tuple[str, str]]:
    """The lines that differ, where no line was added or removed."""
    old, new = before.split("\n"), after.split("\n")
    assert len(old) == len(new)
    return [(left, right) for left, right in zip(old, new, strict=True) if left != right]


def read_by_ruamel(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@pytest.mark.parametrize("source", [NGINX, TIGHT, WINDOWS], ids=["mixed", "tight", "windows"])
def test_reads_what_ruamel_reads_and_writes_it_back_to_the_byte(source: str) -> None:
    text = Text.parse(source, "nginx")
    assert text.value == read_by_ruamel(source)
    assert text.dump() == source


def test_a_file_keeps_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "default.yaml"
    file.write_bytes(WINDOWS.encode())
    assert Text.read(file).dump().encode() == WINDOWS.encode()


CHANGES: list[tuple[tuple[str | int, ...], Any, tuple[str, str]]] = [
    (("metadata", "name"), "apache", ("  name: nginx   # lower case", "  name: apache   # lower case")),
    (("version",), "0.2", ('version: "0.3"', 'version: "0.2"')),
    (("metadata", "tags", 1), "it's", ("""  tags: ["web", 'proxy', plain]""", """  tags: ["web", 'it''s', plain]""")),
    (("metadata", "tags", 2), "no", ("""  tags: ["web", 'proxy', plain]""", """  tags: ["web", 'proxy', "no"]""")),
    (
        ("packages", 0, "package_name"),
        "1.10",
        ("    package_name: nginx # the real one", '    package_name: "1.10" # the real one'),
    ),
    (("packages", 0, "alternatives", 1), "x", ("      - nginx-light", "      - x")),
    (("ports", 1, "port"), 8443, ("- port: 443", "- port: 8443")),
    (("metadata", "urls", "website"), "https://b.example.org", ("nginx.example", "b.example")),
]


@pytest.mark.parametrize("source", [NGINX, WINDOWS], ids=["unix", "windows"])
@pytest.mark.parametrize(("path", "value", "line"), CHANGES, ids=[".".join(map(str, path)) for path, _, _ in CHANGES])
def test_one_value_changes_one_line(source: str, path: tuple[str | int, ...], value: Any, line: tuple[str, str]) -> None:
    after = Text.parse(source, "nginx").set(path, value)
    ((old, new),) = changed(source, after.dump())
    assert new == old.replace(*line) != old
    assert Text.parse(after.dump(), "nginx").value == after.value


def test_new_keys_stand_where_the_schema_has_them_and_comments_stay() -> None:
    text = Text.parse(NGINX, "nginx").set(("metadata", "license"), "BSD-2-Clause").set(("packages", 0, "version"), "1.22")
    lines = text.dump().split("\n")
    assert lines[lines.index("    package_name: nginx # the real one") + 1] == '    version: "1.22"'
    assert lines.index("  license: BSD-2-Clause") == lines.index("    and proxies.") + 1
    assert "      # not everywhere" in lines and not text.dump().endswith("\n")


def test_new_sections_and_items_follow_the_files_own_style() -> None:
    tight = (
        Text.parse(TIGHT, "a")
        .set(("services",), [{"name": "a", "enabled": True}])
        .set(("metadata", "security"), {"sbom_url": "x"})
    )
    assert tight.dump().endswith('services:\n- name: "a"\n  enabled: true\n')
    assert '    security:\n        sbom_url: "x"\n' in tight.dump()
    airy = Text.parse(NGINX, "nginx").set(("services",), [{"name": "nginx"}]).set(("ports", 2), {"port": 8080})
    assert "\n\nservices:\n  - name: nginx\n\nports:" in airy.dump()
    assert airy.dump().endswith("  protocol: tcp\n- port: 8080")


def test_what_is_removed_takes_its_lines_and_nothing_else() -> None:
    text = Text.parse(NGINX, "nginx")
    assert text.remove(("ports", 0)).dump() == NGINX.replace("- port: 80\n", "")
    assert text.remove(("ports", 1, "port")).value["ports"][1] == {"protocol": "tcp"}
    assert text.remove(("metadata", "tags", 0)).dump() == NGINX.replace('"web", ', "")
    assert text.remove(("metadata", "tags")).remove(("metadata", "urls", "issues")).value["metadata"]["urls"].keys() == {
        "website"
    }
    assert text.remove(("packages",)).value.keys() == {"version", "metadata", "ports"}
    only = Text.parse("metadata:\n  name: a\n", "a").remove(("metadata", "name"))
    assert only.value == {"metadata": {}}
    assert text.remove(("nothing", "here")) is text


def test_a_value_of_which_nothing_is_written_can_be_set() -> None:
    text = Text.parse("version:\nmetadata: # all of it\n  name:\npackages:\n  -\n", "a")
    after = text.set(("version",), "0.3").set(("metadata", "name"), "a").set(("packages", 0), {"name": "b"})
    assert after.dump() == 'version: "0.3"\nmetadata: # all of it\n  name: a\npackages:\n  - name: b\n'


def test_a_value_written_in_two_places_is_not_changed_in_both() -> None:
    text = Text.parse("a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 2\n", "a")
    assert text.value == {"a": {"b": 1}, "c": {"b": 1}, "d": {"e": 2, "b": 1}}
    with pytest.raises(Misuse, match="several places"):
        text.set(("c", "b"), 2)


def test_no_place_is_a_sentence() -> None:
    with pytest.raises(Misuse, match="There is no place for metadata.name.first"):
        Text.parse(NGINX, "nginx").set(("metadata", "name", "first"), 1)
    with pytest.raises(Misuse, match="no place for ports.7"):
        Text.parse(NGINX, "nginx").set(("ports", 7), 1)


def test_places_are_lines_and_columns() -> None:
    text = Text.parse(NGINX, "nginx")
    lines = NGINX.split("\n")
    for path, sign in [
        (("metadata", "name"), "nginx   #"),
        (("packages", 0, "package_name"), "nginx # the"),
        (("ports", 1, "port"), "443"),
    ]:
        line, column = text.place(path)
        assert lines[line - 1][column - 1 :].startswith(sign)
    assert text.place(("packages",)) == (12, 1)
    assert text.place(("packages", 1, "nothing", 3)) == text.place(("packages", 1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(codec="utf-8"), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcnoy0-", min_size=1, max_size=5), inner, max_size=3),
    max_leaves=6,
)
PATHS = st.sampled_from(
    [
        ("metadata", "name"),
        ("metadata", "tags"),
        ("metadata", "urls", "website"),
        ("packages", 0),
        ("packages", 0, "alternatives", 1),
    ]
    + [
        ("packages", 2),
        ("ports", 0, "port"),
        ("ports",),
        ("metadata", "description"),
        ("new",),
        ("metadata", "new"),
        ("ports", 1, "x"),
    ]
)


@pytest.mark.soak
def test_any_change_is_made_exactly_or_refused(effort: int) -> None:
    @settings(max_examples=40 * effort, deadline=None, suppress_health_check=list(HealthCheck), derandomize=effort == 1)
    @given(st.lists(st.tuples(PATHS, JSON), min_size=1, max_size=3), st.sampled_from([NGINX, TIGHT, WINDOWS]))
    def run(changes: list[tuple[tuple[str | int, ...], Any]], source: str) -> None:
        text = Text.parse(source, "nginx")
        for path, value in changes:
            before = text.value
            try:
                text = text.set(path, value)
            except Misuse:
                assert text.value == before
                continue
            found: Any = text.value
            for part in path:
                found = found[part]
            assert found == value and read_by_ruamel(text.dump()) == text.value

    run()


def bomb() -> str:
    return "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )


REFUSED = {
    "a bomb of aliases": (bomb(), "grows to more than 20000 values"),
    "an alias of itself": ("a: &a [*a]\n", "holds itself"),
    "an alias of nothing": ("a: *b\n", "no &b before it"),
    "a key twice": (
        "version: '0.3'\nmetadata:\n  name: a\n  name: b\n",
        "has the key 'name' twice in one object, first in line 3",
    ),
    "a tab": ("metadata:\n\tname: a\n", "indented with a tab"),
    "a tab below spaces": ("metadata:\n  name: a\n\turls: b\n", "indented with a tab"),
    "two documents": ("a: 1\n---\nb: 2\n", "more than one document"),
    "nothing": ("# only a comment\n", "is empty"),
    "a list": ("- a\n", "holds a list"),
    "text": ("nginx\n", "holds a scalar"),
    "depth": ("a: " + "[" * 100 + "]" * 100 + "\n", "nested more than 32 deep"),
    "many values": ("a: [" + "1," * 21_000 + "]\n", "more than 20000 values"),
    "a large file": ("a: " + "x" * MAX_BYTES, "larger than 10 MB"),
    "code": ("a: !!python/object/apply:os.system [x]\n", "uses the tag"),
    "a tag that lies": ("a: !!int x\n", "uses the tag !!int"),
    "a template": ("name: {{ software }}\n", "placeholder}} without quotes"),
    "a control character": ("a: \x01\n", "does not allow, U\\+0001"),
    "brackets": ("a: [1, 2\nb: 3\n", "is not YAML"),
    "another YAML": ("%YAML 1.1\n---\na: 1\n", "another YAML than 1.2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_a_sentence_with_its_place(case: str) -> None:
    text, said = REFUSED[case]
    began = time.perf_counter()
    with pytest.raises(BadText, match=said) as error:
        Text.parse(text, "file.yaml")
    assert error.value.hint and error.value.message.startswith("file.yaml")
    assert error.value.line or case == "a large file"
    assert time.perf_counter() - began < 20  # a bound for a machine that does other things too; it takes under a second


def test_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(NotHere, match="There is no file"):
        Text.read(tmp_path / "nothing.yaml")
    with pytest.raises(NotHere, match=str(tmp_path)):
        Text.read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(BadText, match="is not UTF-8") as error:
        Text.read(tmp_path / "latin.yaml")
    assert (error.value.line, error.value.column) == (2, 7)
    with open(tmp_path / "large.yaml", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(BadText, match="larger than 10 MB"):
        Text.read(tmp_path / "large.yaml")


def test_scalars_mean_what_yaml_1_2_says() -> None:
    source = "a: no\nb: 0644\nc: 22:22\nd: 1.10\ne: 0o17\nf: ~\ng: TRUE\nh: 1e3\ni: .inf\nj: 2024-01-01\nk: 0x1F\n1.10: l\n"
    value = Text.parse(source, "a").value
    assert value == {
        "a": "no",
        "b": 644,
        "c": "22:22",
        "d": 1.1,
        "e": 15,
        "f": None,
        "g": True,
        "h": 1000.0,
        "i": float("inf"),
    } | {
        "j": "2024-01-01",
        "k": 31,
        "1.10": "l",
    }
    assert Text.parse(source, "a").plain(("b",)) == "0644"
    assert Text.parse("a: 'x'\n", "a").plain(("a",)) is None


def test_versions_of_saidata_are_told() -> None:
    told = {text: Text.parse(text, "a").version for text in ("version: 0.1\n", 'version: "0.2"\n', "version: 0.3.1\n", "a: 1\n")}
    assert list(told.values()) == ["0.1", "0.2", "0.3", ""]


def test_text_streams_are_not_needed() -> None:
    """A byte-order mark, as some editors leave it, is no part of the first key."""
    assert Text.parse("\ufeffa: 1\n", "a").value == {"a": 1}
    assert Text.parse("\ufeffa: 1\n", "a").set(("a",), 2).dump() == "\ufeffa: 2\n"
    assert io.StringIO(Text.parse("a: 1", "a").dump()).read() == "a: 1"
