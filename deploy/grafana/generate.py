#!/usr/bin/env python3
"""Writes the dashboards beside this file from the tables below; a test holds that they are in step.

A panel: title, unit, queries by legend, and its kind if it is no time series. `|` begins a new row of panels.
"""
import json
import pathlib
import sys

INGEST = 'route=~"ingest|batch|segment|logs"'


def quantile(metric, select="", q=0.99):
    labels = f"{{{select}}}" if select else ""
    return f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket{labels}[$__rate_interval])))"


def rate(metric, by=""):
    by = f" by ({by})" if by else ""
    return f"sum{by} (rate({metric}[$__rate_interval]))"


def mean(metric):
    return f"{rate(metric + '_sum')} / {rate(metric + '_count')}"


def backlog(consumer):
    name = f'{{consumer="{consumer}"}}'
    return [
        ("Oldest event that waits", "s", {consumer: f"max(causality_bus_consumer_oldest_seconds{name})"}),
        ("Events that wait", "short", {"not acknowledged": f"max(causality_bus_consumer_backlog_messages{name})",
                                       "in flight": f"max(causality_bus_consumer_pending_messages{name})"}),
    ]


DASHBOARDS = {
    "overview": ("Is it healthy, and if not, where?", [
        ("Alerts", "short", {"": 'count(ALERTS{alertname=~"Causality.*", alertstate="firing"}) or vector(0)'}, "stat:0"),
        ("Backends that are down", "short", {"": "sum(causality_component_up == bool 0)"}, "stat:0"),
        ("Processes by role", "short", {"{{role}}": "count by (role) (causality_role)"}, "stat"),
        ("Budget left: accepted is answered", "percentunit",
         {"": "1 - causality:ingest_errors:ratio_rate3d / 0.001"}, "stat:budget"),
        ("Budget left: accepted is in the lake", "percentunit",
         {"": "1 - causality:lake_late:ratio3d / 0.005"}, "stat:budget"),
        "|",
        ("What fires", "", {"": 'ALERTS{alertname=~"Causality.*", alertstate="firing"}'}, "table"),
        ("Backends (0: down)", "short",
         {"{{component}} of {{instance}}": "causality_component_up"}),
        "|",
        ("Gateway: events", "cps", {"{{verdict}}": rate("causality_gateway_events_total", "verdict")}),
        ("Gateway: time to an answer, p99", "s", {"p99": quantile("causality_gateway_request_seconds", select=INGEST)}),
        ("Bus: oldest event that waits", "s",
         {"{{consumer}}": "max by (consumer) (causality_bus_consumer_oldest_seconds)"}),
        "|",
        ("Sink: rows stored", "cps", {"rows": rate("causality_sink_rows_total")}),
        ("Reaction: events looked at", "cps", {"{{outcome}}": rate("causality_reaction_events_total", "outcome")}),
        ("Webhooks: attempts", "cps", {"{{answer}}": rate("causality_dispatcher_attempts_total", "answer")}),
        "|",
        ("Room that is used", "percentunit", {
            "bus": "max(causality_bus_stored_bytes) / max(causality_bus_stored_bytes_max)",
            "disk of {{instance}}": "1 - causality_disk_free_bytes / causality_disk_bytes",
            "request memory of {{instance}}": "causality_http_memory_bytes / causality_http_memory_bytes_max"}),
        ("Memory of the processes", "bytes", {"{{instance}}": "causality_process_resident_bytes"}),
        ("Dead letters", "short", {"kept": "max(causality_bus_dead_letters)"}),
    ]),
    "gateway": ("Gateway", [
        ("Events by verdict", "cps", {"{{verdict}}": rate("causality_gateway_events_total", "verdict")}),
        ("Requests by status", "reqps",
         {"{{route}} {{status}}": rate("causality_gateway_requests_total", "route, status") + " > 0"}),
        "|",
        ("Time to an answer", "s", {
            "p50": quantile("causality_gateway_request_seconds", select=INGEST, q=0.5),
            "p99": quantile("causality_gateway_request_seconds", select=INGEST)}),
        ("Commits of the embedded bus", "s", {
            "p50": quantile("causality_bus_commit_seconds", q=0.5), "p99": quantile("causality_bus_commit_seconds")}),
        ("Messages of a commit of the embedded bus, mean", "short", {"messages": mean("causality_bus_group_messages")}),
        "|",
        ("Rejected events by reason", "cps", {"{{reason}}": rate("causality_gateway_rejected_total", "reason")}),
        ("Refused for want of room", "cps", {
            "{{reason}}": rate("causality_http_refused_total", "reason"),
            "bus full": rate("causality_bus_refused_full_total")}),
        ("Refused by keys and limits", "cps", {
            "key {{reason}}": rate("causality_gateway_unauthorized_total", "reason"),
            "limit {{limit}}": rate("causality_gateway_rate_limited_total", "limit")}),
        "|",
        ("Connections and requests in flight", "short", {
            "connections of {{instance}}": "causality_http_connections",
            "requests of {{instance}}": "causality_http_requests_in_flight"}),
        ("Memory of requests", "bytes", {
            "{{instance}}": "causality_http_memory_bytes", "limit of {{instance}}": "causality_http_memory_bytes_max"}),
        ("Quarantine", "cps", {"{{outcome}}": rate("causality_gateway_quarantined_total", "outcome")}),
    ]),
    "sink": ("Sink and lake", [
        *backlog("warehouse-sink"),
        ("Rows stored", "cps", {"rows": rate("causality_sink_rows_total")}),
        "|",
        ("First row to acknowledgement", "s", {
            "p50": quantile("causality_sink_flush_seconds", q=0.5), "p99": quantile("causality_sink_flush_seconds")}),
        ("Storing, committing, acknowledging, p99", "s", {
            "store a file": quantile("causality_sink_store_seconds"),
            "commit to the Delta log": quantile("causality_delta_commit_seconds"),
            "acknowledge": quantile("causality_sink_ack_seconds")}),
        ("Failed attempts to store", "cps", {"{{kind}}": rate("causality_sink_store_failures_total", "kind")}),
        "|",
        ("Files by what closed them", "cps", {"{{reason}}": rate("causality_sink_files_total", "reason")}),
        ("Size of a file, mean", "bytes", {"bytes": mean("causality_sink_file_size_bytes")}),
        ("Memory of open files", "bytes", {
            "open": "sum(causality_sink_open_bytes)", "being stored": "sum(causality_sink_writing_bytes)",
            "limit": "sum(causality_sink_memory_bytes_max)"}),
        "|",
        ("Delta log", "cps", {
            "commits": rate("causality_delta_commits_total"), "conflicts": rate("causality_delta_conflicts_total"),
            "failed checkpoints": 'sum(rate(causality_delta_checkpoints_total{written="false"}[$__rate_interval]))'}),
        ("Compaction", "cps", {
            "{{outcome}}": rate("causality_compaction_runs_total", "outcome")}),
        ("Compaction", "Bps", {"{{kind}}": rate("causality_compaction_bytes_total", "kind")}),
        "|",
        ("Redelivered messages", "cps", {
            "looked up": rate("causality_sink_suspects_total"),
            "already stored": rate("causality_sink_repeated_rows_total"),
            "encoded in vain": rate("causality_sink_lapsed_rows_total")}),
        ("Removed files", "cps", {
            "vacuum": rate("causality_vacuum_files_total"), "retention": rate("causality_retention_files_total")}),
        ("Dead letters", "cps", {
            "{{reason}}": 'sum by (reason) (rate(causality_bus_dead_lettered_total{consumer="warehouse-sink"}[$__rate_interval]))'}),
    ]),
    "reaction": ("Reaction", [
        *backlog("analysis-engine"),
        ("Events looked at", "cps", {"{{outcome}}": rate("causality_reaction_events_total", "outcome")}),
        "|",
        ("Matches and anomalies", "cps", {
            "rules": rate("causality_reaction_matches_total"), "anomalies": rate("causality_reaction_anomalies_total")}),
        ("Rules and anomalies that fail", "cps", {
            "{{kind}} {{name}}": rate("causality_reaction_faults_total", "kind, name")}),
        ("Commits of effects", "s", {
            "p50": quantile("causality_reaction_commit_seconds", q=0.5), "p99": quantile("causality_reaction_commit_seconds")}),
        "|",
        ("Webhook attempts by answer", "cps", {"{{answer}}": rate("causality_dispatcher_attempts_total", "answer")}),
        ("Time of an attempt", "s", {
            "p50": quantile("causality_dispatcher_attempt_seconds", q=0.5), "p99": quantile("causality_dispatcher_attempt_seconds")}),
        ("Requests under way, endpoints paused", "short", {
            "under way": "sum(causality_dispatcher_in_flight)", "paused": "sum(causality_dispatcher_circuits_open)"}),
        "|",
        ("Attempts by webhook and result", "cps", {
            "{{webhook}} {{result}}": rate("causality_dispatcher_deliveries_total", "webhook, result")}),
        ("Wait for the first attempt", "s", {
            "p50": quantile("causality_dispatcher_wait_seconds", q=0.5), "p99": quantile("causality_dispatcher_wait_seconds")}),
        ("Deliveries of disabled webhooks given up", "cps", {
            "deliveries": rate("causality_store_deliveries_given_up_total")}),
        "|",
        ("Commits of the embedded store, p99", "s", {"p99": quantile("causality_store_commit_seconds")}),
        ("Commits that another process forestalled", "cps", {"commits": rate("causality_reaction_refused_commits_total")}),
    ]),
}

COLORS = {
    "0": [("green", None), ("red", 1)],
    "budget": [("red", None), ("orange", 0), ("green", 0.25)],
    "": [("blue", None)],
}


def panel(place, title, unit, queries, kind="timeseries"):
    kind, _, colors = kind.partition(":")
    targets = [
        {"refId": chr(65 + at), "expr": query, "legendFormat": legend or "__auto"}
        | ({"instant": True, "range": False} if kind != "timeseries" else {})
        | ({"format": "table"} if kind == "table" else {})
        for at, (legend, query) in enumerate(queries.items())
    ]
    defaults = {"unit": unit or "none"}
    if kind == "stat":
        steps = [{"color": color, "value": value} for color, value in COLORS[colors]]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    if kind == "timeseries":
        defaults["min"] = 0
    source = {"type": "prometheus", "uid": "prometheus"}
    return {"type": kind, "title": title, "gridPos": place, "datasource": source, "targets": targets,
            "fieldConfig": {"defaults": defaults, "overrides": []}}


def dashboard(name, title, panels):
    rows, row = [], []
    for one in [*panels, "|"]:
        if one == "|":
            rows.append(row)
            row = []
        else:
            row.append(one)
    lines, y = [], 0
    for row in rows:
        width, height = 24 // len(row), 4 if all(one[-1].__class__ is str for one in row) else 8
        for at, one in enumerate(row):
            lines.append(json.dumps(panel({"x": at * width, "y": y, "w": width, "h": height}, *one)))
        y += height
    head = {"uid": f"causality-{name}", "title": f"Causality: {title}", "tags": ["causality"], "schemaVersion": 38,
            "refresh": "30s", "time": {"from": "now-3h", "to": "now"},
            "links": [{"type": "dashboards", "tags": ["causality"], "title": "Causality", "asDropdown": False}]}
    return json.dumps(head)[:-1] + ', "panels": [\n' + ",\n".join(lines) + "\n]}\n"


def main():
    stale = []
    for name, (title, panels) in DASHBOARDS.items():
        file = pathlib.Path(__file__).parent / "dashboards" / f"{name}.json"
        text = dashboard(name, title, panels)
        if sys.argv[1:] != ["--check"]:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            stale.append(file.name)
    if stale:
        sys.exit(f"out of date, run deploy/grafana/generate.py: {', '.join(stale)}")


main()
