"""Asks a lake of many small files ten questions by DuckDB through Delta, before and after compaction.

    questions.py CAUSALITY DIR EVENTS FILES

Prints the seconds of each question, the best of three, the rows that both answers agree on, and the bytes of the table.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import deltalake
import duckdb
import duckdb_extension_delta

binary, directory, events, files = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
PIECE = 1_000_000
FROM_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
HOURS = 48
APPS = 2
# Of one line, about.
LINE_BYTES = 330

MAKE = """
COPY (SELECT printf('00000000-0000-7000-8000-%012d', n) AS id,
             CASE WHEN n % 3 = 0 THEN 'game' ELSE 'shop' END AS "appId",
             printf('device-%d', (n * 7919) % 200000) AS "deviceId",
             printf('user-%d', (n * 104729) % 50000) AS "userId",
             {start} + (n * {span} // {events}) + (n * 31) % 60000 AS "timestampMs",
             {{'platform': CASE WHEN n % 2 = 0 THEN 'PLATFORM_IOS' ELSE 'PLATFORM_ANDROID' END,
               'osVersion': printf('17.%d', n % 6), 'locale': 'de_DE'}} AS "deviceContext",
             CASE WHEN n % 10 < 8 THEN {{'screenName': printf('Screen%d', n % 12)}} END AS "screenView",
             CASE WHEN n % 10 >= 8 THEN {{'orderId': printf('o-%d', n), 'totalCents': n % 20000, 'currency': 'EUR'}} END
                 AS "purchaseComplete"
      FROM range({first}, {last}) t(n)) TO '{path}' (FORMAT json)
"""


def fill(lake):
    environment = os.environ | {"DATA_DIR": str(lake)}
    # Each chunk makes a file of each app, or of two hours.
    chunk = max(1024, events * LINE_BYTES // max(1, files // APPS))
    for first in range(0, events, PIECE):
        piece, last = directory / "piece.jsonl", min(first + PIECE, events)
        duckdb.sql(MAKE.format(start=FROM_MS, span=HOURS * 3_600_000, events=events, first=first, last=last, path=piece))
        subprocess.run([binary, "import", piece, "--chunk-bytes", str(chunk)], check=True, env=environment, stdout=subprocess.DEVNULL)
        piece.unlink()


def ask(table, questions):
    answers = []
    for question in questions:
        best, rows = None, None
        for _ in range(3):
            database = duckdb.connect(config={"allow_unsigned_extensions": "true"})
            (extension,) = pathlib.Path(duckdb_extension_delta.__file__).parent.rglob("*.duckdb_extension")
            database.execute(f"LOAD '{extension}'")
            began = time.monotonic()
            rows = database.sql(question.replace("events", f"delta_scan('{table}')", 1)).fetchall()
            elapsed = time.monotonic() - began
            best = elapsed if best is None else min(best, elapsed)
        answers.append((best, sorted(map(repr, rows))))
    return answers


def size(table):
    adds = deltalake.DeltaTable(table).get_add_actions(flatten=True)
    sizes = duckdb.sql("SELECT count(*), sum(size_bytes) FROM adds").fetchone()
    return int(sizes[0]), int(sizes[1])


text = (pathlib.Path(__file__).parent / "questions.sql").read_text()
parts = [part.strip() for part in text.split(";") if part.strip()]
names = [part.splitlines()[0].removeprefix("-- ") for part in parts]
questions = ["\n".join(part.splitlines()[1:]) for part in parts]

lake = directory / "lake"
shutil.rmtree(lake, ignore_errors=True)
began = time.monotonic()
fill(lake)
print(f"filled in {time.monotonic() - began:.0f} s", flush=True)
table = str(lake / "warehouse")
before_size, before = size(table), ask(table, questions)
time.sleep(2)
began = time.monotonic()
environment = os.environ | {"DATA_DIR": str(lake), "COMPACTION_MIN_AGE": "1s"}
subprocess.run([binary, "lake", "compact"], check=True, env=environment)
compacted = time.monotonic() - began
after_size, after = size(table), ask(table, questions)
for name, (slow, rows), (fast, same) in zip(names, before, after):
    print(f"{name:<28} {slow:8.3f} s {fast:8.3f} s {slow / fast:6.1f} x  {len(rows)} rows{'' if rows == same else '  DIFFERENT'}")
total = sum(seconds for seconds, _ in before), sum(seconds for seconds, _ in after)
print(f"{'all':<28} {total[0]:8.3f} s {total[1]:8.3f} s {total[0] / total[1]:6.1f} x")
print(f"files {before_size[0]} -> {after_size[0]}, bytes {before_size[1]} -> {after_size[1]} "
      f"({100 * after_size[1] / before_size[1]:.1f} %), compacted in {compacted:.1f} s")
shutil.rmtree(lake)
sys.stdout.flush()
# Threads of the libraries may end the interpreter otherwise than it ends itself.
os._exit(0 if all(rows == same for (_, rows), (_, same) in zip(before, after)) else 1)
