//! The conformance suite on the oldest and the newest server, and what only this engine promises.

mod oldest {
    use crate::bus::conformance::{Fixture, suite};

    suite!(Fixture::oldest_nats);
}

mod newest {
    use crate::bus::conformance::{Fixture, suite};

    suite!(Fixture::newest_nats);
}
