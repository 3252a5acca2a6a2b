"""Dry runs of an installation by a provider's own client, in a sandbox: `trials`. Only when asked, and nothing is installed.

The sandbox is bubblewrap, or unshare where that is missing: no writing outside an empty /tmp, and no network for clients that need
none. Where neither works, nothing is run. `apt-get -s` and its like plan an installation; the options below keep pip and npm from
running code of the package (a source distribution's build is code).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence

from msgspec import Struct

from saidata.check.rule import Trial
from saidata.sources.provider import NO_NETWORK

TIMEOUT_S = 120

# What a client says, beside NO_NETWORK, when the mistake is not the package's: no lists, a lock, a full disk.
_NOT_ITS_FAULT = re.compile(
    r"resolve|connection|network|time ?out|unreachable|no space|lock|could not open|mirror|proxy|are you root|no such file",
    re.IGNORECASE,
)


class Client(Struct, frozen=True):
    """How one provider plans an installation. `{}` stands for the package."""

    command: tuple[str, ...]
    network: bool  # whether it has to ask a server
    refusal: str  # what its output says when there is no such package


CLIENTS = {
    "apt": Client(
        ("apt-get", "-s", "-qq", "-o", "Debug::NoLocking=1", "install", "--", "{}"),
        False,
        r"Unable to locate|no installation candidate|unmet",
    ),
    "dnf": Client(
        ("dnf", "-q", "--cacheonly", "--assumeno", "install", "--", "{}"), False, r"No match for argument|Unable to find a match"
    ),
    "apk": Client(("apk", "add", "--simulate", "--no-network", "--", "{}"), False, r"no such package"),
    "pacman": Client(("pacman", "-Sp", "--", "{}"), False, r"target not found"),
    "zypper": Client(("zypper", "-n", "--no-refresh", "install", "--dry-run", "--", "{}"), False, r"not found"),
    "pypi": Client(
        (
            "pip",
            "install",
            "--dry-run",
            "--no-deps",
            "--ignore-installed",
            "--only-binary",
            ":all:",
            "--no-input",
            "-q",
            "--",
            "{}",
        ),
        True,
        r"No matching distribution",
    ),
    "npm": Client(("npm", "view", "--ignore-scripts", "--json", "--", "{}", "name"), True, r"E404|404 Not Found"),
    "brew": Client(("brew", "info", "--json=v2", "--", "{}"), True, r"No available formula"),
    "winget": Client(("winget", "show", "--exact", "--disable-interactivity", "{}"), True, r"No package found"),
}

_NAME = re.compile(r"@?[A-Za-z0-9][A-Za-z0-9._+@/-]*")

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]
Find = Callable[[str], "str | None"]


def trials(provider: str, packages: Sequence[str], run: Run | None = None, find: Find = shutil.which) -> dict[str, Trial]:
    """What the provider's client says of each package. `run` and `find` are replaced in tests."""
    client = CLIENTS.get(provider)
    if client is None:
        return dict.fromkeys(packages, _untried(f"there is no dry run for {provider}"))
    if find(client.command[0]) is None:
        return dict.fromkeys(packages, _untried(f"{client.command[0]} is not on this machine"))
    run = run or _run
    box = sandbox(client.network, run, find)
    if not box:
        return dict.fromkeys(packages, _untried("no sandbox works here; install bubblewrap, or allow user namespaces"))
    return {package: _try(client, package, box, run) for package in packages}


def sandbox(network: bool, run: Run | None = None, find: Find = shutil.which) -> list[str]:
    """The words before a command that shut it in; empty where nothing here can. Tried out before it is trusted."""
    run = run or _run
    if find("bwrap"):
        box = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--unshare-all"]
        box += [*(["--share-net"] if network else []), "--die-with-parent", "--setenv", "HOME", "/tmp"]
        if _works(box, run):
            return box
    if find("unshare"):
        inside = 'mount -o remount,bind,ro / && mount -t tmpfs none /tmp && export HOME=/tmp && exec "$@"'
        box = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", *([] if network else ["--net"])]
        box += ["sh", "-c", inside, "sh"]
        if _works(box, run):
            return box
    return []


def _works(box: list[str], run: Run) -> bool:
    """A sandbox in which a file can be written to / is none."""
    return run([*box, "sh", "-c", "! touch /saidata-probe 2>/dev/null && touch /tmp/probe"]).returncode == 0


def _try(client: Client, package: str, box: Sequence[str], run: Run) -> Trial:
    if not _NAME.fullmatch(package):
        return Trial(ran=True, worked=False, reason="it is no name of a package.")
    done = run([*box, *(word.replace("{}", package) for word in client.command)])
    said = " ".join((done.stderr or done.stdout).split())[-200:]
    if done.returncode == 0:
        return Trial(ran=True, worked=True)
    if NO_NETWORK.search(done.stderr + done.stdout):
        return _untried(said)
    if re.search(client.refusal, done.stderr + done.stdout):
        return Trial(ran=True, worked=False, reason=said)
    if done.returncode == 124 or _NOT_ITS_FAULT.search(said):
        return _untried(said or "the client did not answer")
    return Trial(ran=True, worked=False, reason=said or f"{client.command[0]} ended with {done.returncode}.")


def _untried(reason: str) -> Trial:
    return Trial(ran=False, reason=reason)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {TIMEOUT_S} s")
