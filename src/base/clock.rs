//! What the monotonic clock alone does not tell: when the wall clock is set, and when the machine stood still.
//!
//! `Instant` does not count the time that a machine is suspended. A server goes on meanwhile and ends our leases, so the
//! age of a lease is asked of [`between`], which counts the time that was slept and, for a virtual machine that was
//! paused from outside, by how much its wall clock is set forward afterwards. A clock that a person sets forward looks
//! the same: then a lease counts as older than it is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Differences below this are slewing, scheduling or a leap second.
const STEP_MS_MIN: u64 = 2_000;

/// A shorter standstill is within what every lease has to spare.
const STANDSTILL_MIN: Duration = Duration::from_secs(1);
/// Standstills that are remembered one by one.
const STANDSTILLS_MAX: usize = 32;
/// Readings of three clocks that took longer are of different moments.
const READING_MAX: Duration = Duration::from_millis(100);

/// Both clocks, as of the last look.
#[derive(Clone, Copy, Debug)]
pub struct ClockSteps {
    wall_ms: i64,
    at: Instant,
}

impl Default for ClockSteps {
    fn default() -> Self {
        Self { wall_ms: unix_ms(), at: Instant::now() }
    }
}

impl ClockSteps {
    /// What the wall clock showed at the last look.
    pub fn last_ms(&self) -> i64 {
        self.wall_ms
    }

    /// What the wall clock shows now, and by how much it was set since the last look. A machine that was suspended
    /// looks like one whose clock was set forward.
    pub fn look(&mut self) -> (i64, i64) {
        let now = Self::default();
        let elapsed_ms = i64::try_from(now.at.duration_since(self.at).as_millis()).unwrap_or(i64::MAX);
        let step_ms = now.wall_ms.saturating_sub(self.wall_ms).saturating_sub(elapsed_ms);
        *self = now;
        (now.wall_ms, if step_ms.unsigned_abs() >= STEP_MS_MIN { step_ms } else { 0 })
    }
}

/// Milliseconds since the Unix epoch.
pub fn unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

static STANDSTILLS: Mutex<Option<Standstills>> = Mutex::new(None);
/// Whether there was one since the process started.
static ANY: AtomicBool = AtomicBool::new(false);

/// The monotonic clock, after a look whether the machine stood still. The first look sees nothing that was before it.
pub fn now() -> Instant {
    let clocks = Clocks::read();
    let mut standstills = STANDSTILLS.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *standstills {
        None => *standstills = Some(Standstills::since(clocks)),
        Some(standstills) => {
            if let Some(stood_still) = standstills.look(clocks) {
                ANY.store(true, Ordering::Release);
                tracing::warn!(
                    seconds = stood_still.as_secs(),
                    "the machine stood still or its clock was set forward: leases of before count as so much older"
                );
            }
        }
    }
    clocks.at
}

/// How long after `since` `now` is, of which `now` was answered by [`now`]. What was noticed after `since` counts in
/// full, since it may have been after it in full.
pub fn between(since: Instant, now: Instant) -> Duration {
    let elapsed = now.saturating_duration_since(since);
    if !ANY.load(Ordering::Acquire) {
        return elapsed;
    }
    let standstills = STANDSTILLS.lock().unwrap_or_else(PoisonError::into_inner);
    elapsed.saturating_add(standstills.as_ref().map_or(Duration::ZERO, |standstills| standstills.after(since)))
}

/// The three clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    at: Instant,
    /// Counts the time that the machine sleeps.
    awake_or_not: Duration,
    wall_ms: i64,
}

impl Clocks {
    fn read() -> Self {
        let mut before = Instant::now();
        for _ in 0..3 {
            let (awake_or_not, wall_ms, at) = (awake_or_not(), unix_ms(), Instant::now());
            if at.duration_since(before) < READING_MAX {
                return Self { at, awake_or_not, wall_ms };
            }
            before = at;
        }
        // On a machine this busy the others may seem further ahead than they are, which is the safe side.
        Self { at: Instant::now(), awake_or_not: awake_or_not(), wall_ms: unix_ms() }
    }
}

#[derive(Debug)]
struct Standstills {
    /// Where the clock that sleep does not stop is measured from: until a standstill is noticed it stays, so that many
    /// short ones add up.
    awake_since: Clocks,
    /// Where the wall clock is measured from: the last look, since it is slewed all the time.
    last: Clocks,
    /// When each was noticed, and how long it was.
    noticed: VecDeque<(Instant, Duration)>,
}

impl Standstills {
    fn since(clocks: Clocks) -> Self {
        Self { awake_since: clocks, last: clocks, noticed: VecDeque::new() }
    }

    /// How long the machine stood still since the last look, if it did.
    fn look(&mut self, now: Clocks) -> Option<Duration> {
        let ahead = |passed: Duration, since: Instant| passed.saturating_sub(now.at.saturating_duration_since(since));
        let slept = now.awake_or_not.saturating_sub(self.awake_since.awake_or_not);
        let slept = ahead(slept, self.awake_since.at);
        let wall = u64::try_from(now.wall_ms.saturating_sub(self.last.wall_ms)).unwrap_or(0);
        let set = ahead(Duration::from_millis(wall), self.last.at);
        // Who looked first was overtaken.
        if now.at > self.last.at {
            self.last = now;
        }
        let stood_still = slept.max(set);
        if stood_still < STANDSTILL_MIN {
            return None;
        }
        if slept >= STANDSTILL_MIN {
            self.awake_since = now;
        }
        if self.noticed.len() == STANDSTILLS_MAX
            && let Some((_, oldest)) = self.noticed.pop_front()
            && let Some((_, next)) = self.noticed.front_mut()
        {
            *next = next.saturating_add(oldest);
        }
        self.noticed.push_back((now.at, stood_still));
        Some(stood_still)
    }

    /// Of those that were noticed after that moment.
    fn after(&self, since: Instant) -> Duration {
        self.noticed.iter().filter(|(at, _)| *at > since).map(|(_, stood_still)| *stood_still).sum()
    }
}

/// A clock that goes on while the machine sleeps. On Linux `Instant` does not; elsewhere the system's own monotonic
/// clock does.
#[expect(unsafe_code, reason = "the standard library does not ask for this clock")]
fn awake_or_not() -> Duration {
    #[cfg(target_os = "linux")]
    const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to the struct that it is given.
    if unsafe { libc::clock_gettime(CLOCK, &mut now) } != 0 {
        return Duration::ZERO;
    }
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Sleeps until `moment`, as one arm of a `select!`; without one it never ends.
pub async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn clocks(start: Instant, monotonic_s: u64, awake_or_not_s: u64, wall_s: i64) -> Clocks {
        let awake_or_not = Duration::from_secs(awake_or_not_s);
        Clocks { at: start + monotonic_s as u32 * SECOND, awake_or_not, wall_ms: 1_700_000_000_000 + wall_s * 1_000 }
    }

    #[test]
    fn what_was_slept_or_paused_counts_for_what_began_before() {
        let start = Instant::now();
        let mut standstills = Standstills::since(clocks(start, 0, 50, 0));
        assert_eq!(standstills.look(clocks(start, 10, 60, 10)), None);
        // Asleep for ninety seconds: both other clocks say so, and it counts once.
        assert_eq!(standstills.look(clocks(start, 12, 152, 102)), Some(90 * SECOND));
        assert_eq!(standstills.look(clocks(start, 13, 153, 103)), None);
        // Paused from outside: the wall clock is set afterwards.
        assert_eq!(standstills.look(clocks(start, 20, 160, 170)), Some(60 * SECOND));
        let at = |seconds: u32| start + seconds * SECOND;
        assert_eq!(standstills.after(at(11)), 150 * SECOND);
        assert_eq!(standstills.after(at(15)), 60 * SECOND);
        assert_eq!(standstills.after(at(20)), Duration::ZERO);
        // Set back, nothing stood still; and set right again, something may have.
        assert_eq!(standstills.look(clocks(start, 21, 161, -3_000)), None);
        assert_eq!(standstills.look(clocks(start, 22, 162, 172)), Some(3_171 * SECOND));
    }

    #[test]
    fn short_standstills_add_up_and_many_are_summed() {
        let start = Instant::now();
        let mut standstills = Standstills::since(clocks(start, 0, 0, 0));
        let half = |n: u32| Clocks {
            at: start + n * SECOND,
            awake_or_not: n * (SECOND + SECOND / 2),
            wall_ms: i64::from(n) * 1_500,
        };
        assert_eq!(standstills.look(half(1)), None);
        assert_eq!(standstills.look(half(2)), Some(SECOND));
        for n in 3..200 {
            standstills.look(half(n));
        }
        assert_eq!(standstills.noticed.len(), STANDSTILLS_MAX);
        assert!(standstills.after(start) >= 98 * SECOND, "none is forgotten: {:?}", standstills.after(start));
    }

    #[test]
    fn the_clocks_of_this_machine_agree() {
        let before = now();
        std::thread::sleep(Duration::from_millis(20));
        assert!(between(before, now()) >= Duration::from_millis(20));
        assert!(Clocks::read().awake_or_not > Duration::ZERO);
    }
}
