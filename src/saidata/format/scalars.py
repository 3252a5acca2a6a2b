"""How single values are written in YAML and what a plain one means: `write` and `meaning`.

What `write` writes is read alike by readers of YAML 1.1 and 1.2, which differ in `no`, `0644`, `22:22` and `1.10`: whatever
either could take for something else than text is quoted, and so are values of keys that look like numbers on some day
(versions, modes, country codes). `meaning` follows YAML 1.2's core schema.
"""

from __future__ import annotations

import json
import math
import re

from saidata.facts import Path

# Keys whose text is always quoted, whatever it looks like today.
ALWAYS_QUOTED = {"version", "mode", "permissions", "tag", "os_version", "latest", "minimum", "latest_lts", "latest_minimum"}
ALWAYS_QUOTED |= {"language", "country", "checksum", "generation_date", "test_date", "human_review_date"}

# Text that needs no quotes: begins with a letter or a slash, and holds no character that YAML gives a meaning.
_SAFE = re.compile(r"[A-Za-z/](?:[A-Za-z0-9_./@+()'-]|[:=~](?=[A-Za-z0-9_./@+-])|[ ,;](?=[A-Za-z0-9_/(]))*")
_SAFE_IN_FLOW = re.compile(r"[A-Za-z/](?:[A-Za-z0-9_./@+()-]| (?=[A-Za-z0-9_/]))*")

# What YAML 1.1 or 1.2 reads as something else than text.
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}


def write(value: str | int | float | bool | None, path: Path = (), *, flow: bool = False) -> str:
    """One value as YAML. `path` says which key it belongs to, `flow` whether it stands inside brackets."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _real(value)
    key = next((part for part in reversed(path) if isinstance(part, str)), "")
    plain = (_SAFE_IN_FLOW if flow else _SAFE).fullmatch(value) and value.lower() not in _WORDS and "_" != value[:1]
    return value if plain and key not in ALWAYS_QUOTED else quoted(value)


def write_key(key: str) -> str:
    """A key of a mapping."""
    return write(key, flow=True)


def quoted(value: str) -> str:
    """Text in double quotes: JSON's escapes are YAML's, and what JSON leaves bare and YAML cannot hold is escaped as well."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(letter if _printable(letter) else _escaped(letter) for letter in text)


def meaning(text: str) -> str | int | float | bool | None:
    """What a plain, untagged scalar means in YAML 1.2."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if _INTEGER.fullmatch(text):
        return _whole(text)
    if text.lower() in _SPECIAL and text[-3:] in ("inf", "Inf", "INF", "nan", "NaN", "NAN"):
        return _SPECIAL[text.lower()]
    return float(text) if _FLOAT.fullmatch(text) else text


def _whole(text: str) -> int | str:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text[2:] if base != 10 else text, base) if len(text) <= 64 else text  # no number of saidata is that long


def _real(value: float) -> str:
    if math.isnan(value) or math.isinf(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    mantissa, _, exponent = repr(value).partition("e")
    mantissa = mantissa if "." in mantissa else mantissa + ".0"  # YAML 1.1 wants the point, and a sign in the exponent
    return f"{mantissa}e{int(exponent):+d}" if exponent else mantissa


def _printable(letter: str) -> bool:
    code = ord(letter)
    return (
        0x20 <= code < 0x7F
        or 0xA0 <= code < 0xD800
        and code not in (0x2028, 0x2029)
        or 0xE000 <= code < 0xFFFE
        and code != 0xFEFF
    )


def _escaped(letter: str) -> str:
    code = ord(letter)
    return f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"
