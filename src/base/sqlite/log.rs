//! Tells a damaged write-ahead log from one with a torn tail, before SQLite opens it.
//!
//! SQLite recovers a log up to the last commit in front of the first frame that does not verify, and silently
//! forgets the rest: right after a crash, wrong after a flipped bit. Here the frames behind the first bad one
//! are read too. Damage is proven when
//!
//! - a frame behind it continues a commit: with `synchronous=FULL` a transaction is written only once the one
//!   before it is on the disk;
//! - the bad frame is right but for one bit (or for its salts), and its transaction is complete otherwise: a torn
//!   write loses whole sectors;
//! - the index beside the log (`-shm`, which a killed process leaves behind) counts more committed frames;
//! - the header does not verify, although frames follow: it is synced before the first of them is written.
//!
//! What a log is cut off at decides whether the rest of it may be laid over the database. A checkpoint may have copied
//! frames behind that place; then the log that is left holds older pages than the file, and SQLite would prefer them.
//!
//! Invariant: what a crash or a power cut leaves behind is not called damage (but for a sector that was not written and
//! held, by chance, the same bytes except for one bit). Reads only; the format is that of
//! <https://sqlite.org/fileformat2.html#walformat>. Knows nothing of what the pages hold.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Bytes of the log's header, and of a frame's.
const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// The last bit says whether checksums are over big-endian words.
const MAGIC: u32 = 0x377f_0682;
const READ_BYTES: usize = 256 << 10;
/// Bytes of one copy of the index's header; two copies follow one another, and then what checkpoints have done.
const INDEX_HEADER_BYTES: usize = 48;
/// Where the number of frames that are in the database is, and of those that a checkpoint began to copy.
const COPIED_AT: usize = INDEX_HEADER_BYTES * 2;
const ATTEMPTED_AT: usize = COPIED_AT + 32;
const INDEX_BYTES: usize = ATTEMPTED_AT + 4;
const INDEX_VERSION: u32 = 3_007_000;

/// What a log is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// SQLite recovers all that was committed, as far as can be seen.
    Sound { frames: u64 },
    /// The log was cut off: it ends before frames that were committed. The rest of it and the database fit together.
    CutOff { frames: u64, committed: u64 },
    /// Committed frames are damaged, or are gone and what is left does not fit together.
    Damaged(Damage),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// Where the first bad frame begins; what is in front of it is whole.
    pub(super) offset: u64,
    pub(super) proof: &'static str,
    pub(super) remedy: Remedy,
}

/// What is left to do without a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// To cut the log off where the damage begins: the database has taken in nothing from behind it.
    CutOff,
    /// The same, but whether the database has is not known.
    CutOffBlindly,
    /// To remove the log: all that it held is in the database.
    RemoveLog,
    /// Nothing: the database has taken in some pages of what is damaged and not others. A checkpoint leaves out those
    /// that the log holds later versions of.
    None,
}

/// The file beside a database with this ending.
pub(super) fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Reads the log of a database that nobody has open. What it finds is on the disk afterwards: of a process that was
/// killed between a write and its sync, SQLite recovers what a power cut could still take away.
pub(super) fn examine(database: &Path) -> io::Result<Verdict> {
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

/// Without a log, or with an empty one: what the index counts and no checkpoint has copied is lost.
fn gone(index: Option<Index>) -> Verdict {
    let Some(index) = index.filter(|index| index.frames > index.copied) else { return Verdict::Sound { frames: 0 } };
    match index.reached() {
        0 => Verdict::CutOff { frames: 0, committed: u64::from(index.frames) },
        _ => Verdict::Damaged(Damage { offset: 0, proof: "it is gone", remedy: Remedy::None }),
    }
}

/// What to do with a log of which so many frames are left.
fn remedy(index: Option<Index>, salts: [u8; 8], frames: u64) -> Remedy {
    match index {
        Some(index) if index.salts == salts && index.reached() <= frames => Remedy::CutOff,
        Some(index) if index.salts == salts && index.copied == index.frames => Remedy::RemoveLog,
        Some(index) if index.salts == salts => Remedy::None,
        // The log was about to start over, all of it being in the database.
        Some(index) if index.frames == 0 => Remedy::RemoveLog,
        Some(_) | None => Remedy::CutOffBlindly,
    }
}

pub(super) fn walk(mut log: impl Read, bytes: u64, index: Option<Index>) -> io::Result<Verdict> {
    let mut header = [0; HEADER_BYTES];
    if bytes < HEADER_BYTES as u64 {
        return Ok(gone(index));
    }
    log.read_exact(&mut header)?;
    let Some(format) = Format::read(&header) else {
        return Ok(match holds_anything(log)? {
            true => {
                let remedy = index.map_or(Remedy::CutOffBlindly, |index| remedy(Some(index), index.salts, 0));
                Verdict::Damaged(Damage { offset: 0, proof: "its header does not verify", remedy })
            }
            false => Verdict::Sound { frames: 0 },
        });
    };
    let frame_bytes = (FRAME_HEADER_BYTES + format.page_bytes) as u64;
    let present = (bytes - HEADER_BYTES as u64) / frame_bytes;
    let mut walk = Walk::new(format);
    let mut frame = vec![0; frame_bytes as usize];
    for number in 0..present {
        log.read_exact(&mut frame)?;
        if let Some(proof) = walk.step(number, &frame) {
            return Ok(Verdict::Damaged(walk.damage(frame_bytes, proof, index)));
        }
    }
    let frames = walk.committed;
    let counted = index.filter(|index| index.salts == format.salts).map_or(0, |index| u64::from(index.frames));
    if counted <= frames {
        return Ok(Verdict::Sound { frames });
    }
    let proof = match counted > present {
        true if remedy(index, format.salts, frames) == Remedy::CutOff => {
            return Ok(Verdict::CutOff { frames, committed: counted });
        }
        true => "it ends there, and the database has taken in more of it",
        false => "its index counts more committed frames",
    };
    Ok(Verdict::Damaged(walk.damage(frame_bytes, proof, index)))
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

/// What the header says of all frames.
#[derive(Clone, Copy, Debug)]
struct Format {
    big_endian: bool,
    page_bytes: usize,
    salts: [u8; 8],
    /// What the checksum of the first frame goes on from.
    seed: Sum,
}

impl Format {
    /// None when it does not verify: SQLite takes such a log for an empty one.
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

/// The frames as they come, with what has been learned of them.
struct Walk {
    format: Format,
    /// The checksum that the next frame goes on from.
    seed: Sum,
    /// Another one that it may go on from: of a bad frame, what it says and what it holds give two.
    other_seed: Sum,
    /// Frames up to the last commit in front of the first bad one.
    committed: u64,
    /// The first bad frame.
    bad: Option<u64>,
    /// One bit is wrong in the bad frame, and all that follow it verify.
    whole_but_one_bit: bool,
    /// The frame before this one says that it is a commit.
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

    /// Takes the next frame; answers what it proves of the first bad one.
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

/// Whether a frame was a commit before one bit of it changed; none when it differs in more.
fn repair(frame: &[u8], format: &Format, sum: Sum, stored: Sum) -> Option<bool> {
    let is_commit = frame[4..8] != [0; 4];
    if frame[8..16] != format.salts {
        // The salts are the one thing that the checksum does not cover.
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
    // Which bit it was is not always clear, since a high one makes the same difference in several places: in the
    // checksum itself, or in any word that it covers. What one of these adds, those behind it multiply.
    let wrong = (u64::from(sum.0 ^ stored.0) << 32) | u64::from(sum.1 ^ stored.1);
    let mut found = wrong.is_power_of_two();
    let mut excess = Sum(sum.0.wrapping_sub(stored.0), sum.1.wrapping_sub(stored.1));
    for pair in frame[FRAME_HEADER_BYTES..].as_chunks::<8>().0.iter().rev() {
        found |= change(excess, pair).is_some();
        excess = Sum(excess.0.wrapping_mul(2).wrapping_sub(excess.1), excess.1.wrapping_sub(excess.0));
    }
    let head = frame.first_chunk()?;
    let in_head = change(excess, head);
    // The second word is the size of the database, and 0 unless the frame is a commit.
    let was_commit = matches!(in_head, Some((4, bit)) if words(head, format.big_endian).1 != 1 << bit);
    (found || in_head.is_some()).then_some(is_commit || was_commit)
}

/// The bit whose change made `word` larger by `excess`.
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

/// What the index of a log counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Index {
    /// Committed, and thus synced, frames.
    frames: u32,
    /// Those of them that are in the database.
    copied: u32,
    /// Of those up to here any may be in it.
    attempted: u32,
    salts: [u8; 8],
}

impl Index {
    /// Frames up to here may be in the database.
    fn reached(&self) -> u64 {
        u64::from(self.copied.max(self.attempted))
    }

    /// None when there is none, or none that verifies: it is never synced.
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
