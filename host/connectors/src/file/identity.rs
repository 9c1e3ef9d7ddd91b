//! Positions in files, and whether a file is still the one that a position speaks of.
//!
//! Law: a file that has become shorter, or has other bytes in one of the places that are looked at, is found out. Those are
//! all of a small file, and samples of a large one: reading everything again would take as long as it took to come there.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;

use tidemill_model::Fault;
use tidemill_model::source::Position;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Of one sample: a page, which costs as much to read as a byte.
const SAMPLE_BYTES: u64 = 4096;
/// Samples between beginning and end: few enough not to hold up a checkpoint on a slow disk.
const SAMPLES: u64 = 16;

/// Behind the last row that was read from a part of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FilePosition {
    /// As the format counts.
    pub offset: u64,
    /// Of the file; none if it can't be read twice.
    pub identity: Option<Identity>,
}

/// What a file looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    length: u64,
    hash: u64,
}

impl FilePosition {
    pub(super) fn encode(self) -> Position {
        if self.offset == 0 {
            return Position::default();
        }
        let identity = self.identity.into_iter().flat_map(|identity| [identity.length, identity.hash]);
        Position(std::iter::once(self.offset).chain(identity).flat_map(u64::to_le_bytes).collect())
    }

    /// None: damaged.
    pub(super) fn decode(position: &Position) -> Option<Self> {
        let (numbers, rest) = position.0.as_chunks::<8>();
        let numbers: Vec<u64> = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        match (&numbers[..], rest) {
            ([], []) => Some(Self::default()),
            ([offset], []) => Some(Self { offset: *offset, identity: None }),
            (&[offset, length, hash], []) => Some(Self { offset, identity: Some(Identity { length, hash }) }),
            _ => None,
        }
    }
}

/// Hash of what is looked at in the bytes `start..end`, whatever the position.
pub(super) fn sample(file: &File, start: u64, end: u64) -> io::Result<u64> {
    let mut hasher = Xxh3::new();
    let mut add = |from: u64| {
        let mut bytes = [0; SAMPLE_BYTES as usize];
        let wanted = end.saturating_sub(from).min(SAMPLE_BYTES) as usize;
        file.read_exact_at(&mut bytes[..wanted], from)?;
        hasher.update(&bytes[..wanted]);
        io::Result::Ok(())
    };
    // A header, perhaps.
    add(0)?;
    let step = (end.saturating_sub(start) / SAMPLES).max(SAMPLE_BYTES);
    let mut from = start;
    while from < end {
        add(from)?;
        from += step;
    }
    add(end.saturating_sub(SAMPLE_BYTES))?;
    Ok(hasher.digest())
}

impl Identity {
    /// `sampled`: by [`sample`]. The bytes in front of the position are looked at, too.
    pub(super) fn new(file: &File, sampled: u64, offset: u64) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let to = offset.min(length);
        let mut bytes = [0; SAMPLE_BYTES as usize];
        let before = &mut bytes[..to.min(SAMPLE_BYTES) as usize];
        file.read_exact_at(before, to - before.len() as u64)?;
        Ok(Self { length, hash: xxh3_64(before) ^ sampled.rotate_left(1) })
    }

    /// A fault if the file is another one by now. It may have grown: what was not there belongs to no split.
    pub(super) fn check(&self, name: &str, file: &File, start: u64, end: u64, offset: u64) -> Result<(), Fault> {
        let fault = |why: &str| {
            Fault::io(format!("`{name}` has changed since the checkpoint was taken: {why}")).with_help(
                "put it back as it was, or start from the beginning with `--from none`: the position in it means nothing \
                 any more",
            )
        };
        let unreadable = |e: io::Error| Fault::io(format!("cannot read `{name}`: {e}"));
        let length = file.metadata().map_err(unreadable)?.len();
        if length < self.length {
            return Err(fault(&format!("it had {} bytes, and has {length}", self.length)));
        }
        let now = sample(file, start, end.min(self.length)).and_then(|sampled| {
            let offset = offset.min(self.length);
            Self::new(file, sampled, offset)
        });
        match now.map_err(unreadable)?.hash == self.hash {
            true => Ok(()),
            false => Err(fault("it has other content")),
        }
    }
}

/// `None` for what is no regular file.
pub(super) fn length(file: &File) -> Option<u64> {
    file.metadata().ok().filter(Metadata::is_file).map(|about| about.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip() {
        let identity = Some(Identity { length: 7, hash: u64::MAX });
        for position in
            [FilePosition::default(), FilePosition { offset: 3, identity: None }, FilePosition { offset: 3, identity }]
        {
            assert_eq!(FilePosition::decode(&position.encode()), Some(position));
        }
        assert_eq!(FilePosition { offset: 0, identity }.encode(), Position::default(), "nothing was read");
        for damaged in [1, 7, 9, 16, 23, 25, 32] {
            assert_eq!(FilePosition::decode(&Position(vec![1; damaged])), None);
        }
    }

    #[test]
    fn any_byte_of_a_small_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let bytes: Vec<u8> = (0..60_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let (start, end) = (10_000, 60_000);
        let identity = |offset| {
            let file = File::open(&path).unwrap();
            Identity::new(&file, sample(&file, start, end).unwrap(), offset).unwrap()
        };
        let check = |identity: Identity, bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let result = identity.check("a", &File::open(&path).unwrap(), start, end, 20_000);
            result.map_err(|fault| fault.message)
        };
        let before = identity(20_000);
        assert_eq!(check(before, &bytes), Ok(()));
        assert_eq!(check(before, &[&bytes[..], b"more"].concat()), Ok(()));
        assert!(check(before, &bytes[..59_999]).unwrap_err().contains("it had 60000 bytes, and has 59999"));
        for place in (10_000..60_000).step_by(97).chain([0, 4095, 10_000, 19_999, 59_999]) {
            let mut other = bytes.clone();
            other[place] ^= 1;
            assert!(check(before, &other).unwrap_err().contains("it has other content"), "{place}");
        }
    }
}
