//! Flow control: bytes that an operator's output may hold in flight.
//!
//! Each operator and worker has a gauge. What it emits carries a permit that gives the bytes back when
//! the last clone is dropped, wherever that is. An operator above its limit waits with its next call;
//! those below it are not affected by its gauge, so the graph always drains from the sinks up.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tidemill_model::Batch;

/// Bytes in flight behind one operator on one worker.
#[derive(Clone, Debug)]
pub struct Gauge {
    bytes: Arc<AtomicI64>,
    limit: i64,
}

impl Gauge {
    pub fn new(limit: usize) -> Self {
        Self { bytes: Arc::new(AtomicI64::new(0)), limit: limit as i64 }
    }

    /// Whether another batch may be emitted. The limit may be passed by one batch.
    pub fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) < self.limit
    }

    /// Charges a batch to this gauge in place of whatever it was charged to.
    pub fn charge(&self, batch: &mut Batch) {
        let bytes = batch.bytes() as i64;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        batch.permit = Some(Arc::new(Permit { gauge: self.bytes.clone(), bytes }));
    }
}

struct Permit {
    gauge: Arc<AtomicI64>,
    bytes: i64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gauge.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};

    #[test]
    fn bytes_come_back_with_the_last_clone() {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
        let rows = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![0i64; 100]))]).unwrap();
        let gauge = Gauge::new(1000);
        let mut batch = Batch::new(rows);
        gauge.charge(&mut batch);
        assert!(gauge.has_room());
        let mut other = batch.slice(0, 50);
        let part = batch.slice(50, 50);
        gauge.charge(&mut other);
        assert!(!gauge.has_room() || other.bytes() < 200);
        drop((batch, other));
        assert_eq!(gauge.bytes.load(Ordering::Relaxed), 800, "the slice keeps the whole alive");
        drop(part);
        assert_eq!(gauge.bytes.load(Ordering::Relaxed), 0);
    }
}
