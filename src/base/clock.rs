//! Detects two things that the monotonic clock hides: steps of the wall clock, and stalls of the whole machine.
//!
//! `Instant` does not count the time that a machine is suspended. A server keeps running meanwhile and expires our leases,
//! so [`between`] computes the age of a lease. It adds the time that the machine slept and, for a virtual machine that was
//! paused from outside, the step of the wall clock afterwards. A wall clock that a person sets forward looks the same: a
//! lease then counts as older than it is, which is the safe side.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// Differences below this are slewing, scheduling or a leap second.
const STEP_MS_MIN: u64 = 2_000;

/// Every lease has enough slack for shorter stalls.
const STALL_MIN: Duration = Duration::from_secs(1);
/// Stalls that are kept one by one; older ones are added up.
const STALLS_MAX: usize = 32;
/// If reading the three clocks takes longer, the readings belong to different times.
const READING_MAX: Duration = Duration::from_millis(100);

/// The wall clock and the monotonic clock at the last reading.
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
    /// The wall clock at the last reading.
    pub fn last_ms(&self) -> i64 {
        self.wall_ms
    }

    /// Reads the wall clock. Returns it with the step since the last reading, in milliseconds. A machine that was
    /// suspended looks like one whose clock was set forward.
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

/// A time by two clocks: the monotonic one stops while the machine is suspended, the wall clock may be set.
#[derive(Clone, Copy, Debug)]
pub struct ClockReading {
    monotonic: Instant,
    wall: SystemTime,
}

impl ClockReading {
    pub fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// A wall clock that was set back is ignored.
    pub fn age(self) -> Duration {
        self.monotonic.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}

static STALLS: Mutex<Option<Stalls>> = Mutex::new(None);
/// Whether any stall was noticed since the process started.
static ANY: AtomicBool = AtomicBool::new(false);

/// Reads the monotonic clock and checks for a stall since the last call. The first call cannot notice earlier stalls.
pub fn now() -> Instant {
    let clocks = Clocks::read();
    let mut stalls = STALLS.lock();
    match &mut *stalls {
        None => *stalls = Some(Stalls::since(clocks)),
        Some(stalls) => {
            if let Some(stalled_for) = stalls.look(clocks) {
                ANY.store(true, Ordering::Release);
                tracing::warn!(
                    seconds = stalled_for.as_secs(),
                    "the machine stood still or its clock was set forward: leases of before count as so much older"
                );
            }
        }
    }
    clocks.at
}

/// The time from `since` to `now`, with stalls; `now` comes from [`now()`](now). A stall that was noticed after `since`
/// counts in full, because all of it may lie after `since`.
pub fn between(since: Instant, now: Instant) -> Duration {
    let elapsed = now.saturating_duration_since(since);
    if !ANY.load(Ordering::Acquire) {
        return elapsed;
    }
    let stalls = STALLS.lock();
    elapsed.saturating_add(stalls.as_ref().map_or(Duration::ZERO, |stalls| stalls.after(since)))
}

/// The three clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    at: Instant,
    /// Includes the time that the machine sleeps.
    since_boot: Duration,
    wall_ms: i64,
}

impl Clocks {
    fn read() -> Self {
        let mut before = Instant::now();
        for _ in 0..3 {
            let (since_boot, wall_ms, at) = (boot_time(), unix_ms(), Instant::now());
            if at.duration_since(before) < READING_MAX {
                return Self { at, since_boot, wall_ms };
            }
            before = at;
        }
        // On a machine this busy the other clocks may seem too far ahead, which is the safe side.
        Self { at: Instant::now(), since_boot: boot_time(), wall_ms: unix_ms() }
    }
}

#[derive(Debug)]
struct Stalls {
    /// The reference for the clock that includes sleep. It stays until a stall is noticed, so that many short ones
    /// add up.
    awake_since: Clocks,
    /// The reference for the wall clock. It is the last reading, because the wall clock is slewed all the time.
    last: Clocks,
    /// When each stall was noticed, and its length.
    noticed: VecDeque<(Instant, Duration)>,
}

impl Stalls {
    fn since(clocks: Clocks) -> Self {
        Self { awake_since: clocks, last: clocks, noticed: VecDeque::new() }
    }

    /// The length of the stall since the last reading, if there was one.
    fn look(&mut self, now: Clocks) -> Option<Duration> {
        let ahead = |passed: Duration, since: Instant| passed.saturating_sub(now.at.saturating_duration_since(since));
        let slept = now.since_boot.saturating_sub(self.awake_since.since_boot);
        let slept = ahead(slept, self.awake_since.at);
        let wall = u64::try_from(now.wall_ms.saturating_sub(self.last.wall_ms)).unwrap_or(0);
        let set = ahead(Duration::from_millis(wall), self.last.at);
        // Otherwise a thread that read the clocks later got here first.
        if now.at > self.last.at {
            self.last = now;
        }
        let stalled_for = slept.max(set);
        if stalled_for < STALL_MIN {
            return None;
        }
        if slept >= STALL_MIN {
            self.awake_since = now;
        }
        if self.noticed.len() == STALLS_MAX
            && let Some((_, oldest)) = self.noticed.pop_front()
            && let Some((_, next)) = self.noticed.front_mut()
        {
            *next = next.saturating_add(oldest);
        }
        self.noticed.push_back((now.at, stalled_for));
        Some(stalled_for)
    }

    /// The sum of the stalls that were noticed after `since`.
    fn after(&self, since: Instant) -> Duration {
        self.noticed.iter().filter(|(at, _)| *at > since).map(|(_, stalled_for)| *stalled_for).sum()
    }
}

/// A clock that keeps running while the machine sleeps. On Linux `Instant` stops then; on other systems the monotonic
/// clock includes sleep.
#[expect(unsafe_code, reason = "the standard library does not ask for this clock")]
fn boot_time() -> Duration {
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

/// Sleeps until `deadline`, as one arm of a `select!`. Without a deadline it never returns.
pub async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn clocks(start: Instant, monotonic_s: u64, since_boot_s: u64, wall_s: i64) -> Clocks {
        let since_boot = Duration::from_secs(since_boot_s);
        Clocks { at: start + monotonic_s as u32 * SECOND, since_boot, wall_ms: 1_700_000_000_000 + wall_s * 1_000 }
    }

    #[test]
    fn sleep_and_pauses_count_for_leases_that_began_before_them() {
        let start = Instant::now();
        let mut stalls = Stalls::since(clocks(start, 0, 50, 0));
        assert_eq!(stalls.look(clocks(start, 10, 60, 10)), None);
        // The machine slept for ninety seconds. Both other clocks show it; it counts once.
        assert_eq!(stalls.look(clocks(start, 12, 152, 102)), Some(90 * SECOND));
        assert_eq!(stalls.look(clocks(start, 13, 153, 103)), None);
        // Paused from outside: the wall clock is set afterwards.
        assert_eq!(stalls.look(clocks(start, 20, 160, 170)), Some(60 * SECOND));
        let at = |seconds: u32| start + seconds * SECOND;
        assert_eq!(stalls.after(at(11)), 150 * SECOND);
        assert_eq!(stalls.after(at(15)), 60 * SECOND);
        assert_eq!(stalls.after(at(20)), Duration::ZERO);
        // A clock that is set back shows no stall; when it is set right again, it may hide one.
        assert_eq!(stalls.look(clocks(start, 21, 161, -3_000)), None);
        assert_eq!(stalls.look(clocks(start, 22, 162, 172)), Some(3_171 * SECOND));
    }

    #[test]
    fn short_stalls_add_up_and_none_is_forgotten() {
        let start = Instant::now();
        let mut stalls = Stalls::since(clocks(start, 0, 0, 0));
        let half = |n: u32| Clocks {
            at: start + n * SECOND,
            since_boot: n * (SECOND + SECOND / 2),
            wall_ms: i64::from(n) * 1_500,
        };
        assert_eq!(stalls.look(half(1)), None);
        assert_eq!(stalls.look(half(2)), Some(SECOND));
        for n in 3..200 {
            stalls.look(half(n));
        }
        assert_eq!(stalls.noticed.len(), STALLS_MAX);
        assert!(stalls.after(start) >= 98 * SECOND, "none is forgotten: {:?}", stalls.after(start));
    }

    #[test]
    fn the_clocks_of_this_machine_agree() {
        let before = now();
        std::thread::sleep(Duration::from_millis(20));
        assert!(between(before, now()) >= Duration::from_millis(20));
        assert!(Clocks::read().since_boot > Duration::ZERO);
    }
}
