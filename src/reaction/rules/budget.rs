//! What one rule may cost on one event.
//!
//! A step is about 10 ns: one node of an expression, one node that a path visits, 32 bytes of text. What
//! allocates is charged by its size, so the budget bounds memory as well as time. Evaluation beyond the
//! budget is given up, which is a fault of that rule alone.

/// Steps of one rule, or one anomaly config, on one event.
pub(in crate::reaction) const STEPS_MAX: u32 = 200_000;
/// Bytes of text that are looked through in a step.
const STEP_BYTES: usize = 32;

/// Steps that are left.
#[derive(Debug)]
pub(in crate::reaction) struct Budget {
    left: u32,
}

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reaction) struct Exhausted;

impl Budget {
    pub(in crate::reaction) fn full() -> Self {
        Self { left: STEPS_MAX }
    }

    pub(in crate::reaction) fn step(&mut self) -> Result<(), Exhausted> {
        self.steps(1)
    }

    pub(in crate::reaction) fn steps(&mut self, steps: usize) -> Result<(), Exhausted> {
        match u32::try_from(steps).ok().and_then(|steps| self.left.checked_sub(steps)) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                // What is given up stays given up.
                self.left = 0;
                Err(Exhausted)
            }
        }
    }

    /// Text that is looked through once, or copied.
    pub(in crate::reaction) fn bytes(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.steps(bytes / STEP_BYTES + 1)
    }

    pub(in crate::reaction) fn used(&self) -> u32 {
        STEPS_MAX - self.left
    }
}
