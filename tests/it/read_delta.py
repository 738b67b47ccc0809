"""Reads the Delta table with readers that share no code with the product.

    read_delta.py DIR readers   {reader: {"counts": {app: rows}, "filtered": the same by filters, "types": {column: type},
                                "kinds": [Python type, ...], "rows": hash}}
    read_delta.py DIR ids       {"rows": N, "ids": [...], "files": [...], "version": N} by deltalake
"""

import hashlib
import json
import os
import sys

import deltalake

PARTITIONS = ["app_id", "year", "month", "day", "hour"]


def summary(rows, types):
    """Of rows (id, app_id, month, timestamp_ms, screen_width, stream_sequence)."""
    rows = sorted([list(row) for row in rows])
    counts = {}
    for row in rows:
        counts[row[1]] = counts.get(row[1], 0) + 1
    kinds = [type(value).__name__ for value in rows[0]] if rows else []
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return {"counts": counts, "kinds": kinds, "types": types, "rows": digest}


COLUMNS = ["id", "app_id", "month", "timestamp_ms", "screen_width", "stream_sequence"]


def with_deltalake(uri):
    table = deltalake.DeltaTable(uri)
    data = table.to_pyarrow_table(columns=COLUMNS)
    types = {field.name: str(field.type) for field in deltalake.DeltaTable(uri).to_pyarrow_table(columns=PARTITIONS).schema}
    return summary(zip(*(data.column(name).to_pylist() for name in COLUMNS)), types), lambda app: table.to_pyarrow_table(
        columns=["id"], filters=[("app_id", "=", app)]
    ).num_rows


def with_duckdb(uri):
    import duckdb
    import duckdb_extension_delta
    import pathlib

    database = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    (extension,) = pathlib.Path(duckdb_extension_delta.__file__).parent.rglob("*.duckdb_extension")
    database.execute(f"LOAD '{extension}'")
    source = f"delta_scan('{uri}')"
    rows = database.sql(f"SELECT {', '.join(COLUMNS)} FROM {source}").fetchall()
    described = database.sql(f"DESCRIBE SELECT {', '.join(PARTITIONS)} FROM {source}").fetchall()
    count = lambda app: database.execute(f"SELECT count(*) FROM {source} WHERE app_id = ?", [app]).fetchone()[0]
    return summary(rows, {row[0]: row[1] for row in described}), count


def with_polars(uri):
    import polars

    table = polars.scan_delta(uri)
    schema = table.select(PARTITIONS).collect_schema()
    rows = table.select(COLUMNS).collect().rows()
    count = lambda app: table.filter(polars.col("app_id") == app).select(polars.len()).collect().item()
    return summary(rows, {name: str(kind) for name, kind in schema.items()}), count


def readers(uri):
    answers = {}
    for name, read in [("deltalake", with_deltalake), ("duckdb", with_duckdb), ("polars", with_polars)]:
        answer, count = read(uri)
        # Filters go another way than whole reads: by the log's partition values and statistics.
        answer["filtered"] = {app: count(app) for app in answer["counts"]}
        answers[name] = answer
    print(json.dumps(answers))


def ids(uri):
    table = deltalake.DeltaTable(uri)
    found = table.to_pyarrow_table(columns=["id"]).column("id").to_pylist()
    files = [uri.removeprefix("/") for uri in relative(table, uri)]
    print(json.dumps({"rows": len(found), "ids": found, "files": files, "version": table.version()}))


def relative(table, root):
    return [file.removeprefix("file://").removeprefix(root) for file in table.file_uris()]


{"readers": readers, "ids": ids}[sys.argv[2]](sys.argv[1].rstrip("/"))
sys.stdout.flush()
# Threads of the libraries may end the interpreter otherwise than it ends itself.
os._exit(0)
