"""What a package makes when it is installed, read out of its maintainer scripts: `read`. Nothing is ever run.

Shell is not parsed: only forms that say a name outright, or through a variable that is set to a plain word, are taken.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator

import msgspec

STATE_FOLDERS = ("/var/lib/", "/var/log/", "/var/cache/", "/var/spool/", "/var/www/", "/srv/", "/etc/", "/run/")


class Made(msgspec.Struct):
    """Names and paths, in the order in which they stand."""

    users: list[str] = msgspec.field(default_factory=list)
    directories: list[str] = msgspec.field(default_factory=list)
    configs: list[str] = msgspec.field(default_factory=list)  # put below /etc at install, and so in no file list
    links: list[tuple[str, str]] = msgspec.field(default_factory=list)  # (command, what it stands for): alternatives
    copied: dict[str, str] = msgspec.field(default_factory=dict)  # a shipped file to the configuration it becomes


_SET = re.compile(
    r"""^\s*(?:export\s+|local\s+|readonly\s+)?([A-Za-z_][A-Za-z0-9_]*)=(["']?)([A-Za-z0-9_./-]+)\2\s*(?:;|$)""", re.MULTILINE
)
_VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")
_NAME = re.compile(r"[a-z_][a-z0-9_.-]{0,31}$", re.IGNORECASE)
_WITH_VALUE = {
    *(
        "--home",
        "--shell",
        "--gecos",
        "--comment",
        "--uid",
        "--gid",
        "--ingroup",
        "--firstuid",
        "--lastuid",
        "--conf",
        "-d",
        "-s",
        "-c",
    ),
    *("-g", "-u", "-G", "-b", "--base-dir", "--home-dir", "--groups", "-k", "--skel", "-e", "-f", "-p", "-K"),
}


def read(texts: Iterable[str]) -> Made:
    """The scripts of one package together, each value once."""
    made = Made()
    for text in texts:
        text = text.replace("\\\n", " ")
        known = {name: value for name, _, value in _SET.findall(text)}
        for line in text.splitlines():
            _line(line, known, made)
    for field in ("users", "directories", "configs", "links"):
        setattr(made, field, list(dict.fromkeys(getattr(made, field))))
    return made


def sysusers(text: str) -> list[str]:
    """The users of a sysusers.d file."""
    return [words[1] for words in _rows(text) if words[0].rstrip("!") == "u" and len(words) > 1 and _NAME.match(words[1])]


def tmpfiles(text: str) -> list[str]:
    """The directories that a tmpfiles.d file makes and that outlive a restart."""
    rows = (words for words in _rows(text) if words[0][0] in "dDqQvC" and len(words) > 1)
    return [words[1].rstrip("/") for words in rows if words[1].startswith(STATE_FOLDERS) and "%" not in words[1]]


def _rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            yield words


def _line(line: str, known: dict[str, str], made: Made) -> None:
    line = line.strip()
    if not line or line.startswith("#"):
        return
    match = re.search(
        r"(?:^|[;&|!(]\s*|\bthen\s+|\belse\s+|\bdo\s+|\bif\s+)((?:/\S+/)?(adduser|useradd|mkdir|install|ucf|cp|update-alternatives)\s.*)",
        line,
    )
    if match is None:
        return
    try:
        words = shlex.split(match[1], comments=True)
    except ValueError:  # a quote that the line does not close
        return
    words = [_VARIABLE.sub(lambda found: known.get(found[1], found[0]), word) for word in _until_end(words)]
    {
        "adduser": _user,
        "useradd": _user,
        "mkdir": _folders,
        "install": _installed,
        "ucf": _ucf,
        "cp": _copy,
        "update-alternatives": _alternative,
    }[match[2]](words, made)


def _until_end(words: list[str]) -> list[str]:
    """The words of the first command."""
    for at, word in enumerate(words):
        if word in (";", "&&", "||", "|", "then", "fi") or word.startswith((">", "2>", "1>")):
            return words[:at]
        if word.endswith(";"):
            return [*words[:at], word.rstrip(";")]
    return words


def _plain(words: list[str], with_value: Collection[str] = _WITH_VALUE) -> list[str]:
    """Arguments that are no options, nor an option's value."""
    kept, skip = [], False
    for word in words[1:]:
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = word in with_value
        else:
            kept.append(word)
    return kept


def _user(words: list[str], made: Made) -> None:
    names = _plain(words)
    if names and "--group" in words and "--system" not in words and words[0].endswith("adduser") and len(names) == 1:
        return  # a group alone
    # `adduser USER GROUP` adds to a group; the user exists already.
    if names and not (words[0].endswith("adduser") and len(names) > 1) and _NAME.match(names[-1]):
        made.users.append(names[-1])


def _installed(words: list[str], made: Made) -> None:
    folders = any(word in ("-d", "--directory") or re.match(r"-[a-zA-Z]*d$", word) for word in words[1:4])
    (_folders if folders else _copy)(words, made)


def _folders(words: list[str], made: Made) -> None:
    for word in words[1:]:
        if word.startswith(STATE_FOLDERS) and _is_path(word):
            made.directories.append(word.rstrip("/"))


def _ucf(words: list[str], made: Made) -> None:
    paths = _plain(words, ())  # the new file is often a temporary one, in a variable
    if len(paths) >= 2 and paths[-1].startswith("/etc/") and _is_path(paths[-1]):
        made.configs.append(paths[-1])


def _copy(words: list[str], made: Made) -> None:
    """A shipped file that is put below /etc; a copy to a folder or of what is there already makes no new configuration."""
    paths = _plain(words, ("-m", "--mode", "-o", "--owner", "-g", "--group"))
    if len(paths) != 2 or not all(_is_path(path) for path in paths):
        return
    shipped, config = paths
    if shipped.startswith("/usr/") and config.startswith("/etc/") and "." in config.rpartition("/")[2]:
        made.configs.append(config)
        made.copied[shipped] = config


def _alternative(words: list[str], made: Made) -> None:
    for at, word in enumerate(words):
        if word in ("--install", "--slave") and len(words) > at + 3:
            link, path = words[at + 1], words[at + 3]
            if re.fullmatch(r"/(usr/)?(s?bin|games)/[\w.+-]+", link) and _is_path(path):
                made.links.append((link, path))


def _is_path(word: str) -> bool:
    return re.fullmatch(r"/[\w.+@:/-]+", word) is not None and ".." not in word
