//! What the writers of text formats share: compression, buffering, and the check of what can be shown as text.

use std::io::{self, Write};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use serde::Deserialize;
use tidemill_model::Fault;
use tidemill_model::format::Compression;

use crate::compress::Encoder;

/// Compression of text files that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextCompression {
    #[default]
    None,
    Gzip,
    Zstd,
}

impl TextCompression {
    pub(crate) fn of(self) -> Compression {
        match self {
            Self::None => Compression::None,
            Self::Gzip => Compression::Gzip,
            Self::Zstd => Compression::Zstd,
        }
    }
}

/// Bytes gathered before they are handed to the file.
const BUFFER_BYTES: usize = 256 << 10;

/// Text on its way to a file.
pub(crate) struct TextOutput {
    pub(crate) text: Vec<u8>,
    encoder: Encoder,
    finished: bool,
}

impl TextOutput {
    pub(crate) fn new(output: Box<dyn Write + Send>, compression: Compression) -> Result<Self, Fault> {
        let encoder = Encoder::new(output, compression).map_err(|e| write_fault(&e))?;
        Ok(Self { text: Vec::with_capacity(BUFFER_BYTES), encoder, finished: false })
    }

    /// Hands the text on once there is enough of it.
    pub(crate) fn settle(&mut self) -> Result<(), Fault> {
        if self.text.len() >= BUFFER_BYTES { self.drain() } else { Ok(()) }
    }

    fn drain(&mut self) -> Result<(), Fault> {
        let result = self.encoder.write_all(&self.text);
        self.text.clear();
        result.map_err(|e| write_fault(&e))
    }

    pub(crate) fn flush(&mut self) -> Result<(), Fault> {
        self.drain()?;
        self.encoder.flush().map_err(|e| write_fault(&e))
    }

    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        if self.finished {
            return Ok(());
        }
        self.drain()?;
        self.finished = true;
        self.encoder.finish().map_err(|e| write_fault(&e))
    }
}

/// The output names its file in its errors: it is the one who knows it.
pub(crate) fn write_fault(error: &io::Error) -> Fault {
    let fault = Fault::io(format!("cannot write: {error}"));
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => fault.with_help("free some space and run again"),
        _ => fault,
    }
}

/// Years that dates as text can show; Arrow would write an error message into the file instead.
const YEARS_MAX: i64 = 200_000;

/// Refuses times that no calendar text can show.
pub(crate) fn check_times(name: &str, array: &dyn Array) -> Result<(), Fault> {
    match array.data_type() {
        DataType::Timestamp(unit, _) => {
            let per_second = match unit {
                TimeUnit::Second => 1,
                TimeUnit::Millisecond => 1_000,
                TimeUnit::Microsecond => 1_000_000,
                TimeUnit::Nanosecond => return Ok(()),
            };
            let limit = YEARS_MAX * 366 * 86_400 * per_second;
            let plain = arrow::compute::cast(array, &DataType::Int64)?;
            let values = plain.as_primitive::<Int64Type>();
            match values.iter().flatten().find(|v| v.checked_abs().is_none_or(|v| v > limit)) {
                Some(value) => Err(out_of_calendar(name, &value.to_string())),
                None => Ok(()),
            }
        }
        DataType::Date32 => {
            let limit = (YEARS_MAX * 366) as u32;
            let values = array.as_primitive::<arrow::datatypes::Date32Type>();
            match values.iter().flatten().find(|v| v.unsigned_abs() > limit) {
                Some(value) => Err(out_of_calendar(name, &value.to_string())),
                None => Ok(()),
            }
        }
        DataType::List(_) => check_times(name, array.as_list::<i32>().values()),
        DataType::Struct(_) => array.as_struct().columns().iter().try_for_each(|c| check_times(name, c)),
        _ => Ok(()),
    }
}

fn out_of_calendar(name: &str, value: &str) -> Fault {
    Fault::data(format!("column `{name}`: {value} is a time outside of the years that text can show"))
        .with_help("write the column as int64, or use parquet")
}
