"""The board and the alerts of deploy/: every metric they ask for is one that real processes show."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import httpx
import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ledstream import parts
from ledstream.settings import read_settings
from store.embedded import EmbeddedStore
from stream.announcements import announce
from tests.eventually import until
from tests.servers import free_ports
from tests.worlds import NOW_MS, two_tastes

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
OF_PROMETHEUS = {"job", "instance", "le"}

Shown = dict[str, set[str]]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    return cast(list[dict[str, Any]], group["rules"])


def panels() -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], json.loads((DEPLOY / "grafana" / "ledstream.json").read_text())["panels"])


def queries() -> list[str]:
    """All of the board's and the alerts', as Prometheus gets them."""
    of_board = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    return [query.replace("$__rate_interval", "1m") for query in of_board] + [rule["expr"] for rule in rules()]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """Label names by metric: of a server and both consumers, after a release, an event and a question."""
    folder = tmp_path_factory.mktemp("monitored")
    ports = dict(zip(("serve", "timelines", "archive"), free_ports(3), strict=True))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LEDSTREAM_")}
    environ |= {"LEDSTREAM_DATA_DIR": str(folder), "LEDSTREAM_PORT": str(ports["serve"])}
    environ |= {"LEDSTREAM_PROBE_EVERY_S": "0"}  # what is consumed is counted below
    with ExitStack() as stack:
        stack.enter_context(EmbeddedStore(folder))
        _publish(folder)
        for name, port in ports.items():
            words = ["serve"] if name == "serve" else ["consume", name, "--metrics-port", str(port)]
            command = [sys.executable, "-m", "ledstream", *words]
            process = stack.enter_context(subprocess.Popen(command, env=environ, cwd=ROOT))
            stack.callback(process.terminate)
        server = f"http://127.0.0.1:{ports['serve']}"
        until(lambda: httpx.get(f"{server}/readyz").json()["release"] is not None)
        event = {"user_id": "ana", "item_id": "hat-00", "kind": "view"}
        assert httpx.post(f"{server}/v1/events", json=event).status_code == 202
        assert httpx.get(f"{server}/v1/recommendations?user=ana").status_code == 200
        for name in ("timelines", "archive"):
            until(lambda name=name: f'consumed_total{{group="{name}"}} 1.0' in _metrics(ports[name]))  # type: ignore[misc]
        yield {
            sample.name: set(sample.labels)
            for port in ports.values()
            for family in text_string_to_metric_families(_metrics(port))
            for sample in family.samples
        }


def test_board_and_alerts_ask_for_metrics_and_labels_that_processes_show(shown: Shown) -> None:
    for query in queries():
        for selector in selectors(query):
            labels = {matcher.name for matcher in selector.matchers.matchers}
            assert selector.name in shown or selector.name == "up", query
            assert labels <= shown.get(selector.name, set()) | OF_PROMETHEUS, query


def test_board_and_alerts_group_by_labels_that_processes_show(shown: Shown) -> None:
    known = OF_PROMETHEUS.union(*shown.values())
    for query in queries():
        grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", query)
        assert {label.strip() for labels in grouped for label in labels.split(",") if label} <= known, query


def test_every_number_of_a_consumer_is_on_the_board(shown: Shown) -> None:
    asked = {selector.name for query in queries() for selector in selectors(query)}
    consumers = {name for name in shown if name.startswith("ledstream_consumer_") and not name.endswith("_created")}
    assert consumers <= asked


def test_every_alert_says_how_bad_it_is_and_has_its_part_in_the_runbook() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        document, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert document == "docs/operations.md"
        assert anchor in anchors, rule["alert"]


def test_the_boards_panels_have_places_and_sources_of_their_own() -> None:
    ids = [panel["id"] for panel in panels()]
    taken: set[tuple[int, int]] = set()
    assert len(ids) == len(set(ids))
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert all(target["datasource"]["uid"] == "${source}" for target in panel.get("targets", []))


def test_prometheus_scrapes_the_services_of_the_compose_file_on_the_ports_they_have() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    assert [(DEPLOY / "prometheus" / name).is_file() for name in scraped["rule_files"]] == [True]
    ports = {"server": 8080, "timelines": None, "archive": None, "catalogue": None}
    assert {job["job_name"] for job in scraped["scrape_configs"]} == set(ports)
    for job in scraped["scrape_configs"]:
        (found,) = job["dns_sd_configs"]
        own = int(services[job["job_name"]]["environment"]["LEDSTREAM_METRICS_PORT"])
        assert found["names"] == [job["job_name"]]
        assert found["port"] == (ports[job["job_name"]] or own)


def selectors(query: str) -> list[promql.VectorSelector]:
    """The metrics a query asks for. Fails where it is none."""
    found: list[promql.VectorSelector] = []

    def look(node: promql.Expr) -> None:
        if isinstance(node, promql.VectorSelector):
            found.append(node)

    promql.walk(promql.parse(query), look)
    return found


def _publish(folder: Path) -> None:
    settings = read_settings({}, {"data_dir": folder})
    log = parts.open_log(settings)
    announce(log, parts.releases(settings).publish(two_tastes(), now_ms=NOW_MS), NOW_MS)
    log.close()


def _metrics(port: int) -> str:
    return httpx.get(f"http://127.0.0.1:{port}/metrics").text
