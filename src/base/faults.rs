//! Faults that tests inject through environment variables. Release builds have none of them.

/// Aborts the process, as a crash would, if the variable is set and the payload contains its text.
#[cfg(debug_assertions)]
pub fn end_process_on(variable: &str, payload: &[u8]) {
    let Some(text) = std::env::var(variable).ok().filter(|text| !text.is_empty()) else { return };
    if payload.windows(text.len()).any(|window| window == text.as_bytes()) {
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn end_process_on(_variable: &str, _payload: &[u8]) {}

/// Aborts the process if `CAUSALITY_FAULT_AT` names this place.
#[cfg(debug_assertions)]
pub fn end_process_at(place: &str) {
    if std::env::var("CAUSALITY_FAULT_AT").is_ok_and(|fault| fault == place) {
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn end_process_at(_place: &str) {}
