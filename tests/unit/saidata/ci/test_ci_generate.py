"""Generation in CI: what the GitHub action, the GitLab job and the Jenkins step run is run here, with git and a server that answers."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import small_archive
from ci_steps import Done, github, gitlab, jenkins, run, shim
from saidata_making import obeying

Generate = Callable[..., Done]


class Handler(BaseHTTPRequestHandler):
    """Answers as the schema wants it, to whom has the key."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        allowed = self.headers["authorization"] == "Bearer secret"
        content = json.dumps(obeying(body["response_format"]["json_schema"]["schema"]))
        told = {"choices": [{"message": {"content": content}, "finish_reason": "stop"}], "usage": {}}
        text = json.dumps(told if allowed else {"error": {"message": "no key"}}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as opened:
        thread = threading.Thread(target=opened.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{opened.server_port}/v1"
        opened.shutdown()
        thread.join()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with a list of names, its origin beside it, and an index."""
    top = tmp_path / "my project"
    top.mkdir()
    shim(top)
    small_archive.make(tmp_path / "home").close()
    (top / "names.txt").write_text("lantern\nfinder\n")
    (top / ".gitignore").write_text("bin\noutputs\n")
    git(tmp_path, "init", "--quiet", "--bare", "origin.git")
    git(top, "init", "--quiet", "--initial-branch", "main")
    git(top, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message", "names")
    return top


def git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def on_github(project: Path, **given: str) -> Done:
    return github(project, "generate", environment(project, given.pop("key")), **given)


def on_gitlab(project: Path, **given: str) -> Done:
    return gitlab(project, "saidata-generate", environment(project, given.pop("key")), **given)


def on_jenkins(project: Path, **given: str) -> Done:
    script, settings = jenkins("saidataGenerate")
    names = {"generate": "LIST", "generate_arguments": "ARGUMENTS"}
    values = {f"SAIDATA_{names.get(name, name.upper())}": value for name, value in given.items() if name != "key"}
    assert set(values) <= set(settings)
    return run(script, project, **{**dict.fromkeys(settings, ""), **values}, **environment(project, given["key"]))


def environment(project: Path, key: str) -> dict[str, str]:
    return {"SAIDATA_HOME": str(project.parent / "home"), "GIT_CONFIG_NOSYSTEM": "1"} | ({"SAIDATA_API_KEY": key} if key else {})


@pytest.mark.parametrize("generate", [on_github, on_gitlab, on_jenkins])
def test_a_list_is_generated_committed_pushed_and_refreshed(project: Path, server: str, generate: Generate) -> None:
    inputs = {"generate": "names.txt", "out": "soft ware", "base_url": server, "generate_arguments": "--no-deep\n--model=m"}
    if generate is on_github:
        inputs["api_key"] = "secret"  # an input there, which the step puts into the environment; else a variable of the project
    key = "" if generate is on_github else "secret"
    done = generate(project, key=key, commit="Refresh: it's $(touch injected)", branch="saidata", **inputs)
    assert done.returncode == 0, done.stdout + done.stderr
    head, *changed = git(project, "show", "--name-only", "--format=%an|%s").split("\n\n")
    assert head == "saidata|Refresh: it's $(touch injected)" and not (project / "injected").exists()
    assert changed[0].split("\n")[:2] == ["soft ware/fi/finder/default.yaml", "soft ware/la/lantern/default.yaml"]
    assert git(project, "rev-parse", "HEAD") == git(project.parent / "origin.git", "rev-parse", "refs/heads/saidata")
    # The same again changes nothing, and makes no empty commit.
    assert generate(project, key=key, commit="again", branch="saidata", **inputs).returncode == 0
    assert git(project, "log", "--format=%s").splitlines()[0] == head.partition("|")[2]
    if generate is on_github:
        assert (project / "outputs").read_text() == "changed=true\nchanged=false\n"
    # One name fails: the others are committed, and the job says so. A file that was edited stays.
    (project / "names.txt").write_text("quarrelfish\nlantern\ntabledb\n")
    edited = project / "soft ware" / "la" / "lantern" / "default.yaml"
    edited.write_text(edited.read_text() + "# mine\n")
    git(project, "commit", "--all", "--quiet", "--message", "mine")
    done = generate(project, key=key, commit="more", **inputs)
    assert done.returncode == 3 and "1 failed" in done.stdout and "1 kept" in done.stdout, done.stdout + done.stderr
    assert git(project, "show", "--name-only", "--format=%s").split() == ["more", *"soft ware/ta/tabledb/default.yaml".split()]
    assert git(project.parent / "origin.git", "log", "--format=%s", "saidata").splitlines()[0] == head.partition("|")[2]


@pytest.mark.parametrize("generate", [on_github, on_gitlab, on_jenkins])
def test_without_a_message_the_change_is_left_and_a_server_that_refuses_commits_nothing(
    project: Path, server: str, generate: Generate
) -> None:
    inputs = {"generate": "names.txt", "out": "software", "base_url": server, "generate_arguments": "--no-deep"}
    done = generate(project, key="", commit="never", branch="main", **inputs)
    assert done.returncode == 2 and "give its key" in done.stderr
    key = "" if generate is on_github else "secret"
    if generate is on_github:
        inputs["api_key"] = "secret"
    assert generate(project, key=key, **inputs).returncode == 0
    assert git(project, "log", "--format=%s").splitlines() == ["names"]
    assert "software/" in git(project, "status", "--short") and (project / "software/fi/finder/default.yaml").is_file()
