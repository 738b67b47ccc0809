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

# Kills, freezes and absent backends for longer than continuous integration has time for
chaos cycles="100" rounds="10":
    .ci/setup --tests
    CAUSALITY_CHAOS_CYCLES={{cycles}} CAUSALITY_FREEZE_ROUNDS={{rounds}} cargo test --test it -- --test-threads=1 chaos cluster

# Latency, resets, blackholes and half-open connections of each server, each fault for this long
faults seconds="60":
    .ci/setup --tests
    CAUSALITY_FAULT_SECONDS={{seconds}} cargo test --test it -- --nocapture faults
