//! `tidemill:operator/metrics`: the guest's numbers beside the host's own.
//!
//! A name that breaks the rules is left out, with one line in the log: a wrong metric is no reason to
//! lose rows.

use std::collections::HashMap;
use std::sync::Arc;

use metrics::{Counter, Gauge};

use tidemill_model::limits::NAME_BYTES_MAX;

use crate::bindings::tidemill::operator::metrics::Host;
use crate::sandbox::GuestState;

/// Names of one operator: each is a series per worker in whatever collects them.
const NAMES_MAX: usize = 100;

enum Instrument {
    Counter(Counter),
    Gauge(Gauge),
}

/// The metrics of one operator on one worker.
pub(crate) struct Metrics {
    node: Arc<str>,
    worker: usize,
    known: HashMap<String, Instrument>,
    warned: bool,
}

impl Metrics {
    pub(crate) fn new(node: Arc<str>, worker: usize) -> Self {
        Self { node, worker, known: HashMap::new(), warned: false }
    }

    fn count(&mut self, name: &str, n: u64) {
        let make = |full: String, node: String, worker: String| {
            Instrument::Counter(metrics::counter!(full, "node" => node, "worker" => worker))
        };
        match self.find(name, make) {
            Ok(Instrument::Counter(counter)) => counter.increment(n),
            Ok(Instrument::Gauge(_)) => self.refuse(name, "is a gauge already"),
            Err(why) => self.refuse(name, why),
        }
    }

    fn gauge(&mut self, name: &str, value: f64) {
        let make = |full: String, node: String, worker: String| {
            Instrument::Gauge(metrics::gauge!(full, "node" => node, "worker" => worker))
        };
        match self.find(name, make) {
            Ok(Instrument::Gauge(gauge)) => gauge.set(value),
            Ok(Instrument::Counter(_)) => self.refuse(name, "is a counter already"),
            Err(why) => self.refuse(name, why),
        }
    }

    fn find(
        &mut self,
        name: &str,
        make: impl FnOnce(String, String, String) -> Instrument,
    ) -> Result<&Instrument, &'static str> {
        if !self.known.contains_key(name) {
            check_name(name)?;
            if self.known.len() == NAMES_MAX {
                return Err("is one name too many: there may be 100");
            }
            let made = make(format!("tidemill_guest_{name}"), self.node.to_string(), self.worker.to_string());
            self.known.insert(name.to_owned(), made);
        }
        self.known.get(name).ok_or("is missing")
    }

    fn refuse(&mut self, name: &str, why: &str) {
        if !std::mem::replace(&mut self.warned, true) {
            let shown = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
            let (node, worker) = (&*self.node, self.worker);
            tracing::warn!(target: "guest", node, worker, "metric `{shown}` {why}; left out, as are further ones");
        }
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let tail = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.len() > NAME_BYTES_MAX {
        Err("is longer than 64 bytes")
    } else if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(tail) {
        Err("is not lower case with underscores")
    } else {
        Ok(())
    }
}

impl Host for GuestState {
    fn count(&mut self, name: String, n: u64) -> wasmtime::Result<()> {
        self.metrics.count(&name, n);
        Ok(())
    }

    fn gauge(&mut self, name: String, value: f64) -> wasmtime::Result<()> {
        self.metrics.gauge(&name, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules() {
        let long = "a".repeat(65);
        for (name, fits) in [
            ("rows_seen", true),
            ("a", true),
            ("p99", true),
            ("", false),
            ("Rows", false),
            ("_rows", false),
            ("9rows", false),
            ("rows seen", false),
            ("zeilen_ü", false),
            (long.as_str(), false),
        ] {
            assert_eq!(check_name(name).is_ok(), fits, "{name}");
        }
    }

    #[test]
    fn there_are_at_most_a_hundred_and_a_kind_is_for_ever() {
        let mut metrics = Metrics::new("node".into(), 0);
        for i in 0..150 {
            metrics.count(&format!("m{i}"), 1);
        }
        assert_eq!(metrics.known.len(), NAMES_MAX);
        assert!(metrics.warned);
        metrics.gauge("m1", 1.0);
        assert!(matches!(metrics.known["m1"], Instrument::Counter(_)));
    }
}
