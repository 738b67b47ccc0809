//! Decodes the frames of a zstd body (RFC 8878 §3.1) as they arrive.
//!
//! libzstd checks the declared content size of a frame only on some of its code paths: a frame that ends in an empty
//! block passes when it arrives in pieces and fails when it arrives whole. The result must not depend on packet
//! boundaries, so the size is checked here.

use std::io::{self, Write};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::get_frame_content_size;

/// The largest window as a power of two: the size that RFC 9659 requires of every decoder.
pub(crate) const WINDOW_LOG_MAX: u32 = 23;
/// The maximum size of a frame header.
const HEADER_BYTES_MAX: usize = 18;
const BUFFER_BYTES: usize = 32 * 1024;

pub(crate) struct ZstdFrames<W> {
    decoder: Decoder<'static>,
    output: W,
    buffer: Vec<u8>,
    /// The first bytes of the current frame.
    header: Vec<u8>,
    /// Bytes decoded from the current frame.
    content_bytes: u64,
    /// No frame is open, and at least one was read.
    is_complete: bool,
}

impl<W: Write> ZstdFrames<W> {
    pub(crate) fn new(output: W) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        let header = Vec::with_capacity(HEADER_BYTES_MAX);
        Ok(Self { decoder, output, buffer: vec![0; BUFFER_BYTES], header, content_bytes: 0, is_complete: false })
    }

    pub(crate) fn write_all(&mut self, coded: &[u8]) -> io::Result<()> {
        let mut input = InBuffer::around(coded);
        loop {
            if self.is_complete {
                if input.pos == coded.len() {
                    return Ok(());
                }
                self.start_frame()?;
            }
            let start = input.pos;
            let mut output = OutBuffer::around(self.buffer.as_mut_slice());
            let needed = self.decoder.run(&mut input, &mut output)?;
            let count = output.pos();
            let header_rest = HEADER_BYTES_MAX - self.header.len();
            self.header.extend(coded[start..input.pos].iter().take(header_rest));
            self.output.write_all(&self.buffer[..count])?;
            self.content_bytes += count as u64;
            if needed == 0 {
                self.end_frame()?;
            } else if input.pos == coded.len() && count < BUFFER_BYTES {
                return Ok(());
            }
        }
    }

    /// Fails if the last frame is incomplete.
    pub(crate) fn finish(&self) -> io::Result<()> {
        if self.is_complete { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    pub(crate) fn get_mut(&mut self) -> &mut W {
        &mut self.output
    }

    fn start_frame(&mut self) -> io::Result<()> {
        self.decoder.reinit()?;
        self.header.clear();
        self.content_bytes = 0;
        self.is_complete = false;
        Ok(())
    }

    fn end_frame(&mut self) -> io::Result<()> {
        let declared = get_frame_content_size(&self.header).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        // A skippable frame has a size of 0 here.
        if declared.is_some_and(|declared| declared != self.content_bytes) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.is_complete = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use zstd::stream::write::Encoder;

    use super::*;

    fn frame(content: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), 3).unwrap();
        encoder.set_pledged_src_size(Some(content.len() as u64)).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read(coded: &[u8], part: usize) -> io::Result<Vec<u8>> {
        let mut frames = ZstdFrames::new(Vec::new())?;
        coded.chunks(part).try_for_each(|part| frames.write_all(part))?;
        frames.finish()?;
        Ok(frames.output)
    }

    #[test]
    fn concatenated_frames_are_read_in_any_chunking() {
        // The content fills the buffer exactly twice.
        let long = vec![7; 2 * BUFFER_BYTES];
        let skipped = b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec();
        let coded = [frame(b""), frame(&long), skipped, frame(b"end")].concat();
        let content = [long, b"end".to_vec()].concat();
        for part in [1, 2, 3, 7, 64, usize::MAX] {
            assert_eq!(read(&coded, part).unwrap(), content, "{part}");
            assert!(read(&coded[..coded.len() - 1], part).is_err(), "{part}");
        }
        assert!(read(b"", 1).is_err());
    }

    #[test]
    fn frames_shorter_than_declared_are_refused_in_any_chunking() {
        let mut coded = frame(b"");
        assert_eq!(coded[4..6], [0x20, 0], "a size of one byte, 0");
        coded[5] = 32;
        for part in [1, 2, 3, 7, usize::MAX] {
            assert!(read(&coded, part).is_err(), "{part}");
        }
    }
}
