//! How much of the dispatcher one endpoint may use, as plain values.
//!
//! Invariant: however many endpoints do not answer, another one finds room. An endpoint's own window shrinks to one
//! request while its requests do not return, and no endpoint has more of a pool than is left free in it, so that the
//! free part never ends; the first request, and the first delivery in hand, is always allowed.

/// Where an endpoint begins that has not been heard of.
const WINDOW_START: usize = 4;

/// Requests that one endpoint may have on their way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window(usize);

impl Default for Window {
    fn default() -> Self {
        Self(WINDOW_START)
    }
}

impl Window {
    pub(super) fn size(self, most: usize) -> usize {
        self.0.min(most).max(1)
    }

    /// A request was answered, whatever the answer.
    pub(super) fn answered(&mut self, most: usize) {
        self.0 = (self.0 + 1).min(most.max(1));
    }

    /// A request brought no answer.
    pub(super) fn unanswered(&mut self) {
        self.0 = (self.0 / 2).max(1);
    }

    /// Deliveries to have in hand for it: enough that none of its requests waits for a claim.
    pub(super) fn hand(self, most: usize, batch: usize) -> usize {
        // One that uses all that it may is quick or busy, and pays for large claims.
        if self.0 >= most { batch } else { 2 * self.size(most) }.max(1)
    }
}

/// Whether one that has `used` of a pool may have one more of it, with `free` left.
pub(super) fn may_use(used: usize, free: usize) -> bool {
    used == 0 || used < free
}

/// How many more of a pool one may have that has `used` of it, with `free` left.
pub(super) fn may_take(used: usize, free: usize) -> usize {
    if used == 0 { free.max(1) } else { free.saturating_sub(used) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endpoints that never answer take what they can get; one more comes.
    #[test]
    fn whoever_hangs_leaves_room_for_others() {
        for (hanging, left) in [(4, 192), (8, 128), (16, 15), (60, 4), (1_000, 0)] {
            let (total, most) = (256_usize, 16);
            let mut used = vec![0; hanging];
            loop {
                let mut moved = false;
                for place in 0..hanging {
                    let free = total.saturating_sub(used.iter().sum());
                    if used[place] < most && may_use(used[place], free) {
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
            assert!(may_use(0, free), "the first is always allowed");
        }
    }

    #[test]
    fn a_window_grows_with_answers_and_shrinks_to_one() {
        let mut window = Window::default();
        assert_eq!((window.size(16), window.size(2), window.hand(16, 256)), (4, 2, 8));
        for _ in 0..40 {
            window.answered(16);
        }
        assert_eq!((window.size(16), window.hand(16, 256)), (16, 256));
        for left in [8, 4, 2, 1, 1] {
            window.unanswered();
            assert_eq!(window.size(16), left);
        }
        assert_eq!((window.hand(16, 256), window.hand(1, 256)), (2, 256));
    }

    #[test]
    fn what_is_in_hand_leaves_room_as_well() {
        assert_eq!((may_take(0, 512), may_take(100, 412), may_take(300, 212)), (512, 312, 0));
        assert_eq!(may_take(0, 0), 1);
    }
}
