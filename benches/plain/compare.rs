//! Two ways to do the same work, measured in turns: their medians, the ratio, and the bar that it has to clear.

/// A mechanism written by hand stays while the plain one costs this many times as much.
pub(crate) const BAR: f64 = 1.3;

/// Prints one line for each side and their ratio. Returns how many times as much the plain side costs, by medians.
pub(crate) fn ratio(unit: &str, ours: (&str, &[f64]), plain: (&str, &[f64])) -> f64 {
    for (name, costs) in [ours, plain] {
        let sorted = sorted(costs);
        let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
        println!("{name}: median {:.2} {unit} ({least:.2} to {most:.2}, {} runs)", median(costs), costs.len());
    }
    let ratio = median(plain.1) / median(ours.1);
    println!("{}: {ratio:.2} times {}", plain.0, ours.0);
    ratio
}

/// Ends the process with an error unless the choice still holds. `REPORT_ONLY` only prints.
pub(crate) fn hold(holds: bool, choice: &str) {
    println!("{choice}: {}", if holds { "holds" } else { "does not hold" });
    if !holds && std::env::var_os("REPORT_ONLY").is_none() {
        std::process::exit(1);
    }
}

/// Processor time of this process so far, in seconds.
pub(crate) fn processor_seconds() -> f64 {
    processor_seconds_of(std::process::id())
}

/// Processor time of a process so far, in seconds; 0 where `/proc` is missing.
pub(crate) fn processor_seconds_of(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Nanoseconds that this thread has spent on a processor: time taken by other processes does not count.
pub(crate) fn thread_ns() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0.0)
}

fn median(costs: &[f64]) -> f64 {
    sorted(costs)[costs.len() / 2]
}

fn sorted(costs: &[f64]) -> Vec<f64> {
    let mut sorted = costs.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}
