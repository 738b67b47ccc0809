"""Reads the warehouse with DuckDB, which shares no code with the product.

    read_parquet.py DIR compare   expected rows as a JSON list on standard input; every field is compared
    read_parquet.py "" query      runs the query on standard input and prints its rows as JSON
    read_parquet.py DIR ids       prints {"rows": N, "ids": [...], "places": [file#sequence, ...]} of all rows
"""

import json
import pathlib
import sys

import duckdb

COLUMNS = """id device_id timestamp_ms correlation_id event_category event_type platform os_version app_version
build_number device_model manufacturer screen_width screen_height locale timezone network_type carrier is_jailbroken
is_emulator sdk_version payload_json received_at_ms idempotency_key stream_sequence user_id session_id app_id year month day hour""".split()


def read(directory, columns):
    # DuckDB takes a pattern without a file for an error.
    if not any(pathlib.Path(directory).rglob("events_*.parquet")):
        return []
    source = f"read_parquet('{directory}/**/events_*.parquet', hive_partitioning = true, hive_types_autocast = false, filename = true)"
    rows = duckdb.sql(f"SELECT {', '.join(columns)} FROM {source}").fetchall()
    return [dict(zip(columns, row)) for row in rows]


def compare(directory):
    expected = {row["id"]: row for row in json.load(sys.stdin)}
    rows = read(directory, COLUMNS)
    problems = []
    if len(rows) != len(expected):
        problems.append(f"{len(rows)} rows, expected {len(expected)}")
    if len({row["stream_sequence"] for row in rows}) != len(rows):
        problems.append("stream_sequence is not unique")
    for row in rows:
        want = expected.pop(row["id"], None)
        if want is None:
            problems.append(f"unexpected or doubled row {row['id']}")
            continue
        for column, value in want.items():
            got = row[column]
            if column == "payload_json":
                got = json.loads(got)
            # True equals 1 in Python: the types have to agree as well.
            if got != value or isinstance(got, bool) != isinstance(value, bool):
                problems.append(f"{row['id']} {row['event_type']} {column}: got {got!r}, expected {value!r}")
    problems += [f"missing row {identifier}" for identifier in expected]
    if problems:
        sys.exit("\n".join(problems[:20]))
    print(len(rows))


def ids(directory):
    rows = read(directory, ["id", "filename", "stream_sequence"])
    places = [f"{row['filename'].rsplit('/', 2)[-1]}#{row['stream_sequence']}" for row in rows]
    print(json.dumps({"rows": len(rows), "ids": [row["id"] for row in rows], "places": places}))


def query(_):
    print(json.dumps(duckdb.sql(sys.stdin.read()).fetchall()))


{"compare": compare, "ids": ids, "query": query}[sys.argv[2]](sys.argv[1])
