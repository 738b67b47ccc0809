//! A `nats-server` with JetStream.
