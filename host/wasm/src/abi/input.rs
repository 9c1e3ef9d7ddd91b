//! What goes into a call: the records of the contract, borrowing the engine's buffers.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{ArrowNativeType, Field, SchemaRef};

use tidemill_model::component::{Descriptor, StateDescriptor};
use tidemill_model::logic::RowsIn;
use tidemill_model::time::Now;

use super::ColumnIn;
use super::lower::Lowered;
use crate::bindings::exports::tidemill::operator::keyed::Keys;
use crate::bindings::tidemill::operator::types::{self, BatchParam};

/// The rows of a call. `Err`: the host's own mistake.
pub(crate) fn rows(descriptor: &Descriptor, input: &RowsIn) -> Result<Lowered, String> {
    let Some(port) = descriptor.inputs.get(input.input) else {
        return Err(format!("rows were passed for input {}, there are {}", input.input, descriptor.inputs.len()));
    };
    Lowered::rows(&port.schema, &input.rows).map_err(|error| format!("input `{}`: {error}", port.name))
}

pub(crate) fn batch<'a>(input: &'a RowsIn, columns: &'a [ColumnIn<'a>]) -> BatchParam<'a> {
    BatchParam {
        rows: input.rows.num_rows() as u32,
        times: optional(&input.times),
        kinds: optional(&input.kinds),
        columns,
    }
}

/// Key columns and states of the distinct keys of a call.
pub(crate) struct LoweredKeys {
    count: u32,
    columns: Lowered,
    states: Lowered,
}

impl LoweredKeys {
    pub(crate) fn new(
        schema: Option<&SchemaRef>,
        states: &[StateDescriptor],
        count: usize,
        keys: Option<&RecordBatch>,
        values: &[ArrayRef],
    ) -> Result<Self, String> {
        let columns = match (schema, keys) {
            (Some(schema), Some(keys)) => Lowered::rows(schema, keys).map_err(|error| format!("keys: {error}"))?,
            _ => Lowered::default(),
        };
        let fits =
            |(state, values): (&StateDescriptor, &ArrayRef)| values.len() == if state.is_shared() { 1 } else { count };
        if states.len() != values.len() || !states.iter().zip(values).all(fits) {
            return Err(format!("{} state columns of {count} keys were passed for {}", values.len(), states.len()));
        }
        let mut lowered = Lowered::default();
        for (state, values) in states.iter().zip(values) {
            let field = Field::new(state.field.name(), state.column_type().clone(), true);
            lowered.column(&field, values).map_err(|error| format!("state `{}`: {error}", state.name))?;
        }
        Ok(Self { count: count as u32, columns, states: lowered })
    }

    /// The two lists of columns: keys, states.
    pub(crate) fn columns(&self) -> (Vec<ColumnIn<'_>>, Vec<ColumnIn<'_>>) {
        (self.columns.columns(), self.states.columns())
    }

    pub(crate) fn keys<'a>(&self, (columns, states): &'a (Vec<ColumnIn<'a>>, Vec<ColumnIn<'a>>)) -> Keys<'a> {
        Keys { count: self.count, columns, states }
    }
}

pub(crate) fn now(now: Now) -> types::Now {
    types::Now { watermark: now.watermark, processing: now.processing_ms }
}

pub(crate) fn bytes<T: ArrowNativeType>(numbers: &ScalarBuffer<T>) -> &[u8] {
    numbers.inner().as_slice()
}

fn optional<T: ArrowNativeType>(numbers: &Option<ScalarBuffer<T>>) -> &[u8] {
    numbers.as_ref().map_or(&[], bytes)
}
