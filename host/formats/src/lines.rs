//! Bytes of a section as regions of whole lines, with positions and line numbers.
//!
//! Laws: a row belongs to the section in which its first byte lies; [`Lines::position`] is the offset
//! behind everything consumed, in the plain (decompressed) bytes. Line numbers cost nothing until one is
//! asked for: only then are the lines in front of a section that starts inside a file counted.

use std::io::{self, Read, Seek, SeekFrom};

use tidemill_model::Fault;
use tidemill_model::format::{Compression, ReadSeek, Section};
use tidemill_model::limits::BATCH_BYTES_MAX;

use crate::compress;

/// A longer row is rejected: it would not fit into a batch.
pub(crate) const ROW_BYTES_MAX: usize = BATCH_BYTES_MAX;
/// Bytes read at once: large enough to amortise system calls and the check for UTF-8, small enough for L2.
const CHUNK_BYTES: usize = 256 << 10;
/// Byte order mark of UTF-8; some tools put it in front of text files.
const BOM: &[u8] = b"\xEF\xBB\xBF";

enum Input {
    /// Can be read from any place.
    Plain(Box<dyn ReadSeek>),
    /// Can only be read from its beginning.
    Packed(Box<dyn Read + Send>),
}

/// What [`Lines::ready`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// [`Lines::region`] holds at least one line.
    Region,
    /// A row longer than [`ROW_BYTES_MAX`] has been consumed; this is how it begins.
    TooLong(Vec<u8>),
    /// No row of this section is left.
    End,
}

pub(crate) struct Lines {
    name: String,
    input: Input,
    buffer: Vec<u8>,
    /// Bytes consumed, end of the whole lines, end of the bytes read: indices into `buffer`.
    head: usize,
    region: usize,
    tail: usize,
    /// Whether the region is known to be UTF-8.
    utf8: bool,
    /// No more bytes behind `tail`.
    ended: bool,
    /// Offset of `head`, and where the rows of the next section begin.
    offset: u64,
    end: u64,
    /// Lines in front of `counted_from` (unknown until asked for), and lines consumed since.
    before: Option<u64>,
    counted_from: u64,
    lines: u64,
}

impl Lines {
    /// At byte 0 of the file, whatever the section: the header stands there.
    pub(crate) fn open(section: Section) -> Result<Self, Fault> {
        let Section { name, input, end, compression, .. } = section;
        let (input, end) = match compression {
            Compression::None => (Input::Plain(input), end),
            packed => {
                let decoder = compress::decoder(input, packed).map_err(|e| read_fault(&name, &e))?;
                (Input::Packed(decoder), u64::MAX)
            }
        };
        let mut lines = Self {
            name,
            input,
            buffer: vec![0; CHUNK_BYTES],
            head: 0,
            region: 0,
            tail: 0,
            utf8: true,
            ended: false,
            offset: 0,
            end,
            before: Some(0),
            counted_from: 0,
            lines: 0,
        };
        lines.skip_bom()?;
        Ok(lines)
    }

    /// Moves to the first row of the section that starts at `start`, or to `skip`, a position from before.
    pub(crate) fn start_at(&mut self, start: u64, skip: u64) -> Result<(), Fault> {
        if skip > self.offset {
            self.go_to(skip)
        } else if start > self.offset {
            // A row begins at `start` only if a line ends right before it.
            self.go_to(start - 1)?;
            self.skip_line()?;
            self.before = None;
            (self.counted_from, self.lines) = (self.offset, 0);
            Ok(())
        } else {
            Ok(())
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn position(&self) -> u64 {
        self.offset
    }

    /// Rows that begin further on belong to another section.
    pub(crate) fn bytes_left(&self) -> u64 {
        self.end.saturating_sub(self.offset)
    }

    /// Makes sure that the region holds a line.
    pub(crate) fn ready(&mut self) -> Result<Ready, Fault> {
        if self.offset >= self.end {
            return Ok(Ready::End);
        }
        while self.region == self.head {
            if self.tail - self.head > ROW_BYTES_MAX {
                return self.skip_long().map(Ready::TooLong);
            }
            if !self.grow()? {
                return Ok(Ready::End);
            }
        }
        Ok(Ready::Region)
    }

    /// Whole lines; the last line of the file may lack its line feed.
    pub(crate) fn region(&self) -> &[u8] {
        &self.buffer[self.head..self.region]
    }

    /// Whether the region is UTF-8 as a whole. If not, its rows must be checked one by one.
    pub(crate) fn is_utf8(&self) -> bool {
        self.utf8
    }

    /// Appends further lines to the region; false if there are none or the region is longer than a row may be.
    pub(crate) fn extend(&mut self) -> Result<bool, Fault> {
        let before = self.region - self.head;
        while self.region - self.head == before {
            if self.tail - self.head > ROW_BYTES_MAX || !self.grow()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn consume(&mut self, bytes: usize, lines: u64) {
        debug_assert!(self.head + bytes <= self.region);
        self.head += bytes;
        self.offset += bytes as u64;
        self.lines += lines;
    }

    /// 1-based number of the line at the position. `None` if the file can no longer be read to count.
    pub(crate) fn line_number(&mut self) -> Option<u64> {
        if self.before.is_none() {
            self.before = self.count_before().ok();
        }
        Some(self.before? + self.lines + 1)
    }

    fn count_before(&mut self) -> io::Result<u64> {
        let Input::Plain(input) = &mut self.input else { return Ok(0) };
        let back = self.offset + (self.tail - self.head) as u64;
        input.seek(SeekFrom::Start(0))?;
        let (mut left, mut lines) = (self.counted_from, 0);
        let mut chunk = vec![0; CHUNK_BYTES];
        while left > 0 {
            let want = left.min(CHUNK_BYTES as u64) as usize;
            input.read_exact(&mut chunk[..want])?;
            lines += memchr::memchr_iter(b'\n', &chunk[..want]).count() as u64;
            left -= want as u64;
        }
        input.seek(SeekFrom::Start(back))?;
        Ok(lines)
    }

    fn skip_bom(&mut self) -> Result<(), Fault> {
        while self.tail < BOM.len() && self.grow()? {}
        if self.buffer[..self.tail].starts_with(BOM) {
            self.head = BOM.len();
            self.offset = BOM.len() as u64;
            self.region = self.region.max(self.head);
        }
        Ok(())
    }

    /// Moves forward to `offset`, where a row begins or a line ends.
    fn go_to(&mut self, offset: u64) -> Result<(), Fault> {
        if let Input::Plain(input) = &mut self.input {
            input.seek(SeekFrom::Start(offset)).map_err(|e| read_fault(&self.name, &e))?;
            (self.head, self.region, self.tail, self.ended) = (0, 0, 0, false);
            (self.offset, self.counted_from) = (offset, offset);
            (self.before, self.lines) = (None, 0);
            return Ok(());
        }
        while self.offset < offset {
            if self.region == self.head && !self.grow()? {
                return Ok(());
            }
            let bytes = ((self.region - self.head) as u64).min(offset - self.offset) as usize;
            let lines = memchr::memchr_iter(b'\n', &self.region()[..bytes]).count() as u64;
            self.consume(bytes, lines);
        }
        Ok(())
    }

    fn skip_line(&mut self) -> Result<(), Fault> {
        while self.region == self.head {
            if self.tail - self.head > ROW_BYTES_MAX {
                return self.skip_long().map(drop);
            }
            if !self.grow()? {
                return Ok(());
            }
        }
        let bytes = memchr::memchr(b'\n', self.region()).map_or(self.region().len(), |i| i + 1);
        self.consume(bytes, 1);
        Ok(())
    }

    /// Consumes a line that does not fit into the buffer.
    fn skip_long(&mut self) -> Result<Vec<u8>, Fault> {
        let begin = self.buffer[self.head..self.tail.min(self.head + CHUNK_BYTES)].to_vec();
        loop {
            // Nothing in the buffer ends a line.
            self.offset += (self.tail - self.head) as u64;
            (self.head, self.region, self.tail) = (0, 0, 0);
            if !self.grow()? {
                self.lines += 1;
                return Ok(begin);
            }
            if self.region > self.head {
                self.skip_line()?;
                return Ok(begin);
            }
        }
    }

    /// Reads more bytes and lets the region end at the last whole line; false at the end of the input.
    fn grow(&mut self) -> Result<bool, Fault> {
        if self.ended {
            return Ok(false);
        }
        self.make_room();
        let got = self.read_some()?;
        let old = self.region;
        let fresh = self.tail;
        self.tail += got;
        self.region = match memchr::memrchr(b'\n', &self.buffer[fresh..self.tail]) {
            Some(i) => fresh + i + 1,
            None if self.ended => self.tail,
            None => old,
        };
        let known = old == self.head || self.utf8;
        self.utf8 = known && simdutf8::basic::from_utf8(&self.buffer[old..self.region]).is_ok();
        Ok(got > 0 || self.region > old)
    }

    fn make_room(&mut self) {
        if self.head > 0 {
            self.buffer.copy_within(self.head..self.tail, 0);
            self.region -= self.head;
            self.tail -= self.head;
            self.head = 0;
        }
        if self.buffer.len() - self.tail < CHUNK_BYTES / 2 {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }

    fn read_some(&mut self) -> Result<usize, Fault> {
        let free = &mut self.buffer[self.tail..];
        loop {
            let result = match &mut self.input {
                Input::Plain(input) => input.read(free),
                Input::Packed(input) => input.read(free),
            };
            match result {
                Ok(0) => {
                    self.ended = true;
                    return Ok(0);
                }
                Ok(got) => return Ok(got),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(read_fault(&self.name, &e)),
            }
        }
    }
}

pub(crate) fn read_fault(name: &str, error: &io::Error) -> Fault {
    let fault = Fault::io(format!("cannot read `{name}`: {error}"));
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            fault.with_help("the file is damaged or was cut off while it was written")
        }
        _ => fault,
    }
}
