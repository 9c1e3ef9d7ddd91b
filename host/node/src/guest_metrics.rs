//! What operators count and gauge, collected for the summary.
//!
//! Law: numbers are read as they stand; nothing here slows a call down but one atomic operation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// In front of the names that operators give.
const PREFIX: &str = "tidemill_guest_";

#[derive(Clone, Default)]
pub struct GuestMetrics(Arc<Mutex<Series>>);

/// By node, name and worker.
type Series = BTreeMap<(String, String, String), Cell>;

#[derive(Clone)]
enum Cell {
    Count(Arc<AtomicU64>),
    /// Bits of an f64.
    Gauge(Arc<AtomicU64>),
}

impl GuestMetrics {
    /// Begins to collect. Does nothing if something else collects already.
    pub fn install() -> Self {
        let collected = Self::default();
        let _ = metrics::set_global_recorder(collected.clone());
        collected
    }

    /// Name and value of each metric of a node: a counter's sum over the workers, a gauge's range.
    pub fn of(&self, node: &str) -> Vec<(String, String)> {
        let series = self.0.lock().expect("no panic while held");
        let mut shown: BTreeMap<&str, (u64, Vec<f64>)> = BTreeMap::new();
        for ((_, name, _), cell) in series.iter().filter(|((of, _, _), _)| of == node) {
            let entry = shown.entry(name).or_default();
            match cell {
                Cell::Count(count) => entry.0 += count.load(Relaxed),
                Cell::Gauge(bits) => entry.1.push(f64::from_bits(bits.load(Relaxed))),
            }
        }
        shown.into_iter().map(|(name, (count, gauges))| (name.to_owned(), value(count, &gauges))).collect()
    }

    fn cell(&self, key: &Key, cell: fn(Arc<AtomicU64>) -> Cell) -> Option<Cell> {
        let name = key.name().strip_prefix(PREFIX)?;
        let label = |wanted: &str| key.labels().find(|l| l.key() == wanted).map(|l| l.value().to_owned());
        let id = (label("node")?, name.to_owned(), label("worker")?);
        let mut series = self.0.lock().expect("no panic while held");
        Some(series.entry(id).or_insert_with(|| cell(Arc::default())).clone())
    }
}

fn value(count: u64, gauges: &[f64]) -> String {
    let Some(first) = gauges.first() else { return crate::summary::count(count) };
    let (low, high) = gauges.iter().fold((*first, *first), |(low, high), g| (low.min(*g), high.max(*g)));
    if low == high { low.to_string() } else { format!("{low} to {high}") }
}

impl Recorder for GuestMetrics {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.cell(key, Cell::Count) {
            Some(Cell::Count(count)) => Counter::from_arc(count),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.cell(key, Cell::Gauge) {
            Some(Cell::Gauge(bits)) => Gauge::from_arc(bits),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up_and_gauges_show_their_range() {
        let collected = GuestMetrics::default();
        metrics::with_local_recorder(&collected, || {
            for (worker, n) in [("0", 2), ("1", 3)] {
                metrics::counter!("tidemill_guest_ended", "node" => "streaks", "worker" => worker).increment(n);
                metrics::gauge!("tidemill_guest_longest", "node" => "streaks", "worker" => worker).set(n as f64 / 2.0);
                metrics::gauge!("tidemill_guest_limit", "node" => "streaks", "worker" => worker).set(7.5);
            }
            metrics::counter!("tidemill_guest_ended", "node" => "other", "worker" => "0").increment(10_000);
            metrics::counter!("of_a_library", "node" => "other", "worker" => "0").increment(1);
        });
        let text = |node: &str| {
            collected.of(node).iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(text("streaks"), "ended 5, limit 7.5, longest 1 to 1.5");
        assert_eq!(text("other"), "ended 10 000");
        assert_eq!(text("nobody"), "");
    }
}
