# The recipes; plain `just` lists them.
_default:
    @just --list

# Build and start everything on this machine, data in ./causality-data
run *ARGS:
    .ci/setup
    cargo run --release -- run {{ARGS}}

# Install what the tests lack and run them
test *ARGS:
    .ci/test {{ARGS}}

# What continuous integration runs: tests, formatting, lints
check:
    .ci/run

# Formatting
fmt:
    cargo fmt

# The benches: parse, bus, Parquet, rules, NATS against a bare publisher, NATS to S3 against the embedded sink, webhooks and memory with the roles apart
bench *ARGS:
    cargo bench {{ARGS}}

# Mechanisms written by hand against the plain way, in turns; fails if one no longer earns its place
proofs:
    cargo bench --bench files
    cargo bench --bench encode
    cargo bench --bench dedup
    cargo bench --bench leases

# Compaction of one partition against copying its row groups unchanged: MB/s, bytes before and after, memory
compaction files="400" rows="5000" codec="snappy" into="snappy":
    COMPACTION_FILES={{files}} COMPACTION_ROWS={{rows}} COMPACTION_CODEC={{codec}} COMPACTION_INTO={{into}} \
        cargo bench --bench compaction

# So many kills of compactions, erasures, vacuums, imports and sinks in turn while events come
compaction-kills rounds="100":
    .ci/setup --tests
    CAUSALITY_COMPACTION_KILLS={{rounds}} cargo test --test it -- --nocapture compaction::kills

# So many kills of expiries, compactions and sinks in turn while events of all ages come
retention-kills rounds="100":
    .ci/setup --tests
    CAUSALITY_RETENTION_KILLS={{rounds}} cargo test --test it -- --nocapture retention::kills

# So many reads of the table, each anew, while events come, files are compacted and persons erased
reads count="10000":
    .ci/setup --tests
    CAUSALITY_READS={{count}} cargo test --test it -- --nocapture erasure::no_reader

# The same by Trino, through its Delta catalog
trino-reads count="500":
    .ci/setup --trino
    CAUSALITY_READS={{count}} cargo test --test it -- --ignored --nocapture engines::trino_sees

# So many kills (of servers that sync and that do not, with clocks hours apart), freezes and full streams, keys sent to two gateways at once, damaged logs, removed files, deleted streams and consumers
chaos cycles="100" rounds="10" keys="2000":
    .ci/setup --tests
    CAUSALITY_CHAOS_CYCLES={{cycles}} CAUSALITY_FREEZE_ROUNDS={{rounds}} CAUSALITY_FULL_ROUNDS={{rounds}} \
        CAUSALITY_KEYS={{keys}} cargo test --test it -- --test-threads=1 \
        chaos clocks cluster full_stream keys:: killed lost_files objects_gone

# Each fault of the network to each server, each of an object store in so many rounds; every fault for this long
faults seconds="60" rounds="1":
    .ci/setup --tests
    CAUSALITY_FAULT_SECONDS={{seconds}} CAUSALITY_FAULT_ROUNDS={{rounds}} \
        cargo test --test it -- --test-threads=1 --nocapture faults

# Each system call of the sink fails in turn, so many times, with kills and restarts in between
disk-faults rounds="600":
    .ci/setup --tests
    CAUSALITY_DISK_ROUNDS={{rounds}} cargo test --test it -- --nocapture faulty_disk

# The 99th percentile of webhooks beside four and forty endpoints that hang, against none, of so many each
hanging samples="5000":
    CAUSALITY_HANGING_SAMPLES={{samples}} cargo test --release --lib -- --nocapture reaction::tests::hanging

# What the rate limits of a million callers take
callers:
    cargo test --release --lib -- --nocapture a_million_callers

# What strangers send: requests with two readings, broken frames, h2spec; floods, slow senders and bombs so many times
hostile rounds="20":
    .ci/setup --tests
    CAUSALITY_HOSTILE_ROUNDS={{rounds}} cargo test --test it -- --nocapture hostile

# Each attack on the memory of a process in its default configuration, or those named: peak, honest answers, their p99
attacks *ATTACKS:
    .ci/setup
    cargo build --release
    tests/attacks/attacks.py target/release/causality {{ATTACKS}}

# Both OpenAPI documents against running servers, with credentials, without, and where none are asked for; so many cases an operation
openapi examples="60":
    .ci/setup --tests
    CAUSALITY_OPENAPI_EXAMPLES={{examples}} cargo test --test it -- --nocapture --test-threads=1 openapi::

# The lake and the queries of deploy/redash through a real Trino 476 and metastores 4.0.0 and 4.0.1. Apart from the other
# tests for what it would cost them: 820 MB to load (100 s), 11 s to unpack, 25 to 50 s to start on 2 cores, 800 MB of memory beside
# theirs, and a Java 24 that distributions do not have
trino:
    .ci/setup --trino
    cargo test --test it -- --ignored --nocapture --test-threads=1 trino

# The package on a Debian that systemd boots in a container: notify, watchdog, credentials, restarts under load, roles,
# upgrade, removal; all steps, or those named. Needs root, cargo-deb, systemd-container and debootstrap
systemd *STEPS:
    .ci/setup --tests
    cargo deb --output target/systemd/causality.deb
    tests/systemd/run target/systemd/causality.deb {{STEPS}}

# Each parser, or those named (fuzz/README.md lists them), is fuzzed for so long; a finding ends it
fuzz seconds="600" *TARGETS:
    .ci/setup
    fuzz/run {{seconds}} {{TARGETS}}

# The lines by which docs/warehouse.md opens the lake in Spark, and Spark through a metastore, against the other readers
spark:
    .ci/setup --tests
    .ci/setup --spark
    cargo test --test it -- --nocapture --ignored --test-threads=1 spark

# The Delta log: so many kills around commits and at any moment, read by deltalake after each; checkpoints of so many files
delta kills="100" files="200000":
    .ci/setup --tests
    CAUSALITY_DELTA_KILLS={{kills}} CAUSALITY_DELTA_FILES={{files}} cargo test --test it -- --nocapture delta::kills delta_log::

# Ten questions to a lake of so many events in so many small files, by DuckDB through Delta, before and after compaction
questions events="50000000" files="10000" dir="target/questions":
    .ci/setup --tests
    cargo build --release
    mkdir -p {{dir}}
    target/python/bin/python tests/questions/questions.py target/release/causality {{dir}} {{events}} {{files}}
