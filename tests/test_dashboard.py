"""monitoring/dashboard.json, as far as it can be judged without Grafana; test_monitoring.py runs its queries."""

import itertools
import json
import re

import pytest
from throwaway import PROJECT

pytestmark = pytest.mark.once("a file is read, no server is asked")

MONITORING = PROJECT / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OPERATIONS = (PROJECT / "docs/OPERATIONS.md").read_text()
HEADINGS = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ ([\w ]+)$", OPERATIONS, re.MULTILINE)}
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLORS = {"critical": "red", "warning": "orange"}


def rules():
    """The alerts of rules.yml: name, expression and severity."""
    text = (MONITORING / "rules.yml").read_text()
    return re.findall(r"alert: (\w+)\n +expr: (.*?)\n +(?:for: \w+\n +)?labels: \{severity: (\w+)\}", text, re.DOTALL)


def links(text):
    """The alerts to whose runbooks a text leads."""
    for name, anchor in re.findall(r"\[(Snowflake\w+)\]\(\$\{runbooks\}#([\w-]+)\)", text):
        assert anchor == name.lower()
        yield name


def shown(alert):
    """The panel that shows what an alert is about."""
    (panel,) = [panel for panel in PANELS if alert in links(panel["description"].partition("Alert:")[2])]
    return panel


def test_ids_and_places():
    """No id twice, all within the width of the page, none over another."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] >= 0 and place["w"] > 0 and place["x"] + place["w"] <= 24 for place in places)
    for a, b in itertools.combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


def test_variables():
    """Nothing of one installation: the data source is chosen, so are clusters and nodes, all of them at first."""
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "cluster", "node", "runbooks"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    for name in "cluster", "node":
        variable = variables[name]
        assert variable["type"] == "query" and variable["multi"] and variable["includeAll"]
        assert (variable["allValue"], variable["current"]["value"]) == (".*", ["$__all"])
    assert "__inputs" not in DASHBOARD
    used = [part["datasource"] for panel in PANELS for part in (panel, *panel["targets"])]
    used += [variables[name]["datasource"] for name in ("cluster", "node")]
    assert all(source == DATA_SOURCE for source in used)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel(panel):
    """It says what is good and leads to a runbook; has a unit; its queries are of the chosen nodes, and named by them."""
    assert "Good is " in panel["description"]
    anchors = re.findall(r"\(\$\{runbooks\}#([\w-]+)\)", panel["description"])
    assert anchors and set(anchors) <= HEADINGS
    assert panel["fieldConfig"]["defaults"]["unit"]
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references) > 0
    for target in panel["targets"]:
        of_cluster = re.search(r"cluster:|by \(cluster\)", target["expr"])
        for name, labels in re.findall(r"\b(snowflake_\w+|sql_exporter_\w+|\w+:\w+:\w+|up|ALERTS)\b(\{[^}]*\})?", target["expr"]):
            assert 'cluster=~"$cluster"' in labels, name
            assert 'instance=~"$node"' in labels or name.startswith("cluster:"), name
        if panel["type"] != "table":
            assert ("{{cluster}}" if of_cluster else "{{instance}}") in target["legendFormat"]


def test_the_runbooks_of_panels_are_those_of_alerts():
    alerts = [name for name, _, _ in rules()]
    assert len(alerts) == (MONITORING / "rules.yml").read_text().count("alert: ")
    assert {name for panel in PANELS for name in links(panel["description"])} == set(alerts)


@pytest.mark.parametrize(("alert", "expression", "severity"), rules())
def test_thresholds_are_the_bounds_of_alerts(alert, expression, severity):
    """Each alert has a panel that turns its colour where it fires. Above 0 is from 1 on, where things are counted."""
    operator, *factors = re.search(r"(<|>|==) ([\d.]+)(?: \* (\d+)\b)?", expression).groups()
    bound = float(factors[0]) * float(factors[1] or 1)
    bad = COLORS[severity]
    if operator == ">" or (operator, bound) == ("==", 1):
        expected = [("green", None), (bad, bound or 1)]
    else:
        expected = [(bad, None), ("green", bound if operator == "<" else 1)]
    defaults = shown(alert)["fieldConfig"]["defaults"]
    steps = [(step["color"], step["value"]) for step in defaults["thresholds"]["steps"]]
    # Only the states of nodes have a third colour, that of a standby.
    assert steps in (expected, [*expected, ("blue", 2)])
    # The words for values have the colours of their values.
    for value, word in ((float(value), word) for mapping in defaults["mappings"] for value, word in mapping["options"].items()):
        assert word["color"] == [color for color, start in steps if start is None or value >= start][-1]
