//! Unreadable files and diverging clocks do not affect look-ups in other files.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message as _;

use super::fenced_writes::{Place, file, holds, id_of, name, partition, store};
use crate::event::EventRef;
use crate::event::proto::EventEnvelope;
use crate::event::proto::event_envelope::Payload;
use crate::warehouse::file::{footer, scan};
use crate::warehouse::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn set_time(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// A message is found in its file whatever the store's clock says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_may_be_hours_apart() {
    for place in Place::both() {
        for (n, time) in [(1, SystemTime::now() - 10 * HOUR), (2, SystemTime::now() + 10 * HOUR)] {
            let warehouse = place.open().await;
            let sequence = u64::from(n) * 100;
            store(&warehouse, n, sequence..sequence + 10).await;
            set_time(&place.directory().join(name(n)), time);
            assert!(holds(&warehouse, sequence + 5).await && !holds(&warehouse, sequence + 10).await);
        }
    }
}

/// If a recreated stream reuses sequences, so that the sequence sets of files overlap, the ids decide.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reused_sequences_are_distinguished_by_their_ids() {
    for place in Place::both() {
        let warehouse = place.open().await;
        for n in 0..20 {
            store(&warehouse, n, (0..50).map(move |row| row * 20 + u64::from(n))).await;
        }
        let footers = warehouse.footers(&partition()).await.unwrap().reaching(0, 999);
        let ours = |sequence: u64| RowId { sequence, id: id_of(sequence) };
        let anew = |sequence: u64| RowId { sequence, id: format!("anew-{sequence}") };
        let rows: Vec<RowId> = (0..1_000).flat_map(|sequence| [ours(sequence), anew(sequence)]).collect();
        let held = warehouse.confirm(footers, rows).await.unwrap();
        assert!(held.chunks(2).all(|pair| pair == [true, false]));
    }
}

/// The sequences and ids of a file, read as a look-up reads them.
fn looked_into(bytes: &[u8]) -> Result<(SequenceSet, Vec<String>), WarehouseError> {
    let bytes = Bytes::copy_from_slice(bytes);
    let sequences = footer::sequences(&footer::read(&bytes)?)?;
    let mut ids = Vec::new();
    scan::each_id(bytes, |id| ids.push(id.to_owned()))?;
    Ok((sequences, ids))
}

/// Damage to a single byte never yields other sequences or ids, nor a panic.
#[test]
fn each_damaged_byte_is_detected_or_harmless() {
    let whole = file(7..19);
    let right = looked_into(&whole).unwrap();
    let footer_bytes = u32::from_le_bytes(whole[whole.len() - 8..whole.len() - 4].try_into().unwrap()) as usize;
    let footer_start = whole.len() - 8 - footer_bytes;
    let column = footer::read(&whole).unwrap().row_group(0).column(0).byte_range();
    let ids = column.0 as usize..(column.0 + column.1) as usize;
    let (mut in_ids, mut in_footer) = (0, 0);
    for place in 0..whole.len() {
        for bit in [place % 8, (place + 3) % 8] {
            let mut damaged = whole.to_vec();
            damaged[place] ^= 1 << bit;
            match looked_into(&damaged) {
                Ok(found) => {
                    assert_eq!(found, right, "byte {place}");
                    in_ids += usize::from(ids.contains(&place));
                    in_footer += usize::from(place >= footer_start);
                }
                Err(error) => assert_eq!(error.kind, WarehouseErrorKind::Corrupt, "byte {place}: {error}"),
            }
        }
    }
    // The checksums do not cover the header of a page, nor the mark of the footer that it has a checksum.
    assert!(in_ids < 40 && in_footer < 80, "unnoticed in the ids {in_ids}, in the footer {in_footer}");
    for bytes in 0..whole.len() {
        let error = looked_into(&whole[..bytes]).unwrap_err();
        assert_eq!(error.kind, WarehouseErrorKind::Corrupt, "{bytes} bytes: {error}");
    }
}

/// Every page of every column has a checksum, and a reader that verifies them detects each damaged byte.
#[test]
fn pages_carry_checksums() {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let rows = |bytes: Bytes| -> Result<usize, String> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| error.to_string())?;
        let batches = builder.build().map_err(|error| error.to_string())?;
        batches.map(|batch| batch.map(|batch| batch.num_rows()).map_err(|error| error.to_string())).sum()
    };
    for compression in [Compression::Snappy, Compression::None, Compression::Zstd, Compression::Gzip] {
        let settings = EncodeSettings { compression, row_group_rows_max: 1_000, stream: "EVENTS".to_owned() };
        let mut encoder = Encoder::new(settings).unwrap();
        let mut open = encoder.open("shop");
        let event = |n: u64| EventEnvelope {
            id: id_of(n),
            app_id: "shop".to_owned(),
            payload: Some(Payload::UserLogin(Default::default())),
            ..Default::default()
        };
        for n in 1..=300 {
            let bytes = event(n).encode_to_vec();
            let origin = Origin { sequence: n, received_at_ms: n as i64 };
            encoder.push(&mut open, &EventRef::decode(&bytes).unwrap(), origin).unwrap();
        }
        let whole = encoder.finish(open, 1..=300).unwrap();
        assert_eq!(rows(whole.clone()), Ok(300));
        let metadata = footer::read(&whole).unwrap();
        for column in metadata.row_group(0).columns() {
            let (start, length) = column.byte_range();
            // The last byte of the chunk belongs to its last page.
            let mut damaged = whole.to_vec();
            damaged[(start + length - 1) as usize] ^= 0x10;
            let error = rows(damaged.into()).unwrap_err();
            assert!(error.contains("checksum"), "{compression:?} {:?}: {error}", column.column_path());
        }
    }
}

/// Makes the file at `path` unreadable.
fn spoil(path: &Path, how: &str) {
    let mut bytes = std::fs::read(path).unwrap();
    match how {
        "cut" => bytes.truncate(bytes.len() / 2),
        "emptied" => bytes.clear(),
        "flipped in the footer" => {
            let place = bytes.len() - 400;
            bytes[place] ^= 4;
        }
        "flipped in the ids" => {
            let (start, length) =
                footer::read(&Bytes::from(bytes.clone())).unwrap().row_group(0).column(0).byte_range();
            bytes[(start + length - 1) as usize] ^= 4;
        }
        "foreign" => bytes = b"PAR1 something else PAR1".to_vec(),
        _ => unreachable!("{how}"),
    }
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_reported_and_counts_as_empty() {
    for place in Place::both() {
        for how in ["cut", "emptied", "flipped in the footer", "flipped in the ids", "foreign"] {
            let warehouse = place.open().await;
            for n in 1..=3 {
                store(&warehouse, n, u64::from(n) * 10..u64::from(n) * 10 + 5).await;
            }
            let path = place.directory().join(name(2));
            spoil(&path, how);
            let spoilt = std::fs::read(&path).unwrap();
            std::fs::create_dir_all(place.directory().join("events_directory.parquet")).unwrap();
            for _ in 0..2 {
                let found = [holds(&warehouse, 12).await, holds(&warehouse, 22).await, holds(&warehouse, 32).await];
                assert_eq!(found, [true, false, true], "{how}");
            }
            let damage = warehouse.damage().unwrap();
            assert!(damage.starts_with("1 stored file cannot be read") && damage.contains(&name(2)), "{damage}");
            assert!(std::fs::read(&path).unwrap() == spoilt, "it is left as it is");
            // The warning ends when the file is removed or repaired.
            store(&warehouse, 2, 20..27).await;
            assert!(holds(&warehouse, 22).await, "{how}");
            assert_eq!(warehouse.damage(), None);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_does_not_block_fenced_writes() {
    for place in Place::both() {
        let (dead, other) = (place.open().await, place.open().await);
        let (write, spoilt) = (store(&dead, 5, 1..=100).await, store(&dead, 6, 200..=210).await);
        store(&other, 9, 71..=100).await;
        // An unreadable file that holds rows of the fenced write.
        store(&other, 8, 1..=10).await;
        for write in [&write, &spoilt, &FencedWrite { name: name(4), ..write.clone() }] {
            dead.mark_fenced_write(write).await.unwrap();
        }
        let mark = place.marks_directory().join(fenced::mark_name(&name(4)));
        std::fs::write(&mark, b"{\"app_id\":").unwrap();
        spoil(&place.directory().join(name(6)), "flipped in the ids");
        spoil(&place.directory().join(name(8)), "flipped in the footer");
        let abandoned = other.abandoned_fenced_writes(Duration::ZERO).await.unwrap();
        assert_eq!(abandoned.iter().map(|write| write.name.clone()).collect::<Vec<_>>(), [name(5), name(6)]);
        let outcome = other.reconcile_fenced_write(&abandoned[0], true).await.unwrap();
        assert_eq!(outcome, Reconciled::Replaced { removed: 30, kept: 70, duplicated: 0 });
        assert_eq!(other.reconcile_fenced_write(&abandoned[1], true).await.unwrap(), Reconciled::Unreadable);
        let damage = other.damage().unwrap();
        assert!(
            damage.starts_with("3 stored files") && damage.contains(&name(6)) && damage.contains(".late"),
            "{damage}"
        );
        assert_eq!(place.marks(), [fenced::mark_name(&name(4))], "a mark that cannot be read stays too");
    }
}

/// The age of a mark is measured by this process's clock, not by the store's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_age_by_the_local_clock() {
    for place in Place::both() {
        let (dead, other) = (place.open().await, place.open().await);
        for (n, time) in [(1, SystemTime::now() - 10 * HOUR), (2, SystemTime::now() + 10 * HOUR)] {
            let write = store(&dead, n, 1..=10).await;
            dead.mark_fenced_write(&write).await.unwrap();
            set_time(&place.marks_directory().join(fenced::mark_name(&write.name)), time);
        }
        assert!(other.abandoned_fenced_writes(HOUR).await.unwrap().is_empty(), "whoever put them may still live");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(other.abandoned_fenced_writes(Duration::from_millis(10)).await.unwrap().len(), 2);
        // Put again by a process that is alive.
        let mark = place.marks_directory().join(fenced::mark_name(&name(1)));
        set_time(&mark, SystemTime::now() - 9 * HOUR);
        assert_eq!(other.abandoned_fenced_writes(Duration::from_millis(10)).await.unwrap().len(), 1);
    }
}
