"""The steps that the GitHub action, the GitLab component and the Jenkins library run, run here: `github`, `gitlab`, `jenkins`."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

TOP = Path(__file__).parents[1]
CI = TOP / "ops" / "ci"

Done = subprocess.CompletedProcess[str]


def run(script: str, project: Path, shell: str = "sh", **values: str) -> Done:
    environment = {"PATH": f"{project / 'bin'}:{os.environ['PATH']}", "HOME": str(project), **values}
    return subprocess.run([shell, "-e", "-c", script], cwd=project, env=environment, capture_output=True, text=True, timeout=60)


def shim(project: Path) -> None:
    """`saidata` on the path of the steps."""
    tool = project / "bin" / "saidata"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(TOP / "src"))} exec {shlex.quote(sys.executable)} -m saidata.cli.main "$@"\n'
    )
    tool.chmod(0o755)


def load(path: Path) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(path.read_text()))


def filled(settings: dict[str, str], form: str, inputs: dict[str, Any], given: dict[str, str]) -> dict[str, str]:
    """The environment of a step, with the inputs put in as GitHub (`${{ inputs.NAME }}`) and GitLab (`$[[ inputs.NAME ]]`) do."""
    own = {name: given[key] for name in inputs if (key := name.replace("-", "_")) in given}
    values = {name: own[name] if name in own else entry["default"] for name, entry in inputs.items()}
    return {key: re.sub(form, lambda match: values[match[1]], value) for key, value in settings.items()}


GITHUB_FORM = r"\$\{\{ inputs\.([\w-]+) \}\}"
GITLAB_FORM = r"\$\[\[ inputs\.([\w-]+) \]\]"


def github(project: Path, step_id: str = "check", more: dict[str, str] | None = None, **given: str) -> Done:
    """A step of the action."""
    (action,) = load(CI / "github" / "action.yml")
    (step,) = [step for step in action["runs"]["steps"] if step.get("id") == step_id]
    environment = filled(step["env"], GITHUB_FORM, action["inputs"], given)
    return run(step["run"], project, "bash", GITHUB_OUTPUT=str(project / "outputs"), **environment, **(more or {}))


def gitlab(project: Path, name: str, more: dict[str, str] | None = None, **given: str) -> Done:
    """A job of the component."""
    head, body = load(CI / "gitlab" / "templates" / "saidata.yml")
    job = body[name]
    script = "\n".join([*job["before_script"], *job["script"]])
    own = {"install": "/folder/of/redline[saidata]"} | given  # the one input without a default
    return run(script, project, **filled(job["variables"], GITLAB_FORM, head["spec"]["inputs"], own), **(more or {}))


def jenkins(name: str) -> tuple[str, dict[str, str]]:
    """The shell script of a step, read out of the Groovy file as Groovy reads it (a backslash doubled), and its defaults as Groovy."""
    source = (CI / "jenkins" / "vars" / f"{name}.groovy").read_text()
    (script,) = re.findall(r"script: '''(.*?)'''", source, re.DOTALL)
    settings = dict(re.findall(r'"(SAIDATA_\w+)=\$\{config\.get\(\'\w+\', (.*?)\)', source))
    assert set(re.findall(r"SAIDATA_\w+", script)) == set(settings)
    return script.replace("\\\\", "\\"), settings
