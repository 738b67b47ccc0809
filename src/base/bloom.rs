//! Split-block Bloom filters (Parquet format specification, "Bloom Filter"), for values that are hashed already.

/// A block has one bit of each value in each of its words.
type Block = [u32; 8];

pub const BLOCK_BYTES: usize = size_of::<Block>();

const SALTS: Block =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

#[derive(Debug, PartialEq)]
pub struct Filter(Vec<Block>);

impl Filter {
    /// An empty filter of so many blocks, at least one.
    pub fn new(blocks: usize) -> Self {
        Self(vec![[0; 8]; blocks.max(1)])
    }

    #[inline]
    pub fn insert(&mut self, hash: u64) {
        let (block, bits) = self.place(hash);
        self.0[block].iter_mut().zip(bits).for_each(|(word, bit)| *word |= bit);
    }

    /// False only if the value was not inserted.
    #[inline]
    pub fn may_contain(&self, hash: u64) -> bool {
        let (block, bits) = self.place(hash);
        self.0[block].iter().zip(bits).fold(0, |missing, (word, bit)| missing | (bit & !word)) == 0
    }

    #[inline]
    fn place(&self, hash: u64) -> (usize, Block) {
        let block = ((hash >> 32) * self.0.len() as u64) >> 32;
        (block as usize, SALTS.map(|salt| 1 << ((hash as u32).wrapping_mul(salt) >> 27)))
    }

    /// The words of the blocks, little endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flatten().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// `None` if the bytes are no filter.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, no_odd) = bytes.as_chunks::<4>();
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let (blocks, no_part) = words.as_chunks();
        (no_odd.is_empty() && no_part.is_empty() && !blocks.is_empty()).then(|| Self(blocks.to_vec()))
    }
}
