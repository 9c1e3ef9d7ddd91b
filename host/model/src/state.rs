//! Keyed state behind a port: one value per key and state descriptor.
//!
//! A call works on *slots*: `resolve` maps the keys of a batch to slots, which stay valid until the
//! next `release`. Laws: equal keys have equal slots; a slot whose key has neither values nor pins is
//! forgotten; keys of one worker only.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows, SortField};

use crate::component::StateDescriptor;
use crate::fault::Fault;

/// Handle of a key inside one backend.
pub type Slot = u32;

/// State of one keyed operator on one worker.
pub trait StateBackend: Send {
    /// Slots of the keys in `slots` (cleared first), creating those that are new. `hashes[i]` is xxh3 of `keys.row(i)`.
    fn resolve(&mut self, keys: &Rows, hashes: &[u64], slots: &mut Vec<Slot>) -> Result<(), Fault>;
    /// `resolve` for keys of one int64 column without nulls: same slots as for their encoding, but the
    /// encoding need not be made.
    fn resolve_i64(&mut self, keys: &[i64], hashes: &[u64], slots: &mut Vec<Slot>) -> Result<(), Fault> {
        let column: ArrayRef = Arc::new(Int64Array::from(keys.to_vec()));
        let rows = RowConverter::new(vec![SortField::new(DataType::Int64)])?.convert_columns(&[column])?;
        self.resolve(&rows, hashes, slots)
    }
    /// Bytes of the key of a slot.
    fn key(&self, slot: Slot) -> &[u8];
    /// One value per slot, null where there is none.
    fn gather(&mut self, state: usize, slots: &[Slot]) -> Result<ArrayRef, Fault>;
    /// Stores one value per slot; null deletes. `values` has the descriptor's type.
    fn scatter(&mut self, state: usize, slots: &[Slot], values: &ArrayRef) -> Result<(), Fault>;
    /// Keeps a key alive (a timer waits for it) or lets it go; counts.
    fn pin(&mut self, slot: Slot);
    fn unpin(&mut self, slot: Slot);
    /// The call is over: forgets those of `slots` that have no value and no pin.
    fn release(&mut self, slots: &[Slot]);
    /// Keys held.
    fn keys(&self) -> usize;
}

/// Makes the backend of an operator on a worker.
pub trait StateBackendFactory: Send + Sync {
    fn open(&self, states: &[StateDescriptor]) -> Result<Box<dyn StateBackend>, Fault>;
}
