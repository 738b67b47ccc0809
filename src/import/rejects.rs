//! Writes rejected rows with their reasons as JSON lines, to be corrected and imported again.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::settings::Settings;
use super::validate::ValidatedChunk;

pub(super) struct Rejects {
    path: PathBuf,
    /// Created with the first rejected row.
    file: Option<BufWriter<File>>,
    rows: u64,
}

#[derive(Serialize)]
struct Reject<'a> {
    /// From 1. The header of a CSV file does not count.
    row: u64,
    errors: Vec<RejectReason<'a>>,
    /// The row as in the file; for CSV and Parquet the JSON it was converted to.
    text: &'a str,
}

#[derive(Serialize)]
struct RejectReason<'a> {
    pointer: &'a str,
    detail: &'a str,
}

#[derive(Deserialize)]
struct WrittenRow {
    row: u64,
}

impl Rejects {
    /// Keeps the rejects of an earlier import of the file, up to the rows it has committed.
    pub(super) fn open(path: &Path, settings: &Settings, done_before: u64) -> Result<Self> {
        let default_path = || {
            let mut name = if path == Path::new("-") { OsString::from("stdin") } else { path.as_os_str().to_owned() };
            name.push(".rejects.jsonl");
            PathBuf::from(name)
        };
        let path = settings.rejects.clone().unwrap_or_else(default_path);
        let mut rejects = Self { path, file: None, rows: 0 };
        if done_before > 0 && !settings.dry_run {
            rejects.resume(done_before).with_context(|| format!("cannot go on with {}", rejects.path.display()))?;
        }
        Ok(rejects)
    }

    fn resume(&mut self, done_before: u64) -> Result<()> {
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let (mut lines, mut line, mut end) = (BufReader::new(&file), String::new(), 0);
        while lines.read_line(&mut line)? > 0 {
            let is_done = serde_json::from_str::<WrittenRow>(&line).is_ok_and(|written| written.row <= done_before);
            if !is_done || !line.ends_with('\n') {
                break;
            }
            (end, self.rows) = (end + line.len() as u64, self.rows + 1);
            line.clear();
        }
        drop(lines);
        file.set_len(end)?;
        let mut file = file;
        file.seek(SeekFrom::End(0))?;
        self.file = Some(BufWriter::new(file));
        Ok(())
    }

    pub(super) fn add(&mut self, validated: &ValidatedChunk) -> Result<()> {
        for (rejected, text) in validated.rejected() {
            let text = String::from_utf8_lossy(text.trim_ascii());
            let errors =
                rejected.errors.iter().map(|error| RejectReason { pointer: &error.pointer, detail: &error.detail });
            let errors = errors.collect();
            let reject = Reject { row: rejected.row, errors, text: &text };
            let mut line = serde_json::to_vec(&reject)?;
            line.push(b'\n');
            let written = match &mut self.file {
                Some(file) => file.write_all(&line),
                None => File::create(&self.path).and_then(|file| {
                    let file = self.file.insert(BufWriter::new(file));
                    file.write_all(&line)
                }),
            };
            written.with_context(|| format!("cannot write {}", self.path.display()))?;
            self.rows += 1;
        }
        Ok(())
    }

    /// Call before the chunk is committed: its rows are never read again after that.
    pub(super) fn sync(&mut self) -> Result<()> {
        if let Some(file) = &mut self.file {
            let synced = file.flush().and_then(|()| file.get_ref().sync_data());
            synced.with_context(|| format!("cannot write {}", self.path.display()))?;
        }
        Ok(())
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns the path if any row was rejected.
    pub(super) fn finish(mut self) -> Result<Option<PathBuf>> {
        self.sync()?;
        Ok((self.rows > 0).then_some(self.path))
    }
}
