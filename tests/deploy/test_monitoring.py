"""The alerts and the dashboard in deploy/ use metrics that exist, in expressions that Prometheus understands."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.servers import running_server
from support.tools import require_tools
from tensorus_server.metrics.board import Board
from tensorus_server.metrics.exposition import Exposition
from tensorus_server.metrics.families import FAMILIES, Kind

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "tensorus.json").read_text(encoding="utf-8"))
NAME = re.compile(r"\b(?:tensorus|process)_[a-z0-9_]+\b")
UNDERSTOOD = {"$__rate_interval": "5m", "$__range": "3h", "$job": "tensorus", "$instance": "a"}
"""What Grafana puts in for its variables."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the names of the series of a real server, with those that it lacks without TLS, a cache and PostgreSQL."""
    exposition, board = Exposition(), Board()
    exposition.add(1, board)
    exposition.workers = lambda: (1, 1, 0)
    with running_server(tmp_path_factory.mktemp("monitoring") / "store", board=board) as server:
        assert server.is_serving
        for family in FAMILIES:
            if family.kind in {Kind.GAUGE, Kind.SHARED}:
                for labels in family.values:
                    board.put(family.name, 1.0, *labels)
            elif family.kind is Kind.HISTOGRAM:
                board.put(family.name, 1.0, *family.values[0])
        text = exposition.text().decode()
    return set(re.findall(r"^([a-z_]+)(?:\{| )", text, re.MULTILINE))


def expressions(node: Any) -> Iterator[str]:
    """Yield the expressions of a dashboard."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "expr":
                yield value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)


def filled_in(expression: str) -> str:
    for variable, value in UNDERSTOOD.items():
        expression = expression.replace(variable, value)
    return expression


def test_every_metric_of_the_alerts_exists(shown: set[str]) -> None:
    text = re.sub(r"#.*|(summary|description): .*", "", RULES.read_text(encoding="utf-8"))
    used = set(NAME.findall(text))
    assert len(used) > 10
    assert used <= shown


def test_every_metric_of_the_dashboard_exists(shown: set[str]) -> None:
    used = {name for expression in expressions(DASHBOARD) for name in NAME.findall(expression)}
    assert len(used) > 40
    assert used <= shown


def test_the_metrics_that_the_texts_of_the_alerts_name_exist() -> None:
    names = {family.name for family in FAMILIES}
    for text in re.findall(r"(?:summary|description): (.*)", RULES.read_text(encoding="utf-8")):
        assert set(NAME.findall(text)) <= names


def test_the_rules_are_valid_and_do_what_their_tests_say() -> None:
    require_tools("promtool")
    for command in (("check", "rules", "--lint=all", "--lint-fatal"), ("test", "rules")):
        name = "alerts.yml" if command[0] == "check" else "alerts_test.yml"
        found = subprocess.run(
            ["promtool", *command, name], cwd=RULES.parent, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stdout + found.stderr


def test_every_alert_has_a_test() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8")))
    tests = (RULES.parent / "alerts_test.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"alertname: (\w+)", tests)) == alerts
    assert set(re.findall(r'alertname="(\w+)"', tests)) == alerts


def test_prometheus_understands_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    require_tools("promtool")
    rules = [
        {"record": f"panel:{number}", "expr": filled_in(expression)}
        for number, expression in enumerate(expressions(DASHBOARD))
    ]
    # JSON is YAML.
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    found = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_panels_of_the_dashboard_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
