//! Functions whose result is as long as a number says: with a bound, since the number may come with the rows.
//!
//! Law: a call allocates no more than `RESULT_BYTES_MAX`; the library itself would take what it is asked for, and a
//! process without memory ends.

use arrow::array::{Array, AsArray};
use arrow::compute::{cast, max};
use arrow::datatypes::{DataType, Int64Type};
use datafusion_common::{Result, exec_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature};

/// Names of those functions; the length is the second argument.
pub(super) const UNBOUNDED: &[&str] = &["lpad", "repeat", "rpad"];
/// What one call for a batch may make. Batches that need more are halved, down to single rows.
const RESULT_BYTES_MAX: u64 = 64 << 20;

/// A function of the library, called within the bound.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Bounded(pub ScalarUDF);

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.0.return_type(types)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.0.inner().coerce_types(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [text, length, ..] = args.args.as_slice() else { return self.0.invoke_with_args(args) };
        let lengths = cast(&length.to_array(args.number_rows)?, &DataType::Int64)?;
        let longest = u64::try_from(max(lengths.as_primitive::<Int64Type>()).unwrap_or(0)).unwrap_or(0);
        let bytes_each = match self.name() {
            "repeat" => text.to_array(args.number_rows)?.to_data().get_slice_memory_size()?,
            // A character has up to four bytes.
            _ => args.number_rows * 4,
        };
        if longest.saturating_mul(bytes_each as u64) > RESULT_BYTES_MAX {
            return exec_err!("`{}` would make a text of more than {} MiB", self.name(), RESULT_BYTES_MAX >> 20);
        }
        self.0.invoke_with_args(args)
    }
}
