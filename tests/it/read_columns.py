"""Answers a query over the table `events`, opened by one of the readers.

    read_columns.py DIR deltalake|duckdb|polars|files < query    [[value, ...], ...]
"""

import json
import os
import pathlib
import sys

import duckdb

root, source = sys.argv[1:]
database = duckdb.connect(config={"allow_unsigned_extensions": "true"})
if source == "deltalake":
    import deltalake

    events = deltalake.DeltaTable(root).to_pyarrow_table()
elif source == "polars":
    import polars

    events = polars.scan_delta(root).collect().to_arrow()
elif source == "duckdb":
    import duckdb_extension_delta

    (extension,) = pathlib.Path(duckdb_extension_delta.__file__).parent.rglob("*.duckdb_extension")
    database.execute(f"LOAD '{extension}'")
    database.execute(f"CREATE VIEW events AS SELECT * FROM delta_scan('{root}')")
else:
    files = f"{root}/**/events_*.parquet"
    database.execute(
        f"CREATE VIEW events AS SELECT * FROM read_parquet('{files}', hive_partitioning = true, union_by_name = true)"
    )
if source in ("deltalake", "polars"):
    database.register("events", events)
print(json.dumps(database.sql(sys.stdin.read()).fetchall()))
sys.stdout.flush()
# Threads of the libraries may end the interpreter otherwise than it ends itself.
os._exit(0)
