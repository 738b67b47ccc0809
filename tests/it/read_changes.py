"""Reads the lake again and again through its Delta log while it changes, by readers that share no code with the product.

    read_changes.py DIR READS KEPT                       by deltalake, which opens the table anew for each read
    read_changes.py trino:PORT:CATALOG.SCHEMA.TABLE READS  by Trino, which reads the ids and counts them by itself in turn

Each read must be one state of the table: no id twice, no event of a device that stays gone again, and the events of a
person (a device whose name begins with "person-") all there or all gone, once they were there. Replaced files are there
for KEPT seconds: a read that a busy machine holds up for longer than that may miss one, is told and done again; a file
that a shorter read misses is a fault. Prints {"reads": N, "versions": N different ones, "persons": N gone, "rows": N}.
"""

import collections
import json
import os
import sys
import time


def by_deltalake(uri):
    """(which state it is, {device: rows}, rows, different ids)"""
    import deltalake

    kept = float(sys.argv[3])
    while True:
        began = time.monotonic()
        table = deltalake.DeltaTable(uri)
        try:
            found = table.to_pyarrow_table(columns=["id", "device_id"])
        except FileNotFoundError as error:
            took = time.monotonic() - began
            assert took > kept, f"version {table.version()} misses a file after {took:.1f} s: {error}"
            print(f"version {table.version()}: the read took {took:.1f} s", file=sys.stderr)
            continue
        yield table.version(), collections.Counter(found.column("device_id").to_pylist()), found.num_rows, len(set(found.column("id").to_pylist()))


def by_trino(place):
    import trino

    _, port, table = place.split(":")
    catalog, schema, name = table.split(".")
    cursor = trino.dbapi.connect(host="127.0.0.1", port=int(port), user="test", catalog=catalog, schema=schema).cursor()
    while True:
        rows = cursor.execute(f"SELECT device_id, id FROM {name}").fetchall()
        counts = collections.Counter(row[0] for row in rows)
        yield tuple(sorted(counts.items())), counts, len(rows), len({row[1] for row in rows})
        groups = cursor.execute(f"SELECT device_id, count(*), count(DISTINCT id) FROM {name} GROUP BY device_id").fetchall()
        counts = collections.Counter({row[0]: row[1] for row in groups})
        yield tuple(sorted(counts.items())), counts, counts.total(), sum(row[2] for row in groups)


PATIENCE_SECONDS = 120
place, reads = sys.argv[1].rstrip("/"), int(sys.argv[2])
states = by_trino(place) if place.startswith("trino:") else by_deltalake(place)
most, gone, versions, rows = collections.Counter(), set(), set(), 0
started = time.monotonic()
for read, (version, counts, rows, different) in enumerate(states):
    at = f"read {read}, version {version}"
    assert different == rows, f"{at}: of {rows} rows only {different} have ids of their own"
    for device in most.keys() | counts.keys():
        before, now = most[device], counts[device]
        if now >= before and device not in gone:
            most[device] = now
        elif device.startswith("person-") and now == 0:
            gone.add(device)
        else:
            raise AssertionError(f"{at}: {device} has {now} rows after {before}{' and none' if device in gone else ''}")
    versions.add(version)
    # A reader that is faster than what changes the table goes on until it has seen changes.
    if read + 1 >= reads and (gone and len(versions) > 2 or time.monotonic() - started > PATIENCE_SECONDS):
        break
print(json.dumps({"reads": read + 1, "versions": len(versions), "persons": len(gone), "rows": rows}))
sys.stdout.flush()
# Threads of the libraries may end the interpreter otherwise than it ends itself.
os._exit(0)
