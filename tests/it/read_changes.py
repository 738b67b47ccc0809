"""Reads the lake again and again through its Delta log while it changes, by a reader that shares no code with the product.

    read_changes.py DIR READS

Each read opens the table anew and must be one state of it: no id twice, no event of a device that stays gone again, and the
events of a person (a device whose name begins with "person-") all there or all gone, once they were there. Prints
{"reads": N, "versions": N, "persons": N gone, "rows": N}.
"""

import collections
import json
import os
import sys

import deltalake

uri, reads = sys.argv[1].rstrip("/"), int(sys.argv[2])
most, gone, versions, rows = collections.Counter(), set(), set(), 0
for read in range(reads):
    table = deltalake.DeltaTable(uri)
    found = table.to_pyarrow_table(columns=["id", "device_id"])
    ids = found.column("id").to_pylist()
    at = f"read {read}, version {table.version()}"
    assert len(set(ids)) == len(ids), f"{at}: an id is there twice"
    counts = collections.Counter(found.column("device_id").to_pylist())
    for device in most.keys() | counts.keys():
        before, now = most[device], counts[device]
        if now >= before and device not in gone:
            most[device] = now
        elif device.startswith("person-") and now == 0:
            gone.add(device)
        else:
            raise AssertionError(f"{at}: {device} has {now} rows after {before}{' and none' if device in gone else ''}")
    versions.add(table.version())
    rows = len(ids)
print(json.dumps({"reads": reads, "versions": len(versions), "persons": len(gone), "rows": rows}))
sys.stdout.flush()
# Threads of the libraries may end the interpreter otherwise than it ends itself.
os._exit(0)
