//! `causality lake erase`: erases one person's events from the bus, the store and the lake.
//!
//! Invariant: the lake comes last, after the running processes report that no event of the person is still on its way
//! there. Every step can be repeated: an erasure that was stopped starts over and finds less to do.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use indicatif::{HumanBytes, HumanCount, ProgressBar};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::partitions::{LEASE_POLL_PAUSE, LEASE_WAIT_MAX, app_id, concurrent_partitions, failed};
use super::processes::ErasureClient;
use super::progress::{progress_on, unbounded_bar};
use super::receipt::{LakeCounts, Receipt, text};
use crate::app::Lake;
use crate::cli::client::AdminArgs;
use crate::cli::run::Layers;
use crate::cli::{Failure, output};
use crate::event::{self, Person, PersonId};
use crate::warehouse::{Erased, ErasureOutcome, PersonSearch, PersonalFiles, WarehouseError};

/// Attempts per partition when other workers keep changing its files.
const ATTEMPTS_MAX: u32 = 5;

/// Irreversible. Says what it removed, and when the last old file is gone: that is the receipt.
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("person").required(true))]
pub(super) struct EraseArgs {
    /// The events of this device
    #[arg(long, value_name = "ID", group = "person", value_parser = id)]
    device: Option<String>,
    /// The events of this user
    #[arg(long, value_name = "ID", group = "person", value_parser = id)]
    user: Option<String>,
    /// Only this app's
    #[arg(long, value_name = "APP", value_parser = app_id)]
    app: Option<String>,
    /// Say what is in the lake, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Leave out the bus and the store: for a lake that no process writes to any more
    #[arg(long, conflicts_with = "dry_run")]
    lake_only: bool,
    /// How long events that are on their way into the lake are waited for
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = wait)]
    wait: Duration,
    /// Where the bus, the store and the warehouse keep their files
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

fn id(text: &str) -> Result<String, String> {
    if !text.is_empty() && event::is_id(text) {
        return Ok(text.to_owned());
    }
    Err("must have from 1 to 256 bytes and no control characters, as ids of events have".to_owned())
}

fn wait(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration = text.parse().map_err(|_| "must be a duration such as 15m".to_owned())?;
    Duration::try_from(duration).map_err(|_| "must not be negative".to_owned())
}

impl EraseArgs {
    pub(super) fn layers(&self) -> Layers {
        Layers { config: self.admin.config.clone(), data_dir: self.data_dir.clone() }
    }

    fn person(&self) -> Person {
        let id = match (&self.device, &self.user) {
            (Some(device), _) => PersonId::Device(device.clone()),
            (None, user) => PersonId::User(user.clone().unwrap_or_default()),
        };
        Person { id, app_id: self.app.clone() }
    }

    /// The request for the admin API.
    fn document(&self) -> Value {
        let mut document = json!({});
        let members = [("device_id", &self.device), ("user_id", &self.user), ("app_id", &self.app)];
        for (name, value) in members {
            if let Some(value) = value {
                document[name] = value.clone().into();
            }
        }
        document
    }
}

pub(super) async fn erase(args: &EraseArgs, lake: &Lake) -> Result<(), Failure> {
    let (person, requested_at) = (args.person(), Timestamp::now());
    if args.dry_run {
        return output::print(&plan(&search(lake, &person).await?));
    }
    let mut left = Vec::new();
    let mut processes = match args.lake_only {
        true => None,
        false => Some(ErasureClient::new(&args.admin, args.document())?),
    };
    if let Some(processes) = &mut processes {
        processes.erase_all(args.wait, &mut left).await?;
    }
    let found = search(lake, &person).await?;
    left.extend(found.unreadable.iter().map(|file| format!("{file}: it cannot be read")));
    let erased = erase_all(lake, &person, &found.found, &mut left).await;
    let finished_at = Timestamp::now();
    let after = |wait: Duration| finished_at.checked_add(wait).ok();
    let waits = erased.files_waiting > 0;
    left.extend(erased.left);
    left.sort();
    left.dedup();
    let mut receipt = Receipt {
        device_id: args.device.clone(),
        user_id: args.user.clone(),
        app_id: args.app.clone(),
        requested_at,
        finished_at,
        processes: None,
        lake: LakeCounts {
            files_searched: found.files,
            partitions: found.found.len() as u64,
            files_replaced: erased.files_replaced,
            files_written: erased.files_written,
            rows_removed: erased.rows_erased,
            files_waiting: erased.files_waiting,
            old_files_gone_by: if waits { after(lake.settings.vacuum_retention) } else { Some(finished_at) },
            old_commits_gone_by: if erased.files_replaced > 0 {
                after(lake.settings.delta.retention)
            } else {
                Some(finished_at)
            },
        },
        is_complete: left.is_empty(),
        left,
    };
    if let Some(processes) = processes {
        receipt.processes = Some(processes.report_lake(&receipt).await?);
    }
    if args.admin.json {
        output::print_json(&receipt)?
    } else {
        output::print(&text(&receipt))?
    }
    if receipt.is_complete {
        return Ok(());
    }
    Err(Failure::failed(format!("not everything could be erased:\n  {}", receipt.left.join("\n  "))))
}

async fn search(lake: &Lake, person: &Person) -> Result<PersonSearch, Failure> {
    let bar = unbounded_bar("{elapsed:>4} {spinner} {msg}");
    let progress = bar.clone();
    let show = move |done: &PersonSearch| {
        let rows: u64 = done.found.iter().map(|found| found.rows).sum();
        progress.set_message(format!("{} files searched, {} rows found", HumanCount(done.files), HumanCount(rows)));
        progress.tick();
        true
    };
    let found = lake.warehouse.find_person(person, show).await;
    bar.finish_and_clear();
    found.map_err(|error| failed(&error))
}

/// Erases from all partitions with rows of the person, several concurrently.
async fn erase_all(lake: &Lake, person: &Person, found: &[PersonalFiles], left: &mut Vec<String>) -> Erased {
    let bar = unbounded_bar("{elapsed:>4} [{bar:32}] {bytes}/{total_bytes} {msg}");
    bar.set_length(found.iter().map(|found| found.bytes).sum());
    let all = Mutex::new((Erased::default(), Vec::new()));
    let one = async |found: &PersonalFiles| {
        bar.set_message(found.partition.to_string());
        let done = erase_one(lake, person, found, &bar).await;
        let mut all = all.lock();
        match done {
            Ok(erased) => all.0.add(erased),
            Err(why) => all.1.push(format!("{}: {why}", found.partition)),
        }
    };
    stream::iter(found).for_each_concurrent(concurrent_partitions(), one).await;
    bar.finish_and_clear();
    let mut all = all.lock();
    left.append(&mut all.1);
    std::mem::take(&mut all.0)
}

/// Erases from one partition; waits while another worker has its lease.
async fn erase_one(lake: &Lake, person: &Person, found: &PersonalFiles, bar: &ProgressBar) -> Result<Erased, String> {
    let (began, mut attempt) = (Instant::now(), 1);
    let reported = Arc::new(AtomicU64::new(0));
    loop {
        let outcome = lake
            .warehouse
            .erase(&found.partition, &person.id, &lake.settings.compaction, progress_on(bar, &reported))
            .await;
        match outcome.map_err(|error: WarehouseError| error.to_string())? {
            ErasureOutcome::Done(erased) => return Ok(erased),
            ErasureOutcome::Busy if began.elapsed() < LEASE_WAIT_MAX => tokio::time::sleep(LEASE_POLL_PAUSE).await,
            ErasureOutcome::Overtaken if attempt < ATTEMPTS_MAX => attempt += 1,
            ErasureOutcome::Busy | ErasureOutcome::Overtaken => {
                return Err("another worker has it all the time: do this again".to_owned());
            }
            ErasureOutcome::Stopped => return Err("stopped".to_owned()),
        }
    }
}

fn plan(search: &PersonSearch) -> String {
    let mut text = String::new();
    for found in &search.found {
        text.push_str(&format!(
            "{}: {} rows in {} files, {}\n",
            found.partition,
            HumanCount(found.rows),
            found.files,
            HumanBytes(found.bytes)
        ));
    }
    for file in &search.unreadable {
        text.push_str(&format!("{file} cannot be read\n"));
    }
    let (rows, files) =
        search.found.iter().fold((0, 0), |(rows, files), found| (rows + found.rows, files + found.files));
    text.push_str(&format!(
        "{} rows in {} of {} files would be erased, and what is in the bus and the store\n",
        HumanCount(rows),
        HumanCount(files),
        HumanCount(search.files)
    ));
    text
}
