//! What time it is before the first tick has closed.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use arrow::datatypes::{DataType, SchemaRef};
use tidemill_engine::process::{ProcessSpec, node};
use tidemill_model::component::Ttl;
use tidemill_model::fault::OnError;
use tidemill_model::limits::KEY_GROUPS;
use tidemill_model::snapshot::{Chunks, FileSet, Form, Restore, Snapshot};
use tidemill_model::time::Now;
use tidemill_model::{Batch, Fault, Operator, OperatorContext, Progress};
use tidemill_state::HeapFactory;

use crate::logic::{Native, counter};
use crate::support::{ints, rows, schema};
use crate::swaps::Seen;

const BEFORE: i64 = 1_700_000_000_000;

/// What an operator held.
struct Held(Mutex<Snapshot>);

impl Restore for Held {
    fn groups(&self) -> Range<u32> {
        0..KEY_GROUPS
    }
    fn now(&self) -> Now {
        Now { processing_ms: BEFORE, ..Now::START }
    }
    fn tables(&self) -> Vec<(String, SchemaRef)> {
        self.0.lock().unwrap().tables.iter().map(|table| (table.name.clone(), table.schema.clone())).collect()
    }
    fn chunks(&self, table: &str) -> Result<Chunks, Fault> {
        let mut snapshot = self.0.lock().unwrap();
        let found = snapshot.tables.iter_mut().find(|other| other.name == table).expect("a table of the list");
        Ok(std::mem::replace(&mut found.chunks, Box::new(std::iter::empty())))
    }
    fn all_chunks(&self, table: &str) -> Result<Chunks, Fault> {
        self.chunks(table)
    }
    fn files(&self) -> Result<Vec<FileSet>, Fault> {
        Ok(Vec::new())
    }
}

/// Counts rows of a key in states that live for a second, and notes what time it is.
fn operator(processing_ms: i64, times: &Arc<Mutex<Vec<i64>>>) -> Box<dyn Operator> {
    let input = schema(&[("k", DataType::Int64), ("v", DataType::Int64)]);
    let mut logic: Native = counter(&input);
    for state in &mut logic.descriptor.states {
        state.ttl = Some(Ttl { ms: 1000, on_read: false });
    }
    let (count, times) = (logic.keyed.clone(), times.clone());
    logic.keyed = Arc::new(move |input| {
        times.lock().unwrap().push(input.rows.now.processing_ms);
        count(input)
    });
    let (config, on_error) = (Vec::new(), OnError::Fail);
    let (inputs, keys) = (vec![input], vec![vec![0]]);
    let (state, shared) = (Arc::new(HeapFactory), Arc::new(HeapFactory));
    let spec = ProcessSpec { logic: Arc::new(logic), inputs, keys, config, on_error, state, shared };
    let place = OperatorContext { node: "op".into(), worker: 0, workers: 1, processing_ms };
    node(spec).unwrap().factory.build(&place).unwrap()
}

fn count(operator: &mut dyn Operator) -> Vec<String> {
    let mut seen = Seen::default();
    let batch = Batch::new(rows(&[("k", ints([1])), ("v", ints([5]))]));
    assert_eq!(operator.on_batch(0, batch, &mut seen).unwrap(), Progress::Done);
    seen.lines
}

#[test]
fn the_first_row_knows_the_time_and_sees_nothing_that_has_expired() {
    for (later, expected) in [(0, "0: 1|5|2|10"), (999, "0: 1|5|2|10"), (1000, "0: 1|5|1|5"), (-5000, "0: 1|5|2|10")] {
        let times = Arc::default();
        let mut first = operator(BEFORE, &times);
        assert_eq!(count(first.as_mut()), ["0: 1|5|1|5"]);
        let held = Held(Mutex::new(first.snapshot(Form::Native).unwrap()));
        let mut second = operator(BEFORE + later, &times);
        second.restore(&held).unwrap();
        assert_eq!(count(second.as_mut()), [expected], "{later} ms later");
        assert_eq!(*times.lock().unwrap(), [BEFORE, BEFORE + later.max(0)], "it does not go back");
    }
}
