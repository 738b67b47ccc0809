"""Asks Trino about the lake, through its own client.

    read_trino.py PORT CATALOG.SCHEMA.TABLE lake        {"counts": {app: rows}, "filtered": the same by filters,
                                                        "types": {column: type}, "rows": [[...], ...], "march": rows}
    read_trino.py PORT CATALOG.SCHEMA.TABLE summary [COLUMN]  what read_delta.py says of a reader
    read_trino.py PORT CATALOG.SCHEMA.TABLE query FILE  [[...], ...], the file's `FROM events` replaced by the table
"""

import json
import pathlib
import sys
import time

import trino

import read_delta

port, table, what, *arguments = sys.argv[1:]
catalog, schema, name = table.split(".")
connection = trino.dbapi.connect(host="127.0.0.1", port=int(port), user="test", catalog=catalog, schema=schema)


def rows(statement):
    cursor = connection.cursor()
    for _ in range(60):
        try:
            cursor.execute(statement)
            return cursor.fetchall()
        except trino.exceptions.TrinoQueryError as error:
            # It answers before it has found itself.
            if error.error_name != "NO_NODES_AVAILABLE":
                raise
            time.sleep(1)
    raise TimeoutError("Trino has no node")


def lake():
    counts = dict(rows(f"SELECT app_id, count(*) FROM {name} GROUP BY app_id"))
    quoted = lambda app: "'" + app.replace("'", "''") + "'"
    filtered = {app: rows(f"SELECT count(*) FROM {name} WHERE app_id = {quoted(app)}")[0][0] for app in counts}
    types = {row[0]: row[1] for row in rows(f"DESCRIBE {name}")}
    columns = "app_id, year, month, day, hour, device_id, timestamp_ms, screen_width, is_emulator, user_id, payload_json"
    whole = rows(f"SELECT {columns} FROM {name} ORDER BY id")
    march = rows(f"SELECT count(*) FROM {name} WHERE year = 2026 AND month = 3 AND hour = 5")[0][0]
    return {"counts": counts, "filtered": filtered, "types": types, "rows": whole, "march": march}


class Reader:
    def rows(self):
        return rows(f"SELECT {', '.join(read_delta.COLUMNS)} FROM {name}")

    def types(self):
        types = {row[0]: row[1] for row in rows(f"DESCRIBE {name}")}
        return {column: types[column] for column in read_delta.TYPED}

    def count(self, app):
        return rows(f"SELECT count(*) FROM {name} WHERE app_id = '{app}'")[0][0]


def summary(column=None):
    if column:
        read_delta.widen(column)
    return read_delta.summary(Reader())


def query(file):
    text = pathlib.Path(file).read_text()
    assert "FROM events\n" in text
    return rows(text.replace("FROM events\n", f"FROM {name}\n"))


print(json.dumps({"lake": lake, "query": query, "summary": summary}[what](*arguments)))
