//! Compaction of one partition against copying its row groups unchanged: MB/s of input, bytes before and after, memory.
//!
//! `COMPACTION_FILES` files of `COMPACTION_ROWS` rows each, in a temporary directory below `COMPACTION_DIR`;
//! `COMPACTION_CODEC` and `COMPACTION_INTO` are the codecs before and after.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use causality::base::settings::Setting as _;
use causality::event::EventRef;
use causality::warehouse::{
    CompactionOutcome, CompactionSettings, Compression, DeltaSettings, EncodeSettings, Encoder, Origin, Partition,
    Warehouse,
};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use prost::Message;

mod shop;

const TARGET_BYTES: u64 = 128 << 20;
/// Each of the two is measured so many times, in turn; the best counts.
const ROUNDS: usize = 3;
const COMMIT_FILES: usize = 200;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn codec(name: &str) -> Compression {
    std::env::var(name).map_or(Compression::Snappy, |text| Compression::parse(&text).expect("a codec"))
}

fn partition() -> Partition {
    Partition { app_id: "shop".to_owned(), hour: 1_767_225_600_000 / 3_600_000 }
}

fn main() {
    let (files, rows) = (number("COMPACTION_FILES", 200), number("COMPACTION_ROWS", 5_000));
    let base = std::env::var_os("COMPACTION_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    let (mut compaction, mut copying) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir_in(&base).expect("directory");
        let warehouse = runtime.block_on(fill(dir.path(), files, rows));
        let inputs = data_files(&dir.path().join(partition().to_string()));
        let bytes = sizes(&inputs);
        // Both read what is in the page cache.
        inputs.iter().for_each(|path| drop(std::fs::read(path).expect("read")));
        let copied = copy(&inputs, &dir.path().join("copies"));
        copying = copying.min(copied.as_secs_f64());
        forget_peak();
        let before = memory("VmRSS:");
        let began = Instant::now();
        runtime.block_on(compact(&warehouse));
        let elapsed = began.elapsed();
        compaction = compaction.min(elapsed.as_secs_f64());
        let outputs = data_files(&dir.path().join(partition().to_string()));
        let (after, events) = (sizes(&outputs), (files * rows) as f64);
        println!(
            "{files} files, {:.1} MB, {:.1} bytes an event -> {} files, {:.1} MB, {:.1} bytes an event ({:.1} %)",
            mb(bytes),
            bytes as f64 / events,
            outputs.len(),
            mb(after),
            after as f64 / events,
            after as f64 / bytes as f64 * 100.0
        );
        println!(
            "compaction {:.1} MB/s, copying {:.1} MB/s; resident {} MB before, {} MB at most",
            mb(bytes) / elapsed.as_secs_f64(),
            mb(bytes) / copied.as_secs_f64(),
            before >> 10,
            memory("VmHWM:") >> 10
        );
    }
    println!("compaction at {:.1} % of the speed of copying", copying / compaction * 100.0);
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// A lake as the sink makes it.
async fn fill(root: &Path, files: usize, rows: usize) -> Warehouse {
    let warehouse = Warehouse::open_local(root.to_owned()).expect("warehouse");
    let log = DeltaSettings { retention: Duration::from_secs(86_400) };
    let warehouse = warehouse.keep_log(log).await.expect("log");
    let settings =
        EncodeSettings { compression: codec("COMPACTION_CODEC"), row_group_rows_max: 122_880, stream: "EVENTS".into() };
    let mut encoder = Encoder::new(settings).expect("encoder");
    let (mut random, mut waiting) = (shop::Random(42), Vec::new());
    for file in 0..files {
        let mut open = encoder.open("shop");
        let sequences = (file * rows) as u64 + 1..=((file + 1) * rows) as u64;
        for sequence in sequences.clone() {
            let event = shop::event(sequence, &mut random).encode_to_vec();
            let origin = Origin { sequence, received_at_ms: 1_767_225_600_000 };
            encoder.push(&mut open, &EventRef::decode(&event).expect("decode"), origin).expect("push");
        }
        let (bytes, name) = (encoder.finish(open, sequences).expect("finish"), Warehouse::new_file_name());
        warehouse.store(&partition(), &name, bytes.clone(), || true).await.expect("store");
        waiting.push((partition(), name, bytes));
        if waiting.len() == COMMIT_FILES || file + 1 == files {
            let commit = warehouse.begin_commit(std::mem::take(&mut waiting)).await.expect("begin");
            commit.expect("a log").ensure_committed().await.expect("commit");
        }
    }
    warehouse
}

async fn compact(warehouse: &Warehouse) {
    let settings = CompactionSettings {
        target_bytes: TARGET_BYTES,
        files_min: 2,
        age_min: Duration::ZERO,
        keep_replaced: false,
        compression: codec("COMPACTION_INTO"),
        row_group_rows: 122_880,
        scratch: PathBuf::new(),
    };
    let outcome = warehouse.compact(&partition(), &settings, |_| true).await.expect("compact");
    assert!(matches!(outcome, CompactionOutcome::Done(_)), "{outcome:?}");
}

fn data_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("list").map(|entry| entry.expect("entry").path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "parquet")).collect();
    files.sort();
    files
}

fn sizes(files: &[PathBuf]) -> u64 {
    files.iter().map(|path| path.metadata().expect("metadata").len()).sum()
}

/// Row groups as they are into files of the target size, durably.
fn copy(inputs: &[PathBuf], directory: &Path) -> Duration {
    std::fs::create_dir_all(directory).expect("directory");
    let began = Instant::now();
    let (mut writer, mut outputs): (Option<SerializedFileWriter<File>>, usize) = (None, 0);
    for path in inputs {
        let input = File::open(path).expect("open");
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&input).expect("footer");
        let schema = metadata.file_metadata().schema_descr().root_schema_ptr();
        let out = writer.get_or_insert_with(|| {
            outputs += 1;
            let file = File::create(directory.join(format!("{outputs}.parquet"))).expect("create");
            SerializedFileWriter::new(file, schema, WriterProperties::builder().build().into()).expect("writer")
        });
        for group in metadata.row_groups() {
            let mut copied = out.next_row_group().expect("row group");
            for column in group.columns() {
                let close = ColumnCloseResult {
                    bytes_written: column.compressed_size() as u64,
                    rows_written: group.num_rows() as u64,
                    metadata: column.clone(),
                    bloom_filter: None,
                    column_index: None,
                    offset_index: None,
                };
                copied.append_column(&input, close).expect("copy");
            }
            copied.close().expect("close");
        }
        if out.bytes_written() as u64 >= TARGET_BYTES {
            writer.take().into_iter().for_each(finish);
        }
    }
    writer.into_iter().for_each(finish);
    began.elapsed()
}

fn finish(writer: SerializedFileWriter<File>) {
    writer.into_inner().expect("finish").sync_all().expect("sync");
}

/// KiB.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or_default()
}

/// What was resident at most begins anew.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
