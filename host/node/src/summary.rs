//! What a job did, at its end: for people, and as one line of JSON for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use tidemill_model::time::WATERMARK_MAX;
use tidemill_runtime::metrics::NodeRole;
use tidemill_runtime::{Ending, JobMetrics, JobSummary};

use crate::guest_metrics::GuestMetrics;
use crate::progress::iso;

/// The line that `--summary json` prints last. Units are in the names; latencies are null without rows.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub rows_in: u64,
    pub rows_out: u64,
    pub rows_dead: u64,
    pub wall_s: f64,
    /// User and system time of the whole process.
    pub cpu_s: f64,
    pub peak_rss_bytes: u64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

impl Summary {
    pub fn new(job: &JobSummary) -> Self {
        let usage = process_usage();
        Self {
            rows_in: job.rows_in,
            rows_out: job.rows_out,
            rows_dead: job.rows_dead,
            wall_s: job.wall.as_secs_f64(),
            cpu_s: usage.0.as_secs_f64(),
            peak_rss_bytes: usage.1,
            p50_ms: job.p50_ms,
            p99_ms: job.p99_ms,
        }
    }
}

/// Of a second of CPU time, in /proc.
const CLOCK_TICKS: u64 = 100;

/// CPU time of this process and of the children that have ended, and peak resident memory of this process, from /proc (0
/// where there is none).
fn process_usage() -> (Duration, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak_kib =
        status.lines().find_map(|l| l.strip_prefix("VmHWM:")).and_then(|v| v.split_whitespace().next()?.parse().ok());
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = Duration::new(cpu.tv_sec.try_into().unwrap_or(0), cpu.tv_nsec.try_into().unwrap_or(0));
    (cpu + of_children(), peak_kib.unwrap_or(0u64) * 1024)
}

fn of_children() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold anything: user and system time of children are the 14th and 15th field.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / CLOCK_TICKS)
}

/// For people: one line for the whole, one for each node. `first_row_ms`: from the start of the process until the first
/// row reached a sink.
pub fn text(
    summary: &Summary,
    first_row_ms: Option<f64>,
    ending: Ending,
    metrics: &JobMetrics,
    guests: &GuestMetrics,
) -> String {
    let mut out = String::new();
    let how = match ending {
        Ending::Finished => "finished",
        Ending::Halted => "stopped at a checkpoint, from which it can go on",
        Ending::Stopped => {
            "stopped on request: what had been read was processed, open windows and timers fired as at the end of input"
        }
    };
    let rate = summary.rows_in as f64 / summary.wall_s.max(1e-9);
    let _ = writeln!(
        out,
        "{how}: {} rows in, {} out, {} dead in {:.2} s ({}/s), {:.2} CPU s, peak {} MB",
        count(summary.rows_in),
        count(summary.rows_out),
        count(summary.rows_dead),
        summary.wall_s,
        count(rate as u64),
        summary.cpu_s,
        summary.peak_rss_bytes / 1_000_000,
    );
    if let Some(first) = first_row_ms {
        let _ = writeln!(out, "first row after {first:.2} ms");
    }
    if let (Some(p50), Some(p99)) = (summary.p50_ms, summary.p99_ms) {
        let _ = writeln!(out, "latency from source to sink: p50 {p50:.2} ms, p99 {p99:.2} ms");
    }
    // Of a job that has read all its input there is nothing to tell.
    if let Some(watermark) = metrics.watermark().filter(|&w| w != WATERMARK_MAX) {
        let back = metrics.held_back().map_or_else(String::new, |back| format!(", held back by {back}"));
        let _ = writeln!(out, "watermark {}{back}", iso(watermark));
    } else if let Some(back) = metrics.held_back() {
        let _ = writeln!(out, "no watermark, held back by {back}");
    }
    let width = metrics.nodes.iter().map(|n| n.name.len()).max().unwrap_or(0);
    for node in &metrics.nodes {
        let (rows_in, rows_out) = (node.sum(|m| &m.rows_in), node.sum(|m| &m.rows_out));
        let dead = node.sum(|m| &m.rows_dead);
        let rows = match node.role {
            NodeRole::Source => format!("{} rows read", count(rows_out + dead)),
            NodeRole::Operator => format!("{} in, {} out", count(rows_in), count(rows_out)),
            NodeRole::Sink => format!("{} rows written", count(rows_in)),
        };
        let busy = node.sum(|m| &m.busy_ns) as f64 / 1e9;
        let mut line = format!("  {:width$}  {rows}, {busy:.2} s busy", node.name);
        if dead > 0 {
            let _ = write!(line, ", {} dead", count(dead));
        }
        for (name, n) in node.counters() {
            let _ = write!(line, ", {name} {}", count(n));
        }
        for (name, value) in guests.of(&node.name) {
            let _ = write!(line, ", {name} {value}");
        }
        let _ = writeln!(out, "{line}");
    }
    out
}

/// A number with thin groups of three: 12 345 678.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn counts_are_grouped() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (12345678, "12 345 678")] {
            assert_eq!(super::count(n), text);
        }
    }
}
