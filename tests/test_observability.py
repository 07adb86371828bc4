"""Dashboard, alerts and page speak of metrics, labels and settings that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import prometheus_client
import pytest

from devstral_proxy.config import Settings
from devstral_proxy.errors import ProxyError
from devstral_proxy.mistral.rewrites import REWRITES
from devstral_proxy.server.access import FIELDS
from devstral_proxy.server.series import SERIES

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text("utf-8"))
ALERTS = (DEPLOY / "prometheus-alerts.yml").read_text("utf-8")
PAGE = (ROOT / "docs" / "observability.md").read_text("utf-8")

FUNCTIONS = {"sum", "rate", "increase", "histogram_quantile", "vector", "label_values"}
WORDS = {"by", "or", "and", "without"}
OF_SCRAPING = {"job", "instance"}


def samples() -> dict[str, set[str]]:
    """Every name that a query may use, and its labels."""
    found: dict[str, set[str]] = {"up": set()}
    for name, series in SERIES.items():
        if series.kind == "histogram":
            found[f"{name}_bucket"] = {*series.labels, "le"}
            found[f"{name}_sum"] = found[f"{name}_count"] = set(series.labels)
        else:
            found[name] = set(series.labels)
    process = prometheus_client.ProcessCollector(registry=None)
    return found | {sample.name: set() for family in process.collect() for sample in family.samples}


SAMPLES = samples()


def dashboard() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def alerts() -> Iterator[tuple[str, str]]:
    for name, rule in re.findall(r"- alert: (\w+)\n((?:(?!\n\n).)*)", ALERTS, re.DOTALL):
        expr = re.search(r" expr: (?:\|\n)?(.*?)(?=\n {8}\w+:)", rule, re.DOTALL)
        assert expr, name
        yield name, expr[1]


EXPRESSIONS = [*dashboard(), *alerts()]


def used(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of a PromQL expression, each with the labels that are matched, grouped by or asked for."""
    grouped = {label for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in re.split(r",\s*", group)}
    rest = re.sub(r"\bby \([^)]*\)", "", expression)
    asked = re.search(r"label_values\([^,]*, (\w+)\)", rest)
    if asked:
        grouped.add(asked[1])
        rest = rest.replace(f", {asked[1]})", ")")
    for name, matchers, call in re.findall(
        r"(?<![\w$.])([a-zA-Z_:][\w:]*)(\{[^}]*\})?(\s*\()?", re.sub(r"\[[^\]]*\]", "", rest)
    ):
        if call:
            assert name in FUNCTIONS, name
        elif name not in WORDS:
            yield name, grouped | set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", matchers))


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_an_expression_uses_what_there_is(where: str, expression: str) -> None:
    metrics = list(used(expression))
    assert metrics
    for name, labels in metrics:
        assert name in SAMPLES, name
        assert labels <= SAMPLES[name] | OF_SCRAPING, f"{name}: {labels - SAMPLES[name]}"


def test_the_reader_of_expressions_sees_what_is_wrong() -> None:
    assert [*used('sum by (le, x) (rate(a_total{y="1",z!~"2"}[5m])) / b > 0.5 or vector(0)')] == [
        ("a_total", {"le", "x", "y", "z"}),
        ("b", {"le", "x"}),
    ]


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for _, expression in dashboard() for name, _ in used(expression)}
    for name, series in SERIES.items():
        parts = {f"{name}_bucket", f"{name}_count", f"{name}_sum"} if series.kind == "histogram" else {name}
        assert parts & shown, name


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def codes() -> set[str]:
    found, classes = set(), [ProxyError]
    while classes:
        one = classes.pop()
        classes += one.__subclasses__()
        found.add(one.default_code or "")
    return found


def test_values_of_labels_are_those_there_are() -> None:
    text = "\n".join(expression for _, expression in EXPRESSIONS)
    for error in {one for group in re.findall(r'error_type=~?"([^"]+)"', text) for one in group.split("|")}:
        assert any(re.fullmatch(error, code) for code in codes()), error
    assert set(re.findall(r're(?:pair|write)="(\w+)"', text)) <= set(REWRITES)
    assert set(re.findall(r'gen_ai_token_type="(\w+)"', text)) <= {"input", "output", "input_cached"}
    assert set(re.findall(r'state!?="(\w+)"', text)) <= {"closed", "open", "half_open", "waiting", "busy", "idle"}


def test_scraping_loads_the_alerts_and_names_the_job() -> None:
    text = (DEPLOY / "prometheus.yml").read_text("utf-8")
    assert "job_name: devstral-proxy" in text
    assert "prometheus-alerts.yml" in text
    assert 'job="devstral-proxy"' in ALERTS


def test_the_page_names_settings_that_there_are() -> None:
    ours = {name.upper() for name in Settings.model_fields}
    for name in re.findall(r"`([A-Z][A-Z_]+)[=`]", PAGE):
        assert name in ours or name.startswith("OTEL_"), name


def test_the_page_s_line_has_fields_that_there_are() -> None:
    line = re.search(r"devstral_proxy\.access: (.*)", PAGE)
    assert line
    named = [part.partition("=")[0] for part in line[1].split(" ")]
    assert named == [name for name in FIELDS if name in named]
