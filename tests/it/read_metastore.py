"""Asks a Hive Metastore by bindings and a Thrift library that share no code with the product.

    read_metastore.py PORT tables DB          {table: {"columns": {name: type}, "keys": {name: type}, "location": ..., "type": ...,
                                              "parameters": {...}, "path": ...}}
    read_metastore.py PORT partitions DB T    {directory: values}
    read_metastore.py PORT filtered DB T F    how many partitions the metastore finds by a filter
    read_metastore.py PORT repair DB T        adds a partition once more, by its path, as commands do that look for directories
    read_metastore.py PORT drop DB T
    read_metastore.py PORT foreign DB T       makes a database with a table of that name that has nothing to do with ours
    read_metastore.py PORT narrow DB T        takes the last two columns from a table
"""

import json
import sys

from pymetastore.hive_metastore import ThriftHiveMetastore
from pymetastore.hive_metastore.ttypes import (
    AlterTableRequest,
    Database,
    FieldSchema,
    GetTableRequest,
    SerDeInfo,
    StorageDescriptor,
    Table,
)
from thrift.protocol import TBinaryProtocol
from thrift.transport import TSocket, TTransport

port, what, database, *names = sys.argv[1:]
transport = TTransport.TBufferedTransport(TSocket.TSocket("127.0.0.1", int(port)))
client = ThriftHiveMetastore.Client(TBinaryProtocol.TBinaryProtocol(transport))
transport.open()


def get(name):
    return client.get_table_req(GetTableRequest(dbName=database, tblName=name)).table


def columns(fields):
    return {field.name: field.type for field in fields}


def described(table):
    return {
        "columns": columns(table.sd.cols),
        "keys": columns(table.partitionKeys),
        "location": table.sd.location,
        "type": table.tableType,
        "parameters": table.parameters,
        "path": table.sd.serdeInfo.parameters.get("path"),
    }


def foreign(name):
    client.create_database(Database(name=database, parameters={}))
    descriptor = StorageDescriptor(
        cols=[FieldSchema("n", "int")],
        inputFormat="org.apache.hadoop.mapred.TextInputFormat",
        outputFormat="org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
        serdeInfo=SerDeInfo(serializationLib="org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe", parameters={}),
        bucketCols=[],
        sortCols=[],
        parameters={},
        numBuckets=-1,
    )
    parameters = {"EXTERNAL": "TRUE"}
    client.create_table(Table(tableName=name, dbName=database, sd=descriptor, partitionKeys=[], parameters=parameters, tableType="EXTERNAL_TABLE"))


def narrow(name):
    table = get(name)
    del table.sd.cols[-2:]
    client.alter_table_req(AlterTableRequest(dbName=database, tableName=name, table=table))


def repair(name):
    partition = client.get_partitions(database, name, 1)[0]
    partition.values = [part.split("=")[1] for part in partition.sd.location.split("/")[-5:]]
    client.add_partition(partition)


answers = {
    "tables": lambda: {name: described(get(name)) for name in client.get_all_tables(database)},
    "partitions": lambda name: {
        "/".join(partition.sd.location.split("/")[-5:]): partition.values for partition in client.get_partitions(database, name, -1)
    },
    "filtered": lambda name, by: len(client.get_partitions_by_filter(database, name, by, -1)),
    "repair": repair,
    "drop": lambda name: client.drop_table(database, name, False),
    "foreign": foreign,
    "narrow": narrow,
}
print(json.dumps(answers[what](*names)))
