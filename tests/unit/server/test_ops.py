"""The dashboard and the alert rules: they parse, and every metric that they name is on a server's page."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fake_server import live

OPS = Path(__file__).parents[3] / "ops"
NAME = re.compile(r"\b((?:redline|process)_\w+)")
# What only an engine of the real kind tells, in `Stats.samples`.
OF_THE_ENGINE = {"redline_roofline_ratio"}


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Labels by sample name, of a server that has seen an answer, a refusal and a fallback."""

    async def page() -> str:
        async with live() as server:
            chat = {"messages": [{"role": "user", "content": "abc"}]}
            assert (await server.http.post("/v1/chat/completions", json=chat)).status_code == 200
            assert (await server.http.post("/v1/chat/completions", json={})).status_code == 400
            return (await server.http.get("/metrics")).text

    from redline import log

    log.FALLBACKS["test", "reason"] += 1
    try:
        text = asyncio.run(page())
    finally:
        log.FALLBACKS.clear()
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, rest = line.partition("{")
            found.setdefault(name.split(" ")[0], set()).update(re.findall(r'(\w+)="', rest))
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Where each query stands, and the query."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for rule in rules():
        yield rule["alert"], rule["expr"]


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((OPS / "grafana.json").read_text())
    return loaded


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((OPS / "alerts.yaml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_every_metric_that_is_named_is_exported(exported: dict[str, set[str]]) -> None:
    named = {name for _, expression in expressions() for name in NAME.findall(expression)}
    assert len(named) > 20
    assert named - exported.keys() - OF_THE_ENGINE == set()


def test_every_label_that_is_named_is_one_of_its_metric(exported: dict[str, set[str]]) -> None:
    """`instance` and `job` are Prometheus' own."""
    checked = 0
    for place, expression in expressions():
        for name, selector in re.findall(r"\b(redline_\w+)\{([^}]*)\}", expression):
            if name in exported:
                asked = set(re.findall(r'(\w+)\s*=~?\s*"', selector)) - {"instance", "job"}
                assert asked <= exported[name], (place, name)
                checked += len(asked)
    assert checked > 20


def test_grouping_labels_exist(exported: dict[str, set[str]]) -> None:
    every = set().union(*exported.values()) | {"instance"}
    for place, expression in expressions():
        for group in re.findall(r"by \(([^)]*)\)", expression):
            assert {label.strip() for label in group.split(",")} <= every, place


def test_the_dashboard_is_by_model_and_its_panels_do_not_overlap() -> None:
    board = dashboard()
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "model", "instance"}
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels:
        assert panel["title"] and panel["description"] and panel["targets"]
        assert all("$model" in target["expr"] or "process_" in target["expr"] for target in panel["targets"]), panel["title"]
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells and max(x for x, _ in own) < 24, panel["title"]
        cells |= own


def test_every_alert_says_what_and_how_bad() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
