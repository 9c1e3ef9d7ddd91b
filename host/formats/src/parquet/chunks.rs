//! Parts of a file for the Parquet decoder, which asks for them in any order.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};
use tidemill_model::format::ReadSeek;

#[derive(Clone)]
pub(super) struct Chunks {
    input: Arc<Mutex<Box<dyn ReadSeek>>>,
    length: u64,
}

impl Chunks {
    pub(super) fn new(mut input: Box<dyn ReadSeek>) -> io::Result<Self> {
        let length = input.seek(SeekFrom::End(0))?;
        Ok(Self { input: Arc::new(Mutex::new(input)), length })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        input.seek(SeekFrom::Start(offset))?;
        input.read(buffer)
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.length
    }
}

/// Reads on from a place; several may be in use at once.
pub(super) struct ChunkStream {
    chunks: Chunks,
    offset: u64,
}

impl Read for ChunkStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.chunks.read_at(self.offset, buffer)?;
        self.offset += got as u64;
        Ok(got)
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<ChunkStream>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(BufReader::new(ChunkStream { chunks: self.clone(), offset: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        // A damaged footer may name any length: memory is taken only for what the file has.
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} are beyond the end of the file")));
        }
        let mut bytes = vec![0; length];
        let mut stream = ChunkStream { chunks: self.clone(), offset: start };
        stream.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}
