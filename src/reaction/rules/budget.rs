//! Bounds the cost of one rule on one event.
//!
//! A step takes about 10 ns: one node of an expression, one node visited by a path, 32 bytes of text. Allocations are
//! charged by size, so the budget bounds memory as well as time. An evaluation that exceeds its budget is abandoned,
//! which is a fault of that rule alone.

/// Steps that one rule or anomaly config may take on one event.
pub(in crate::reaction) const STEPS_MAX: u32 = 200_000;
/// Bytes of text scanned in one step.
const STEP_BYTES: usize = 32;

/// The remaining steps.
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
                // An abandoned evaluation stays abandoned.
                self.left = 0;
                Err(Exhausted)
            }
        }
    }

    /// Charges for text that is scanned or copied once.
    pub(in crate::reaction) fn bytes(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.steps(bytes / STEP_BYTES + 1)
    }

    pub(in crate::reaction) fn used(&self) -> u32 {
        STEPS_MAX - self.left
    }
}
