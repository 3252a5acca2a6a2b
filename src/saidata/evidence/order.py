"""Which facts of a package matter most: `unit_rank`, `config_rank`, `command_rank`. Smaller is better; `main_config` is the one that counts.

A reader, and a model that reads a bounded prompt, takes the first: so the unit called like the software stands before
timers and helpers, etc/NAME/NAME.conf before etc/default/NAME, NAME before NAME-something.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Rank = tuple[object, ...]

UNIT_KINDS = (".service", ".socket", ".timer", ".path", ".target", ".mount", ".automount", ".slice")

# Configuration of other programs, by which a package plugs itself into them; least telling last.
PLUGGED = (
    *(
        "default",
        "init.d",
        "logrotate.d",
        "cron.d",
        "cron.daily",
        "cron.weekly",
        "cron.monthly",
        "cron.hourly",
        "sysctl.d",
        "pam.d",
    ),
    *("security", "dbus-1", "udev", "modprobe.d", "modules-load.d", "systemd", "ufw", "rsyslog.d", "profile.d", "ld.so.conf.d"),
    *(
        "network",
        "NetworkManager",
        "ppp",
        "xdg",
        "X11",
        "init",
        "insserv.conf.d",
        "resolvconf",
        "apt",
        "kernel",
        "initramfs-tools",
    ),
    *("emacs", "bash_completion.d", "apparmor.d", "apport", "dhcp", "polkit-1", "skel", "zsh", "fish", "grub.d", "alternatives"),
)
HOSTS = (
    *("apache2", "cockpit", "collectd", "fail2ban", "ferm", "ifplugd", "letsencrypt", "lighttpd", "logcheck", "monit", "munin"),
    *("mysql", "nagios", "nginx", "php", "postfix", "pm", "power", "schroot", "update-motd.d", "xinetd.d"),
)
"""Folders of programs that others put a file into; each is the main thing of its own program."""
_PLUGGED = {folder: number for number, folder in enumerate(PLUGGED)}
_MAIN_NAMES = (
    "{}.conf",
    "{}.cfg",
    "{}.ini",
    "{}.yml",
    "{}.yaml",
    "{}.toml",
    "{}.json",
    "{}.xml",
    "{}.cnf",
    "{}rc",
    "{}",
    "{}d.conf",
    "{}_config",
    "{}d_config",
)
_GENERAL = (
    *("main.cf", "config", "config.ini", "config.toml", "config.yml", "config.yaml", "config.json", "server.conf", "conf"),
    *("settings.conf", "settings.json", "main.conf", "daemon.conf"),
)
_CONFIG_ENDINGS = (".conf", ".cfg", ".ini", ".yml", ".yaml", ".toml", ".json", ".xml", ".cnf", ".cf", ".properties", "rc")


def stems(name: str, packages: list[str]) -> tuple[str, ...]:
    """The words that the software goes by: its name, the main package's, both without a version or -server."""
    found = []
    for text in (name, *packages[:1]):
        bare = re.sub(r"(-server|-daemon|-core|-common|\.io)$", "", text)
        found += [text, bare, re.sub(r"-?[0-9.]+$", "", bare)]
    return tuple(dict.fromkeys(stem for stem in found if stem))


def unit_rank(unit: str, stems: tuple[str, ...], package: int) -> Rank:
    """`unit` is a file name, `package` the position of its package in the family."""
    body, dot, ending = unit.rpartition(".")
    kind = UNIT_KINDS.index(dot + ending) if dot + ending in UNIT_KINDS else len(UNIT_KINDS)
    return (kind > 0, likeness(body.rstrip("@"), stems), body.endswith("@"), kind, package, len(unit), unit)


def command_rank(path: str, stems: tuple[str, ...], package: int) -> Rank:
    """`path` is absolute. What is called like the software comes first, then the main package's, then the others'."""
    like = likeness(path.rpartition("/")[2], stems)
    return (min(like, 2), package, like, len(path), path)


def config_rank(path: str, stems: tuple[str, ...], package: int, units: Sequence[str] = ()) -> Rank:
    """`path` is absolute and below /etc; a folder called like one of the `units` (etc/ssh) is the software's own too."""
    parts = path.split("/")[2:]
    base = parts[-1]
    stems = (*stems, *(unit.rstrip("@") for unit in units))
    own = any(parts[0].startswith(stem) for stem in stems) or (len(parts) == 1)
    plugged = _PLUGGED.get(parts[0], len(PLUGGED)) if parts[0] in _PLUGGED else (-1 if own else len(PLUGGED))
    named = next((n for n, form in enumerate(_MAIN_NAMES) if any(base == form.format(stem) for stem in stems)), len(_MAIN_NAMES))
    general = _GENERAL.index(base) if base in _GENERAL else len(_GENERAL)
    ending = not base.endswith(_CONFIG_ENDINGS)
    exact = named < len(_MAIN_NAMES)
    return (plugged, not exact, general, len(parts), ending, named, package, likeness(base, stems), path)


def main_config(paths: Sequence[str], stems: Sequence[str]) -> str | None:
    """Of a service's files below /etc, best first, the one that its name points to; None where none stands out.

    That is one that is called like the software, or by a general name in its folder, or the only setting file of that folder, or
    without such a folder the only one that is called like its own (etc/zm/zm.conf).
    """
    near = [path for path in paths if path.count("/") < 4]
    own = [path for path in near if path.count("/") < 3 or path.split("/")[2].startswith(tuple(stems))]
    names = {form.format(stem) for stem in stems for form in _MAIN_NAMES}
    for among, called in ((own, names), (near, names), (own, set(_GENERAL))):
        if found := next((path for path in among if path.rpartition("/")[2] in called), None):
            return found
    settings = [path for path in own if path.count("/") == 3 and path.endswith(_CONFIG_ENDINGS)]
    if len(settings) == 1:
        return settings[0]
    same = [path for path in paths if path.count("/") == 3 and path.split("/")[2] == path.rpartition("/")[2].rpartition(".")[0]]
    return same[0] if len(same) == 1 and not settings else None


def likeness(text: str, stems: tuple[str, ...]) -> int:
    """0: called so; 1: with d, ctl or -server; 2: begins so; 3: ends or contains; 4: no likeness."""
    best = 4
    for stem in stems:
        if text == stem:
            return 0
        if text in (f"{stem}d", f"{stem}ctl", f"{stem}-server", f"{stem}-cli", f"{stem}-daemon"):
            best = min(best, 1)
        elif text.startswith(stem):
            best = min(best, 2)
        elif stem in text:
            best = min(best, 3)
    return best
