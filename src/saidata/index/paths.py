"""What a path of a package is: a unit, configuration, a command, a manual page. Open `kind_of`.

Only kinds that saidata writes or checks are kept, about two in a hundred of an archive's paths.
"""

from __future__ import annotations

COMMAND_FOLDERS = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/games")
UNIT_FOLDERS = ("lib/systemd/system", "usr/lib/systemd/system")
UNIT_ENDINGS = (".service", ".socket", ".timer", ".path", ".target", ".mount", ".automount", ".slice")

# Beginnings of every path that can have a kind: one `startswith` drops the other 98 %.
PREFIXES = (
    *(f"{folder}/".encode() for folder in (*COMMAND_FOLDERS, *UNIT_FOLDERS)),
    b"etc/",
    b"var/lib/",
    b"var/log/",
    b"var/cache/",
    b"var/spool/",
    b"var/www/",
    b"srv/",
    b"usr/share/bash-completion/completions/",
    b"usr/share/man/man1/",
    b"usr/share/man/man5/",
    b"usr/share/man/man6/",
    b"usr/share/man/man7/",
    b"usr/share/man/man8/",
)

_COMMANDS = frozenset(COMMAND_FOLDERS)
_UNITS = frozenset(UNIT_FOLDERS)


def kind_of(path: str) -> str | None:
    """The kind of `path` (no leading slash): a FactKind or "completion"; None where it does not matter."""
    folder, _, name = path.rpartition("/")
    if not name:
        return None
    if folder in _COMMANDS:
        return "command"
    if folder in _UNITS:
        return "unit" if name.endswith(UNIT_ENDINGS) else None
    if path.startswith("etc/"):
        return "config"
    if folder.startswith("usr/share/man/man"):
        return "manpage"
    if folder == "usr/share/bash-completion/completions":
        return "completion"
    if path.startswith("var/log/"):
        return "log"
    if path.startswith(("var/", "srv/")):
        return "directory"
    return None


def folder_of(path: str) -> str:
    """The folder that a package's file below var or srv stands for: "var/lib/nginx" of "var/lib/nginx/body"."""
    parts = path.split("/")
    deep = 2 if parts[0] == "srv" else 3
    return "/".join(parts[: min(deep, len(parts) - 1)])
