"""Reads rows of a Delta table with deltalake, and answers a query over them.

    read_rows.py DIR < query    [[value, ...], ...] of the query over the table `events`
"""

import json
import os
import sys

import deltalake
import duckdb

events = deltalake.DeltaTable(sys.argv[1]).to_pyarrow_table()
print(json.dumps(duckdb.sql(sys.stdin.read()).fetchall()))
sys.stdout.flush()
# Threads of the libraries may end the interpreter otherwise than it ends itself.
os._exit(0)
