//! Parse, run, exit code. Everything else is in the library.

use std::process::ExitCode;

use causality::cli::{self, Cli, Command};

/// Allocation is a large part of parsing events; mimalloc took less time and less memory
/// than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Freed memory goes back to the system after this long. The allocator's own second keeps more resident under
/// load and saves few page faults.
const PURGE_DELAY_MS: i64 = 100;
/// `mi_option_purge_delay` in mimalloc.h; the bindings do not name it.
const PURGE_DELAY: i32 = 15;

/// Huge pages are off: each one is cleared and stays resident as a whole, a third more memory under load, and
/// nothing is faster with them.
#[expect(unsafe_code, reason = "neither the allocator's options nor the process's have a safe interface")]
fn tune_memory() {
    // SAFETY: stores a number in the allocator's table of options, which any thread may do.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) }
    // SAFETY: sets a flag of this process; a kernel without it answers an error, which changes nothing.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}

fn main() -> ExitCode {
    tune_memory();
    let cli = match Cli::from_process_args() {
        Ok(cli) => cli,
        Err(status) => return status.into(),
    };
    let ended = match cli.command {
        Command::Run(args) => cli::run::execute(args),
        Command::Config(args) => cli::config::execute(&args),
        Command::Migrate(args) => cli::migrate::execute(&args),
        Command::Client(command) => command.execute(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("causality: {failure}");
            failure.status.into()
        }
    }
}
