//! Distinguishes a damaged write-ahead log from one with a torn tail, before SQLite opens it.
//!
//! SQLite recovers a log up to the last commit before the first frame that does not verify, and silently drops the rest.
//! That is right after a crash and wrong after a flipped bit. This module reads the frames after the first bad one too.
//! Any of these proves damage:
//!
//! - A later frame continues after a commit. With `synchronous=FULL` a transaction is written only when the previous one
//!   is on disk.
//! - The bad frame differs in one bit (or in its salts), and its transaction is complete otherwise. A torn write loses
//!   whole sectors.
//! - The index beside the log (`-shm`, which a killed process leaves behind) counts more committed frames.
//! - The header does not verify although frames follow. It is synced before the first frame is written.
//!
//! Where a log is truncated decides whether the rest may be applied to the database. A checkpoint may have copied later
//! frames already; the rest of the log then holds older pages than the file, and SQLite would prefer them.
//!
//! Invariant: the leftovers of a crash or a power cut never count as damage (except for a sector that was not written and
//! happened to hold the same bytes but for one bit). Read-only. The format is documented at
//! <https://sqlite.org/fileformat2.html#walformat>. Knows nothing of the content of the pages.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The sizes of the header of the log and of a frame.
const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// The last bit selects checksums over big-endian words.
const MAGIC: u32 = 0x377f_0682;
const READ_BYTES: usize = 256 << 10;
/// The size of one copy of the index header. Two copies follow each other, then the state of checkpoints.
const INDEX_HEADER_BYTES: usize = 48;
/// The offset of the number of frames that a checkpoint has copied, and of the number that it may have begun to copy.
const COPIED_AT: usize = INDEX_HEADER_BYTES * 2;
const ATTEMPTED_AT: usize = COPIED_AT + 32;
const INDEX_BYTES: usize = ATTEMPTED_AT + 4;
const INDEX_VERSION: u32 = 3_007_000;

/// The state of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LogState {
    /// SQLite recovers every commit, as far as one can see.
    Sound { frames: u64 },
    /// The log ends before frames that were committed. The rest of it and the database are consistent.
    Truncated { frames: u64, committed: u64 },
    /// Committed frames are damaged, or are missing and the rest is inconsistent.
    Damaged(Damage),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// The offset of the first bad frame. Everything before it is intact.
    pub(super) offset: u64,
    pub(super) proof: &'static str,
    pub(super) remedy: Remedy,
}

/// What an operator without a snapshot can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Truncate the log where the damage begins: the database contains no later frame.
    Truncate,
    /// Truncate it, without knowing whether the database contains later frames.
    TruncateUnverified,
    /// Remove the log: the database contains all of it.
    RemoveLog,
    /// Nothing: the database contains some pages of the damaged part and not others. A checkpoint skips pages of which
    /// the log holds later versions.
    None,
}

/// The file beside a database with the given suffix.
pub(super) fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Reads the log of a database that no process has open, after syncing it: if a process was killed between a write and
/// its sync, SQLite would recover frames that a power cut could still take away.
pub(super) fn examine(database: &Path) -> io::Result<LogState> {
    let index = Index::read(&beside(database, "-shm"))?;
    let file = match File::open(beside(database, "-wal")) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(gone(index)),
        Err(error) => return Err(error),
    };
    file.sync_data()?;
    let bytes = file.metadata()?.len();
    walk(BufReader::with_capacity(READ_BYTES, file), bytes, index)
}

/// The state without a log, or with an empty one: frames that the index counts and no checkpoint copied are lost.
fn gone(index: Option<Index>) -> LogState {
    let Some(index) = index.filter(|index| index.frames > index.copied) else { return LogState::Sound { frames: 0 } };
    match index.reached() {
        0 => LogState::Truncated { frames: 0, committed: u64::from(index.frames) },
        _ => LogState::Damaged(Damage { offset: 0, proof: "it is gone", remedy: Remedy::None }),
    }
}

/// The remedy for a log of which `frames` frames are left.
fn remedy(index: Option<Index>, salts: [u8; 8], frames: u64) -> Remedy {
    match index {
        Some(index) if index.salts == salts && index.reached() <= frames => Remedy::Truncate,
        Some(index) if index.salts == salts && index.copied == index.frames => Remedy::RemoveLog,
        Some(index) if index.salts == salts => Remedy::None,
        // The log was about to start over because the database contains all of it.
        Some(index) if index.frames == 0 => Remedy::RemoveLog,
        Some(_) | None => Remedy::TruncateUnverified,
    }
}

pub(super) fn walk(mut log: impl Read, bytes: u64, index: Option<Index>) -> io::Result<LogState> {
    let mut header = [0; HEADER_BYTES];
    if bytes < HEADER_BYTES as u64 {
        return Ok(gone(index));
    }
    log.read_exact(&mut header)?;
    let Some(format) = Format::read(&header) else {
        return Ok(match holds_anything(log)? {
            true => {
                let remedy = index.map_or(Remedy::TruncateUnverified, |index| remedy(Some(index), index.salts, 0));
                LogState::Damaged(Damage { offset: 0, proof: "its header does not verify", remedy })
            }
            false => LogState::Sound { frames: 0 },
        });
    };
    let frame_bytes = (FRAME_HEADER_BYTES + format.page_bytes) as u64;
    let present = (bytes - HEADER_BYTES as u64) / frame_bytes;
    let mut walk = Walk::new(format);
    let mut frame = vec![0; frame_bytes as usize];
    for number in 0..present {
        log.read_exact(&mut frame)?;
        if let Some(proof) = walk.step(number, &frame) {
            return Ok(LogState::Damaged(walk.damage(frame_bytes, proof, index)));
        }
    }
    let frames = walk.committed;
    let counted = index.filter(|index| index.salts == format.salts).map_or(0, |index| u64::from(index.frames));
    if counted <= frames {
        return Ok(LogState::Sound { frames });
    }
    let proof = match counted > present {
        true if remedy(index, format.salts, frames) == Remedy::Truncate => {
            return Ok(LogState::Truncated { frames, committed: counted });
        }
        true => "it ends there, and the database has taken in more of it",
        false => "its index counts more committed frames",
    };
    Ok(LogState::Damaged(walk.damage(frame_bytes, proof, index)))
}

fn holds_anything(mut log: impl Read) -> io::Result<bool> {
    let mut some = vec![0; READ_BYTES];
    loop {
        match log.read(&mut some)? {
            0 => return Ok(false),
            count if some[..count].iter().any(|byte| *byte != 0) => return Ok(true),
            _ => {}
        }
    }
}

/// The properties that all frames share, from the header.
#[derive(Clone, Copy, Debug)]
struct Format {
    big_endian: bool,
    page_bytes: usize,
    salts: [u8; 8],
    /// The checksum that the first frame continues.
    seed: Sum,
}

impl Format {
    /// `None` if it does not verify. SQLite treats such a log as empty.
    fn read(header: &[u8; HEADER_BYTES]) -> Option<Self> {
        let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (magic, page_bytes) = (word(0), word(8) as usize);
        if magic & !1 != MAGIC || !page_bytes.is_power_of_two() || !(512..=65_536).contains(&page_bytes) {
            return None;
        }
        let big_endian = magic & 1 == 1;
        let seed = Sum::default().over(&header[..24], big_endian);
        let salts = *header[16..].first_chunk()?;
        (seed == Sum(word(24), word(28))).then_some(Self { big_endian, page_bytes, salts, seed })
    }
}

/// SQLite's running checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum(u32, u32);

impl Sum {
    #[inline]
    fn over(mut self, bytes: &[u8], big_endian: bool) -> Self {
        for pair in bytes.as_chunks::<8>().0 {
            let (first, second) = words(pair, big_endian);
            self.0 = self.0.wrapping_add(first).wrapping_add(self.1);
            self.1 = self.1.wrapping_add(second).wrapping_add(self.0);
        }
        self
    }
}

#[inline]
fn words(pair: &[u8; 8], big_endian: bool) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = *pair;
    match big_endian {
        true => (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])),
        false => (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])),
    }
}

/// The state of the walk over the frames.
struct Walk {
    format: Format,
    /// The checksum that the next frame continues.
    seed: Sum,
    /// An alternative: a bad frame yields its stored and its computed checksum.
    other_seed: Sum,
    /// The number of frames up to the last commit before the first bad one.
    committed: u64,
    /// The first bad frame.
    bad: Option<u64>,
    /// The bad frame differs in one bit, and all later frames verify.
    whole_but_one_bit: bool,
    /// The previous frame is marked as a commit.
    after_commit: bool,
}

impl Walk {
    fn new(format: Format) -> Self {
        Self {
            format,
            seed: format.seed,
            other_seed: format.seed,
            committed: 0,
            bad: None,
            whole_but_one_bit: false,
            after_commit: false,
        }
    }

    fn damage(&self, frame_bytes: u64, proof: &'static str, index: Option<Index>) -> Damage {
        let offset = HEADER_BYTES as u64 + self.bad.unwrap_or(self.committed) * frame_bytes;
        Damage { offset, proof, remedy: remedy(index, self.format.salts, self.committed) }
    }

    /// Takes the next frame. Returns the proof that the first bad frame is damaged, if this frame gives one.
    fn step(&mut self, number: u64, frame: &[u8]) -> Option<&'static str> {
        let (head, page) = frame.split_at(FRAME_HEADER_BYTES);
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (page_number, is_commit, stored) = (word(0), word(4) != 0, Sum(word(16), word(20)));
        let big_endian = self.format.big_endian;
        let computed = |seed: Sum| seed.over(&head[..8], big_endian).over(page, big_endian);
        let salted = head[8..16] == self.format.salts;
        if self.bad.is_none() {
            let sum = computed(self.seed);
            if salted && page_number != 0 && sum == stored {
                self.seed = sum;
                if is_commit {
                    self.committed = number + 1;
                }
                return None;
            }
            let was_commit = repair(frame, &self.format, sum, stored);
            self.bad = Some(number);
            self.whole_but_one_bit = was_commit.is_some();
            self.after_commit = was_commit.unwrap_or(is_commit);
            (self.seed, self.other_seed) = (stored, sum);
            return (self.whole_but_one_bit && self.after_commit).then_some("one bit of it is wrong");
        }
        let follows = |seed| computed(seed) == stored;
        let linked = salted
            && page_number != 0
            && (follows(self.seed) || (self.other_seed != self.seed && follows(self.other_seed)));
        if linked && self.after_commit {
            return Some("a later transaction follows it");
        }
        self.whole_but_one_bit &= linked;
        if self.whole_but_one_bit && is_commit {
            return Some("one bit of it is wrong");
        }
        (self.seed, self.other_seed, self.after_commit) = (stored, stored, is_commit);
        None
    }
}

/// Whether a frame was a commit before one bit of it flipped. `None` if it differs in more than one bit.
fn repair(frame: &[u8], format: &Format, sum: Sum, stored: Sum) -> Option<bool> {
    let is_commit = frame[4..8] != [0; 4];
    if frame[8..16] != format.salts {
        // The checksum does not cover the salts.
        return (sum == stored).then_some(is_commit);
    }
    let change = |excess: Sum, pair: &[u8; 8]| {
        let (first, second) = words(pair, format.big_endian);
        match excess {
            Sum(0, by) => flipped(second, by).map(|bit| (4, bit)),
            Sum(by, again) if by == again => flipped(first, by).map(|bit| (0, bit)),
            _ => None,
        }
    };
    // The position of the bit is ambiguous: a high bit makes the same difference in several places, in the checksum itself
    // or in any word that it covers. The words after a changed one multiply its contribution.
    let wrong = (u64::from(sum.0 ^ stored.0) << 32) | u64::from(sum.1 ^ stored.1);
    let mut found = wrong.is_power_of_two();
    let mut excess = Sum(sum.0.wrapping_sub(stored.0), sum.1.wrapping_sub(stored.1));
    for pair in frame[FRAME_HEADER_BYTES..].as_chunks::<8>().0.iter().rev() {
        found |= change(excess, pair).is_some();
        excess = Sum(excess.0.wrapping_mul(2).wrapping_sub(excess.1), excess.1.wrapping_sub(excess.0));
    }
    let head = frame.first_chunk()?;
    let in_head = change(excess, head);
    // The second word is the size of the database after a commit, and 0 in any other frame.
    let was_commit = matches!(in_head, Some((4, bit)) if words(head, format.big_endian).1 != 1 << bit);
    (found || in_head.is_some()).then_some(is_commit || was_commit)
}

/// The bit whose flip increased `word` by `excess`.
fn flipped(word: u32, excess: u32) -> Option<u32> {
    let added = excess.is_power_of_two() && word & excess != 0;
    let removed = excess.wrapping_neg();
    if added {
        Some(excess.trailing_zeros())
    } else if removed.is_power_of_two() && word & removed == 0 {
        Some(removed.trailing_zeros())
    } else {
        None
    }
}

/// The counters in the index of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Index {
    /// The number of committed, and therefore synced, frames.
    frames: u32,
    /// The number of those that the database contains.
    copied: u32,
    /// The database may contain any of the frames up to here.
    attempted: u32,
    salts: [u8; 8],
}

impl Index {
    /// The last frame that the database may contain.
    fn reached(&self) -> u64 {
        u64::from(self.copied.max(self.attempted))
    }

    /// `None` without an index, or with one that does not verify: SQLite never syncs it.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut bytes = [0; INDEX_BYTES];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
        match read {
            Ok(()) => Ok(Self::parse(&bytes)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn parse(bytes: &[u8; INDEX_BYTES]) -> Option<Self> {
        let (header, rest) = bytes.split_at(INDEX_HEADER_BYTES);
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let sum = Sum::default().over(&header[..40], cfg!(target_endian = "big"));
        let whole = sum == Sum(word(40), word(44)) && header == &rest[..INDEX_HEADER_BYTES];
        let known = word(0) == INDEX_VERSION && header[12] == 1;
        let salts = *header[32..].first_chunk()?;
        (whole && known).then(|| Self {
            frames: word(16),
            copied: word(COPIED_AT),
            attempted: word(ATTEMPTED_AT),
            salts,
        })
    }
}
