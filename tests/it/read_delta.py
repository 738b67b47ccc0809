"""Reads the lake with readers that share no code with the product.

    read_delta.py DIR readers [COLUMN]
                                opens it with each line of docs/warehouse.md, except Spark's
    read_delta.py DIR spark METASTORE [COLUMN]
                                the same with Spark's lines, in an interpreter that has PySpark, with what is in jars beside it,
                                and through the metastore at that URI, unless it is ""
                                {"reader, by": {"counts": {app: rows}, "filtered": the same by filters,
                                "types": {column: text, integer or big}, "kinds": [Python type, ...], "rows": hash}}
                                COLUMN is one of WAREHOUSE_COLUMNS, an int64
    read_delta.py DIR ids       {"rows": N, "ids": [...], "files": [...], "version": N} by deltalake
    read_delta.py DIR versions  {version: rows} by deltalake, of those that the standard input lists and that can be read
    read_delta.py DIR count     {"named": files of app many, "others": other files, "version": N} by deltalake
"""

import hashlib
import json
import os
import pathlib
import re
import sys
import tempfile

TYPED = ["app_id", "year", "month", "day", "hour"]
COLUMNS = ["id", "app_id", "month", "timestamp_ms", "screen_width", "stream_sequence"]
DOCS = pathlib.Path(__file__).parents[2] / "docs/warehouse.md"
SAMPLE = "causality-data/warehouse"
TYPES = {
    "text": ["string", "String", "VARCHAR", "varchar"],
    "integer": ["int32", "Int32", "INTEGER", "int", "integer"],
    "big": ["int64", "Int64", "BIGINT", "bigint"],
}


def documented(uri):
    """[(reader, "files" or "Delta", the line)] with the lake's place in it."""
    lines = re.findall(r"^\| (\w+) \| (Delta|files) \| `(.+)` \|$", DOCS.read_text(), re.MULTILINE)
    assert len(lines) == 8 and all(SAMPLE in line for _, _, line in lines), lines
    return [(reader, by, line.replace(SAMPLE, uri)) for reader, by, line in lines]


def documented_column(reader, uri, column):
    """The line for readers that go by the files and must be told of the column."""
    (line,) = re.findall(rf"^\| {reader} \| own columns \| `(.+)` \|$", DOCS.read_text(), re.MULTILINE)
    assert "total_cents" in line, line
    return line.replace(SAMPLE, uri).replace("total_cents", column)


class DuckDb:
    def __init__(self, line):
        import duckdb
        import duckdb_extension_delta

        self.line = line
        self.database = duckdb.connect(config={"allow_unsigned_extensions": "true"})
        (extension,) = pathlib.Path(duckdb_extension_delta.__file__).parent.rglob("*.duckdb_extension")
        self.database.execute(f"LOAD '{extension}'")

    def rows(self):
        return self.database.sql(f"SELECT {', '.join(COLUMNS)} {self.line}").fetchall()

    def types(self):
        described = self.database.sql(f"DESCRIBE SELECT {', '.join(TYPED)} {self.line}").fetchall()
        return {row[0]: row[1] for row in described}

    def count(self, app):
        return self.database.execute(f"SELECT count(*) {self.line} WHERE app_id = ?", [app]).fetchone()[0]


class DeltaLake:
    def __init__(self, line):
        import deltalake

        self.table = eval(line)

    def read(self, columns, **how):
        return self.table.to_pyarrow_table(columns=columns, **how)

    def rows(self):
        return rows_of(self.read(COLUMNS))

    def types(self):
        return {field.name: str(field.type) for field in self.read(TYPED).schema}

    def count(self, app):
        return self.read(["id"], filters=[("app_id", "=", app)]).num_rows


class Polars:
    def __init__(self, line):
        import polars

        self.polars, self.lake = polars, eval(line)

    def rows(self):
        return self.lake.select(COLUMNS).collect().rows()

    def types(self):
        schema = self.lake.select(TYPED).collect_schema()
        return {name: str(kind) for name, kind in schema.items()}

    def count(self, app):
        polars = self.polars
        return self.lake.filter(polars.col("app_id") == app).select(polars.len()).collect().item()


class PyArrow:
    def __init__(self, line):
        import pyarrow
        import pyarrow.dataset

        self.field, self.lake = pyarrow.dataset.field, eval(line)

    def rows(self):
        return rows_of(self.lake.to_table(columns=COLUMNS))

    def types(self):
        return {name: str(self.lake.schema.field(name).type) for name in TYPED}

    def count(self, app):
        return self.lake.count_rows(filter=self.field("app_id") == app)


class PySpark:
    def __init__(self, line, metastore=""):
        import pyspark.sql

        delta = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
        settings = {
            "spark.jars": ",".join(map(str, (pathlib.Path(sys.prefix) / "jars").glob("*.jar"))),
            "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
            "spark.sql.catalog.spark_catalog": delta,
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.sql.shuffle.partitions": "1",
            "spark.databricks.delta.snapshotPartitions": "1",
            "spark.sql.warehouse.dir": tempfile.gettempdir(),
        }
        builder = pyspark.sql.SparkSession.builder.master("local[2]").config(map=settings)
        if metastore:
            builder = builder.config("spark.hadoop.hive.metastore.uris", metastore).enableHiveSupport()
        spark = builder.getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        self.lake = eval(line)

    def rows(self):
        return [tuple(row) for row in self.lake.select(COLUMNS).collect()]

    def types(self):
        return dict(self.lake.select(TYPED).dtypes)

    def count(self, app):
        return self.lake.where(self.lake.app_id == app).count()


READERS = {"DuckDB": DuckDb, "deltalake": DeltaLake, "Polars": Polars, "pyarrow": PyArrow, "PySpark": PySpark}


def rows_of(table):
    return list(zip(*(table.column(name).to_pylist() for name in COLUMNS)))


def summary(reader):
    # A row may be there twice, from before and after a column was added: values and None do not compare.
    rows = sorted([list(row) for row in reader.rows()], key=json.dumps)
    counts = {}
    for row in rows:
        counts[row[1]] = counts.get(row[1], 0) + 1
    types = {name: next(known for known, names in TYPES.items() if kind in names) for name, kind in reader.types().items()}
    return {
        "counts": counts,
        # Filters go another way than whole reads: by the log's partition values and statistics, or by the paths.
        "filtered": {app: reader.count(app) for app in counts},
        "types": types,
        "kinds": [type(value).__name__ for value in rows[0]] if rows else [],
        "rows": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
    }


def widen(column):
    COLUMNS.append(column)
    TYPED.append(column)


def opened(reader, by, line, uri, column):
    found = READERS[reader](line)
    if column and by == "files" and reader in ("Polars", "pyarrow"):
        import polars
        import pyarrow

        line = documented_column(reader, uri, column)
        found.lake = eval(line, {"lake": found.lake, "polars": polars, "pyarrow": pyarrow})
    return found


def readers(uri, column=None):
    if column:
        widen(column)
    lines = [line for line in documented(uri) if line[0] != "PySpark"]
    print(json.dumps({f"{line[0]}, {line[1]}": summary(opened(*line, uri, column)) for line in lines}))


def spark(uri, metastore, column=None):
    if column:
        widen(column)
    lines = [(by, line) for reader, by, line in documented(uri) if reader == "PySpark"]
    if metastore:
        lines.append(("Delta in the metastore", 'spark.table("causality.events_delta")'))
        lines.append(("files in the metastore", 'spark.table("causality.events")'))
    print(json.dumps({f"PySpark, {by}": summary(PySpark(line, metastore)) for by, line in lines}))


def ids(uri):
    import deltalake

    table = deltalake.DeltaTable(uri)
    found = table.to_pyarrow_table(columns=["id"]).column("id").to_pylist()
    files = [file.removeprefix("file://").removeprefix(uri).removeprefix("/") for file in table.file_uris()]
    print(json.dumps({"rows": len(found), "ids": found, "files": files, "version": table.version()}))


def versions(uri):
    import deltalake

    rows = {}
    for version in json.load(sys.stdin):
        try:
            rows[version] = deltalake.DeltaTable(uri, version=version).to_pyarrow_table(columns=["id"]).num_rows
        except (deltalake.exceptions.DeltaError, OSError):
            continue
    print(json.dumps(rows))


def count(uri):
    import deltalake

    table = deltalake.DeltaTable(uri)
    files = table.file_uris()
    named = sum("app_id=many/" in file for file in files)
    assert len(set(files)) == len(files)
    print(json.dumps({"named": named, "others": len(files) - named, "version": table.version()}))


WHAT = {"readers": readers, "spark": spark, "ids": ids, "versions": versions, "count": count}
if __name__ == "__main__":
    WHAT[sys.argv[2]](sys.argv[1].rstrip("/"), *sys.argv[3:])
    sys.stdout.flush()
    # Threads of the libraries may end the interpreter otherwise than it ends itself.
    os._exit(0)
