"""Dry runs happen in a sandbox that works or not at all, and only a client's own words make a package wrong."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from saidata.check.sandbox import CLIENTS, sandbox, trials

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def here(*names: str) -> Callable[[str], str | None]:
    return lambda name: f"/usr/bin/{name}" if name in names else None


def client(code: int, said: str, ran: list[list[str]]) -> Run:
    """A client behind a sandbox that works."""

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        ran.append(list(command))
        probe = "touch /tmp/probe" in command[-1]
        return subprocess.CompletedProcess(list(command), 0 if probe else code, "", "" if probe else said)

    return run


@pytest.mark.parametrize(
    ("provider", "code", "said", "ran", "worked"),
    [
        ("apt", 0, "", True, True),
        ("apt", 100, "E: Unable to locate package nginy", True, False),
        ("apt", 100, "E: Could not open lock file /var/lib/dpkg/lock-frontend", False, False),
        ("pypi", 1, "ERROR: No matching distribution found for nginy", True, False),
        ("pypi", 1, "WARNING: Retrying: Connection timed out", False, False),
        ("pypi", 1, "Failed to resolve one. ERROR: No matching distribution found for nginx", False, False),
        ("npm", 1, "npm ERR! code E404 404 Not Found", True, False),
        ("npm", 1, "npm ERR! code ENOTFOUND", False, False),
        ("dnf", 124, "no answer within 120 s", False, False),
    ],
)
def test_what_a_client_says_decides(provider: str, code: int, said: str, ran: bool, worked: bool) -> None:
    commands: list[list[str]] = []
    (trial,) = trials(provider, ["nginx"], client(code, said, commands), here(CLIENTS[provider].command[0], "bwrap")).values()
    assert (trial.ran, trial.worked) == (ran, worked) and (trial.worked or said[-10:] in trial.reason)
    assert commands[-1][0] == "bwrap" and "nginx" in commands[-1] and "--unshare-all" in commands[-1]
    assert ("--share-net" in commands[-1]) == CLIENTS[provider].network


def test_without_a_sandbox_or_a_client_nothing_is_run() -> None:
    ran: list[list[str]] = []

    def refuses(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        ran.append(list(command))
        return subprocess.CompletedProcess(list(command), 1, "", "")

    (trial,) = trials("apt", ["nginx"], refuses, here("apt-get", "bwrap", "unshare")).values()
    assert not trial.ran and "no sandbox" in trial.reason
    assert all("apt-get" not in command for command in ran) and len(ran) == 2  # only the two sandboxes were tried
    (trial,) = trials("brew", ["nginx"], refuses, here("bwrap")).values()
    assert not trial.ran and trial.reason == "brew is not on this machine"
    (trial,) = trials("choco", ["nginx"], refuses, here()).values()
    assert not trial.ran and "no dry run for choco" in trial.reason and len(ran) == 2


@pytest.mark.parametrize("name", ["-o=x", "a b", "a;b", "$(x)", "../x", "", "a\nb"])
def test_names_that_are_options_or_more_never_reach_a_client(name: str) -> None:
    ran: list[list[str]] = []
    (trial,) = trials("apt", [name], client(0, "", ran), here("apt-get", "bwrap")).values()
    assert trial.ran and not trial.worked and len(ran) == 1


def test_every_client_names_the_package_behind_its_options() -> None:
    for provider, one in CLIENTS.items():
        assert "{}" in one.command, provider
        assert provider == "winget" or one.command[one.command.index("{}") - 1] == "--", provider


@pytest.mark.skipif(not (shutil.which("bwrap") or shutil.which("unshare")), reason="neither bubblewrap nor unshare is here")
def test_the_sandbox_of_this_machine_holds(tmp_path: Path) -> None:
    box = sandbox(network=False)
    if not box:
        pytest.skip("this machine allows no user namespaces")
    marker = Path.home() / "saidata-sandbox-test"
    done = subprocess.run(
        [*box, "sh", "-c", f"touch {marker} ; touch /tmp/inside && cat /proc/net/dev"], capture_output=True, text=True, timeout=60
    )
    assert not marker.exists() and not Path("/tmp/inside").exists() and done.returncode == 0
    assert [line.split(":")[0].strip() for line in done.stdout.splitlines()[2:]] in (["lo"], [])
