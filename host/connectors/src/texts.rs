//! Text columns made from prepared texts, by copying.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};

use crate::random::Random;

/// Texts up to this length are copied as one block of that size, which is two moves without a call.
const BLOCK_BYTES: usize = 16;

/// A list of texts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dictionary {
    values: Vec<u8>,
    ends: Vec<u32>,
    /// Each text padded to a block, and its length; empty if one is longer than a block.
    blocks: Vec<([u8; BLOCK_BYTES], u8)>,
    bytes_max: usize,
}

impl<T: AsRef<str>> FromIterator<T> for Dictionary {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut all = Self::default();
        for text in texts {
            let text = text.as_ref().as_bytes();
            all.values.extend_from_slice(text);
            all.ends.push(all.values.len() as u32);
            all.bytes_max = all.bytes_max.max(text.len());
            if text.len() <= BLOCK_BYTES {
                let mut block = [0; BLOCK_BYTES];
                block[..text.len()].copy_from_slice(text);
                all.blocks.push((block, text.len() as u8));
            }
        }
        if all.blocks.len() < all.ends.len() {
            all.blocks.clear();
        }
        all
    }
}

impl Dictionary {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, index: usize) -> &[u8] {
        let begin = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.values[begin as usize..self.ends[index] as usize]
    }

    /// A column of the texts at `indices`.
    pub(crate) fn column(&self, rows: usize, indices: impl Iterator<Item = usize>) -> ArrayRef {
        let mut texts = Texts::new(rows, rows * self.bytes_max.min(64));
        if self.blocks.is_empty() {
            indices.for_each(|i| texts.push(self.get(i)));
            return texts.finish();
        }
        // Each block is written whole; the next one overwrites what is too much.
        let mut values = vec![0; rows * BLOCK_BYTES + BLOCK_BYTES];
        let mut at = 0;
        for i in indices {
            let (block, len) = &self.blocks[i];
            values[at..at + BLOCK_BYTES].copy_from_slice(block);
            at += usize::from(*len);
            texts.offsets.push(at as i32);
        }
        values.truncate(at);
        texts.values = values;
        texts.finish()
    }
}

/// A text column in the making. Batches are small: offsets of 32 bits do.
pub(crate) struct Texts {
    pub(crate) values: Vec<u8>,
    offsets: Vec<i32>,
}

impl Texts {
    pub(crate) fn new(rows: usize, bytes: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { values: Vec::with_capacity(bytes), offsets }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, text: &[u8]) {
        self.values.extend_from_slice(text);
        self.end();
    }

    /// Ends a text that was written into `values` piece by piece.
    #[inline(always)]
    pub(crate) fn end(&mut self) {
        self.offsets.push(self.values.len() as i32);
    }

    pub(crate) fn finish(self) -> ArrayRef {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        let column = StringArray::try_new(offsets, Buffer::from_vec(self.values), None);
        Arc::new(column.expect("made of whole texts only"))
    }
}

/// Random letters that texts are cut out of.
#[derive(Clone, Debug)]
pub(crate) struct Letters(Vec<u8>);

/// More than any cut is long, and little enough to stay in L1.
const LETTERS: usize = 16 << 10;

impl Letters {
    pub(crate) fn new(seed: u64) -> Self {
        let random = Random::new(seed, "letters");
        Self((0..LETTERS as u64).map(|i| b'a' + (random.at(i) % 26) as u8).collect())
    }

    /// `len` letters (at most half of what there is) from a place that `random` chooses.
    #[inline(always)]
    pub(crate) fn cut(&self, random: u64, len: usize) -> &[u8] {
        debug_assert!(len <= LETTERS / 2);
        let from = random as usize % (LETTERS / 2);
        &self.0[from..from + len]
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;

    use super::*;

    #[test]
    fn short_and_long_texts() {
        let long = "x".repeat(40);
        for texts in [vec!["", "b", "a text of sixtee"], vec!["", &long, "c"]] {
            let dictionary: Dictionary = texts.iter().collect();
            let column = dictionary.column(5, [2, 0, 1, 1, 2].into_iter());
            let found: Vec<_> = column.as_string::<i32>().iter().flatten().collect();
            assert_eq!(found, [texts[2], texts[0], texts[1], texts[1], texts[2]]);
        }
    }
}
