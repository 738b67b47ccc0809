//! Limits how much of the dispatcher one endpoint may use. Plain values.
//!
//! Invariant: however many endpoints hang, there is capacity for another one. An endpoint's window shrinks to one
//! request while its requests get no response, and no endpoint takes more of a pool than is left free in it, so the
//! free part never runs out. The first request, and the first claimed delivery, is always allowed.

/// The initial window of an endpoint.
const WINDOW_START: usize = 4;

/// Concurrent requests allowed for one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConcurrencyWindow(usize);

impl Default for ConcurrencyWindow {
    fn default() -> Self {
        Self(WINDOW_START)
    }
}

impl ConcurrencyWindow {
    pub(super) fn size(self, most: usize) -> usize {
        self.0.min(most).max(1)
    }

    /// A request got a response, whatever it was.
    pub(super) fn responded(&mut self, most: usize) {
        self.0 = (self.0 + 1).min(most.max(1));
    }

    /// A request got no response.
    pub(super) fn timed_out(&mut self) {
        self.0 = (self.0 / 2).max(1);
    }

    /// Deliveries to keep claimed for it: enough that none of its requests waits for a claim.
    pub(super) fn claim_target(self, most: usize, batch: usize) -> usize {
        // An endpoint at its maximum is fast or busy, and worth large claims.
        if self.0 >= most { batch } else { 2 * self.size(most) }.max(1)
    }
}

/// Whether an endpoint that uses `used` of a pool may take one more, with `free` left.
pub(super) fn may_send(used: usize, free: usize) -> bool {
    used == 0 || used < free
}

/// How many more of a pool an endpoint that uses `used` may take, with `free` left.
pub(super) fn max_share(used: usize, free: usize) -> usize {
    if used == 0 { free.max(1) } else { free.saturating_sub(used) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints that never respond take all they can get; then another one comes.
    #[test]
    fn hanging_endpoints_leave_capacity_for_others() {
        for (hanging, left) in [(4, 192), (8, 128), (16, 15), (60, 4), (1_000, 0)] {
            let (total, most) = (256_usize, 16);
            let mut used = vec![0; hanging];
            loop {
                let mut moved = false;
                for place in 0..hanging {
                    let free = total.saturating_sub(used.iter().sum());
                    if used[place] < most && may_send(used[place], free) {
                        used[place] += 1;
                        moved = true;
                    }
                }
                if !moved {
                    break;
                }
            }
            let free = total.saturating_sub(used.iter().sum::<usize>());
            assert!(free >= left, "{hanging}: {free}");
            assert!(may_send(0, free), "the first is always allowed");
        }
    }

    #[test]
    fn a_window_grows_with_answers_and_shrinks_to_one() {
        let mut window = ConcurrencyWindow::default();
        assert_eq!((window.size(16), window.size(2), window.claim_target(16, 256)), (4, 2, 8));
        for _ in 0..40 {
            window.responded(16);
        }
        assert_eq!((window.size(16), window.claim_target(16, 256)), (16, 256));
        for left in [8, 4, 2, 1, 1] {
            window.timed_out();
            assert_eq!(window.size(16), left);
        }
        assert_eq!((window.claim_target(16, 256), window.claim_target(1, 256)), (2, 256));
    }

    #[test]
    fn claimed_deliveries_leave_capacity_as_well() {
        assert_eq!((max_share(0, 512), max_share(100, 412), max_share(300, 212)), (512, 312, 0));
        assert_eq!(max_share(0, 0), 1);
    }
}
