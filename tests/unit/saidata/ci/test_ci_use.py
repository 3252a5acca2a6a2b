"""The GitHub action, GitLab component, Jenkins step and pre-commit hook: each is valid, and what it runs is run here."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from ci_steps import CI, GITHUB_FORM, TOP, filled, github, gitlab, jenkins, load, run, shim

GOOD = 'version: "0.3"\nmetadata:\n  name: nginx\n'
BAD = 'version: "0.3"\nmetadata:\n  name: nginx\n  licence: MIT\nports:\n  - port: 99999\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a space in its name, one sound file and one bad one."""
    top = tmp_path / "my project"
    for name, text in (("good", GOOD), ("bad", BAD)):
        place = top / name / "ng" / "nginx" / "default.yaml"
        place.parent.mkdir(parents=True)
        place.write_text(text)
    shim(top)
    return top


def schema_of(name: str) -> dict[str, Any]:
    import check_jsonschema.builtin_schemas as builtin

    made: dict[str, Any] = json.loads((Path(str(builtin.__file__)).parent / "vendor" / f"{name}.json").read_text())
    return made


def test_the_github_action_is_valid() -> None:
    (action,) = load(CI / "github" / "action.yml")
    jsonschema.validate(action, schema_of("github-actions"))
    used = set(re.findall(r"inputs\.([\w-]+)", (CI / "github" / "action.yml").read_text()))
    assert used == set(action["inputs"])


def test_the_github_action_shows_findings_beside_the_lines_and_fails(project: Path) -> None:
    done = github(project, paths="good\nbad")
    assert done.returncode == 3, done.stderr
    assert "::error file=bad/ng/nginx/default.yaml,line=6,col=11,title=SD001 port-range::99999 is no port" in done.stdout
    assert (project / "outputs").read_text() == "report=saidata.sarif\n"
    results = json.loads((project / "saidata.sarif").read_text())["runs"][0]["results"]
    assert {result["ruleId"] for result in results} == {"SD001", "SD103"}
    assert results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "bad/ng/nginx/default.yaml"


def test_the_github_action_lets_sound_files_pass_and_takes_more_arguments(project: Path) -> None:
    assert github(project, paths="good").returncode == 0
    assert github(project, paths="bad", arguments="--select\nSD103\n--strict", fail_on="error").returncode == 3
    assert github(project, paths="nowhere").returncode == 2
    assert github(project, paths="$(touch injected); good").returncode == 2 and not (project / "injected").exists()


def test_the_github_action_installs_without_torch(project: Path) -> None:
    """Its first step is run with a pip that writes down what it is asked for."""
    (action,) = load(CI / "github" / "action.yml")
    pip = project / "bin" / "python"
    pip.write_text('#!/bin/sh\nprintf "%s\\n" "$*" >> asked\n')
    pip.chmod(0o755)
    install = action["runs"]["steps"][0]

    def installed(**given: str) -> None:
        environment = filled(install["env"], GITHUB_FORM, action["inputs"], given)
        done = run(install["run"], project, "bash", GITHUB_ACTION_PATH=str(CI / "github"), **environment)
        assert done.returncode == 0, done.stderr

    installed(generate="names.txt", base_url="http://model.example.org/v1")
    first, second = (shlex.split(line)[-1] for line in (project / "asked").read_text().splitlines())
    assert Path(first).samefile(CI / "requirements.txt")
    assert Path(second).samefile(TOP) and "--no-deps" in (project / "asked").read_text()
    (project / "asked").unlink()
    installed(generate="names.txt")  # the model runs in the job, which takes torch
    assert (project / "asked").read_text().strip().endswith("[saidata]") and "--no-deps" not in (project / "asked").read_text()


def test_the_light_requirements_are_pyprojects_and_enough(project: Path) -> None:
    pyproject = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    known = {*pyproject["dependencies"], *pyproject["optional-dependencies"]["saidata"]}
    wanted = [line for line in (CI / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert set(wanted) <= known
    # All commands, where every distribution that these do not bring is missing.
    provided = {name.lower().replace("_", "-") for line in wanted for name in _with_dependencies(re.split("[<>=]", line)[0])}
    owners = metadata.packages_distributions()
    missing = [name for name, owned in owners.items() if not {owner.lower().replace("_", "-") for owner in owned} & provided]
    assert {"torch", "numpy"} <= set(missing)
    program = (
        "import sys; sys.modules.update(dict.fromkeys(sys.argv[1:]))\n"
        "import saidata.cli.check, saidata.cli.lint, saidata.cli.batch\nfrom saidata.cli.main import main\nsys.exit(main(['lint', 'bad']))"
    )
    missing = [name for name in missing if name not in ("saidata", "redline")]
    environment = {"PYTHONPATH": str(TOP / "src"), "PATH": os.environ["PATH"], "HOME": str(project)}
    command = [sys.executable, "-c", program, *missing]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr


def _with_dependencies(name: str) -> set[str]:
    """A distribution and all that it needs, as installed here."""
    found, pending = set(), [name]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        needed = [line for line in metadata.requires(name) or [] if "extra ==" not in line]
        pending += [match[0] for line in needed if (match := re.match(r"[\w.-]+", line)) and _installed(match[0])]
    return found


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def test_the_gitlab_component(project: Path) -> None:
    head, body = load(CI / "gitlab" / "templates" / "saidata.yml")
    jsonschema.validate(body, schema_of("gitlab-ci"))
    inputs = head["spec"]["inputs"]
    used = set(re.findall(r"\$\[\[ inputs\.([\w-]+) \]\]", (CI / "gitlab" / "templates" / "saidata.yml").read_text()))
    assert used == set(inputs)
    done = gitlab(project, "saidata", paths="good\nbad")
    assert done.returncode == 3 and "bad/ng/nginx/default.yaml:6:11: error SD001" in done.stdout, done.stderr
    reports = body["saidata"]["artifacts"]["reports"]
    entries = json.loads((project / reports["codequality"]).read_text())
    assert {entry["check_name"] for entry in entries} == {"SD001", "SD103"}
    assert ElementTree.parse(project / reports["junit"]).getroot().get("failures") == "1"
    assert gitlab(project, "saidata", paths="good").returncode == 0


def test_the_jenkins_step(project: Path) -> None:
    script, _ = jenkins("saidataCheck")
    values = {
        "SAIDATA_COMMAND": "lint",
        "SAIDATA_FAIL_ON": "warning",
        "SAIDATA_REPORT": "saidata-junit.xml",
        "SAIDATA_ARGUMENTS": "",
    }
    done = run(script, project, SAIDATA_PATHS="good\nbad", **values)
    assert done.returncode == 3 and "error SD001" in done.stdout, done.stderr
    (suite,) = ElementTree.parse(project / "saidata-junit.xml").getroot()
    assert [(case.get("name"), case.find("failure") is not None) for case in suite] == [
        ("good/ng/nginx/default.yaml", False),
        ("bad/ng/nginx/default.yaml", True),
    ]
    assert run(script, project, SAIDATA_PATHS="good", **values).returncode == 0
    assert run(script, project, SAIDATA_PATHS="nowhere", **values).returncode == 2


def test_the_pre_commit_hooks(project: Path) -> None:
    (hooks,) = load(TOP / ".pre-commit-hooks.yaml")
    known = {"id", "name", "description", "entry", "language", "files", "types"}
    for hook in hooks:
        assert {"id", "name", "entry", "language"} <= set(hook) <= known
        asked = re.compile(hook["files"])
        for name in ("ng/nginx/default.yaml", "software/ng/nginx/ubuntu/22.04.yaml", "r/r/default.yml"):
            assert asked.search(name)
        for name in ("docs/nginx/default.yaml", "mkdocs.yml", ".github/workflows/ci.yaml"):
            assert not asked.search(name)
    lint = next(hook for hook in hooks if hook["id"] == "saidata-lint")
    assert run(f"{lint['entry']} good/ng/nginx/default.yaml", project).returncode == 0
    assert run(f"{lint['entry']} good/ng/nginx/default.yaml bad/ng/nginx/default.yaml", project).returncode == 3
    check = next(hook for hook in hooks if hook["id"] == "saidata-check")
    done = run(f"{check['entry']} good/ng/nginx/default.yaml", project, SAIDATA_HOME=str(project / "empty"))
    assert done.returncode == 2 and "saidata index build" in done.stderr
