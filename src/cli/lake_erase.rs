//! `causality lake erase`: one person's events go, from the bus, the store and the lake.
//!
//! Invariant: the lake comes last, after the running processes say that nothing of the person is on its way there any more.
//! Every step may be repeated; whoever is stopped begins anew and finds less to do.

use std::io::IsTerminal;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{AdminArgs, AdminClient};
use super::failure::ExitStatus;
use super::lake_work::{BUSY_PATIENCE, BUSY_PAUSE, app_id, failed, partitions_together, shown_on};
use super::run::Layers;
use super::{Failure, output};
use crate::app::Lake;
use crate::event::{self, Person, PersonId};
use crate::warehouse::{Erased, ErasureOutcome, PersonSearch, PersonalFiles, WarehouseError};

/// Between two questions whether what was on its way has arrived.
const SETTLE_PAUSE: Duration = Duration::from_millis(500);
/// Times that one partition is begun anew because others changed its files.
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

    /// As the admin API is asked.
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

/// What the running processes removed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct OfProcesses {
    events: u64,
    dead_letters: u64,
    deliveries: u64,
    anomaly_records: u64,
}

/// One step's answer.
#[derive(Debug, Deserialize)]
struct Step {
    scanned_through: u64,
    through_sequence: u64,
    is_scanned: bool,
    is_settled: bool,
    #[serde(flatten)]
    removed: OfProcesses,
}

#[derive(Debug, Default, Serialize)]
struct OfLake {
    files_searched: u64,
    partitions: u64,
    files_replaced: u64,
    files_written: u64,
    rows_removed: u64,
    /// Files out of the table that still hold the rows.
    files_waiting: u64,
    /// When the last of them is gone, given a vacuum after that.
    old_files_gone_by: Option<Timestamp>,
    /// Commits of the Delta log name the smallest and the largest ids of files that were replaced.
    old_commits_gone_by: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct Receipt {
    device_id: Option<String>,
    user_id: Option<String>,
    app_id: Option<String>,
    requested_at: Timestamp,
    finished_at: Timestamp,
    /// None where they were left out.
    processes: Option<OfProcesses>,
    lake: OfLake,
    is_complete: bool,
    /// What may still hold something, with the reason.
    left: Vec<String>,
}

pub(super) async fn erase(args: &EraseArgs, lake: &Lake) -> Result<(), Failure> {
    let (person, requested_at) = (args.person(), Timestamp::now());
    if args.dry_run {
        return output::print(&plan(&search(lake, &person).await?));
    }
    let mut left = Vec::new();
    let mut asking = match args.lake_only {
        true => None,
        false => Some(Asking::new(args)?),
    };
    if let Some(asking) = &mut asking {
        asking.until_settled(args.wait, &mut left).await?;
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
        lake: OfLake {
            files_searched: found.files,
            partitions: found.found.len() as u64,
            files_replaced: erased.files_replaced,
            files_written: erased.files_written,
            rows_removed: erased.rows_erased,
            files_waiting: erased.files_waiting,
            old_files_gone_by: if waits { after(lake.vacuum_retention) } else { Some(finished_at) },
            old_commits_gone_by: if erased.files_replaced > 0 { after(lake.log_retention) } else { Some(finished_at) },
        },
        is_complete: left.is_empty(),
        left,
    };
    if let Some(asking) = asking {
        receipt.processes = Some(asking.told_of(&receipt).await?);
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

fn bar(template: &str) -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::no_length() } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// The running processes, which are asked step by step.
struct Asking {
    client: AdminClient,
    /// What is asked next.
    document: Value,
    removed: OfProcesses,
}

impl Asking {
    fn new(args: &EraseArgs) -> Result<Self, Failure> {
        let client = AdminClient::new(&args.admin)?;
        Ok(Self { client, document: args.document(), removed: OfProcesses::default() })
    }

    /// One step.
    async fn ask(&mut self) -> Result<Step, Failure> {
        let answer =
            self.client.post("erasures", Some(&self.document)).await.map_err(|failure| match failure.status {
                ExitStatus::Unreachable => {
                    failure.followed_by("--lake-only erases from the lake alone, once nothing runs any more")
                }
                _ => failure,
            })?;
        let step: Step = serde_json::from_value(answer).map_err(|error| {
            Failure::failed(format!("the server's answer is no erasure ({error}); is it another version?"))
        })?;
        self.removed.events += step.removed.events;
        self.removed.dead_letters += step.removed.dead_letters;
        self.removed.deliveries += step.removed.deliveries;
        self.removed.anomaly_records += step.removed.anomaly_records;
        self.document["after_sequence"] = step.scanned_through.into();
        self.document["through_sequence"] = step.through_sequence.into();
        Ok(step)
    }

    /// Until all is looked through and nothing is on its way any more, or patience is over.
    async fn until_settled(&mut self, patience: Duration, left: &mut Vec<String>) -> Result<(), Failure> {
        let bar = bar("{elapsed:>4} [{bar:32}] {msg}");
        let began = Instant::now();
        loop {
            let step = self.ask().await?;
            bar.set_length(step.through_sequence);
            bar.set_position(step.scanned_through);
            bar.set_message(if step.is_scanned {
                "waits for what is on its way into the lake"
            } else {
                "events of the bus"
            });
            if step.is_scanned && step.is_settled {
                break;
            }
            if began.elapsed() >= patience {
                left.push(format!(
                    "events up to number {} of the bus: after {} s some are still on their way (see /ready); do this \
                     again when they have arrived",
                    step.through_sequence,
                    patience.as_secs()
                ));
                break;
            }
            // A step that erased nothing waits for whoever has a message in hand.
            if step.removed.events == 0 {
                tokio::time::sleep(SETTLE_PAUSE).await;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Once more, with what became of the lake, for the audit record.
    async fn told_of(mut self, receipt: &Receipt) -> Result<OfProcesses, Failure> {
        let OfLake { rows_removed, files_replaced, files_waiting, old_files_gone_by, .. } = &receipt.lake;
        self.document["lake"] = json!({"rows_removed": rows_removed, "files_replaced": files_replaced,
            "files_waiting": files_waiting, "old_files_gone_by": old_files_gone_by, "is_complete": receipt.is_complete});
        self.ask().await?;
        Ok(self.removed)
    }
}

async fn search(lake: &Lake, person: &Person) -> Result<PersonSearch, Failure> {
    let bar = bar("{elapsed:>4} {spinner} {msg}");
    let shown = bar.clone();
    let show = move |done: &PersonSearch| {
        let rows: u64 = done.found.iter().map(|found| found.rows).sum();
        shown.set_message(format!("{} files searched, {} rows found", HumanCount(done.files), HumanCount(rows)));
        shown.tick();
        true
    };
    let found = lake.warehouse.find_person(person, show).await;
    bar.finish_and_clear();
    found.map_err(|error| failed(&error))
}

/// Of all partitions that have rows of the person, several at once.
async fn erase_all(lake: &Lake, person: &Person, found: &[PersonalFiles], left: &mut Vec<String>) -> Erased {
    let bar = bar("{elapsed:>4} [{bar:32}] {bytes}/{total_bytes} {msg}");
    bar.set_length(found.iter().map(|found| found.bytes).sum());
    let all = Mutex::new((Erased::default(), Vec::new()));
    let one = async |found: &PersonalFiles| {
        bar.set_message(found.partition.to_string());
        let done = erase_one(lake, person, found, &bar).await;
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        match done {
            Ok(erased) => all.0.add(erased),
            Err(why) => all.1.push(format!("{}: {why}", found.partition)),
        }
    };
    stream::iter(found).for_each_concurrent(partitions_together(), one).await;
    bar.finish_and_clear();
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    left.append(&mut all.1);
    std::mem::take(&mut all.0)
}

/// Waits for a lease that is not over yet.
async fn erase_one(lake: &Lake, person: &Person, found: &PersonalFiles, bar: &ProgressBar) -> Result<Erased, String> {
    let (began, mut attempt) = (Instant::now(), 1);
    let told = Arc::new(AtomicU64::new(0));
    loop {
        let outcome = lake.warehouse.erase(&found.partition, &person.id, &lake.settings, shown_on(bar, &told)).await;
        match outcome.map_err(|error: WarehouseError| error.to_string())? {
            ErasureOutcome::Done(erased) => return Ok(erased),
            ErasureOutcome::Busy if began.elapsed() < BUSY_PATIENCE => tokio::time::sleep(BUSY_PAUSE).await,
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

fn text(receipt: &Receipt) -> String {
    let Receipt { lake, processes, .. } = receipt;
    let whose = match (&receipt.device_id, &receipt.user_id) {
        (Some(device), _) => format!("device {device}"),
        (None, user) => format!("user {}", user.as_deref().unwrap_or_default()),
    };
    let place = receipt.app_id.as_ref().map_or_else(|| "all apps".to_owned(), |app| format!("app {app}"));
    let mut text = format!(
        "erased               {whose} in {place}\nrequested            {}\nfinished             {}\nlake                 {} rows of {} files removed, in {} partitions; {} \
         files searched\n",
        receipt.requested_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        receipt.finished_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        HumanCount(lake.rows_removed),
        HumanCount(lake.files_replaced),
        HumanCount(lake.partitions),
        HumanCount(lake.files_searched),
    );
    match processes {
        None => text.push_str("bus and store        not asked\n"),
        Some(removed) => text.push_str(&format!(
            "bus                  {} events removed\ndead letters         {}\ndeliveries           {}\nanomaly records      {}\n",
            HumanCount(removed.events),
            HumanCount(removed.dead_letters),
            HumanCount(removed.deliveries),
            HumanCount(removed.anomaly_records)
        )),
    }
    let date = |at: Option<Timestamp>| {
        at.map_or_else(|| "never".to_owned(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    };
    text.push_str(&match lake.files_waiting {
        0 => "old files            gone\n".to_owned(),
        files => format!(
            "old files            {} stay for readers of older versions; a vacuum after {} removes the last\n",
            HumanCount(files),
            date(lake.old_files_gone_by)
        ),
    });
    if lake.files_replaced > 0 {
        text.push_str(&format!(
            "old commits          name ids at the bounds of replaced files; they go with the checkpoint after {}\n",
            date(lake.old_commits_gone_by)
        ));
    }
    text.push_str(if receipt.is_complete { "complete\n" } else { "not complete\n" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receipt_says_what_is_gone_and_when_the_rest_goes() {
        let at: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let lake = OfLake {
            rows_removed: 1_234,
            files_waiting: 2,
            files_replaced: 2,
            old_files_gone_by: Some(at),
            old_commits_gone_by: Some(at),
            ..OfLake::default()
        };
        let mut receipt = Receipt {
            device_id: Some("d".into()),
            user_id: None,
            app_id: None,
            requested_at: at,
            finished_at: at,
            processes: None,
            lake,
            is_complete: true,
            left: Vec::new(),
        };
        let shown = text(&receipt);
        for part in [
            "device d in all apps",
            "1,234 rows of 2 files",
            "not asked",
            "a vacuum after 2026-03-01T12:00:00Z",
            "\ncomplete\n",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        receipt.processes = Some(OfProcesses { events: 7, ..OfProcesses::default() });
        receipt.is_complete = false;
        let shown = text(&receipt);
        assert!(shown.contains("7 events removed") && shown.ends_with("not complete\n"), "{shown}");
    }
}
