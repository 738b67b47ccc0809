//! A TCP proxy that makes the network fail: latency, resets, blackholes, half-open connections.
