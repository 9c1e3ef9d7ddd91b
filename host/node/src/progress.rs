//! What a running job shows: a line that renews itself on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tidemill_model::time::WATERMARK_MAX;
use tidemill_runtime::JobHandle;

use crate::summary::count;
use crate::terminal::note;

/// How often a terminal line is renewed.
const TERMINAL: Duration = Duration::from_millis(200);
/// How often a line is written where it stays, a log for instance.
const PLAIN: Duration = Duration::from_secs(10);

/// Shows a job's progress on standard error.
pub struct Progress {
    bar: Option<ProgressBar>,
    shown: Instant,
    rows: (u64, u64),
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("the template is valid"));
            bar
        });
        Self { bar, shown: Instant::now(), rows: (0, 0) }
    }

    /// Shows a new line if it is time.
    pub fn update(&mut self, job: &JobHandle) {
        let every = if self.bar.is_some() { TERMINAL } else { PLAIN };
        let since = self.shown.elapsed();
        if since < every {
            return;
        }
        let line = self.line(job, since);
        self.shown = Instant::now();
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            None => note(line),
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&mut self, job: &JobHandle, since: Duration) -> String {
        let metrics = job.metrics();
        let rows = (metrics.rows_in(), metrics.rows_out());
        let rate = |now: u64, before: u64| count(((now - before) as f64 / since.as_secs_f64()) as u64);
        let mut line = format!(
            "{:.0} s: {} rows in ({}/s), {} out ({}/s), {} held",
            job.elapsed().as_secs_f64(),
            count(rows.0),
            rate(rows.0, self.rows.0),
            count(rows.1),
            rate(rows.1, self.rows.1),
            count(metrics.held()),
        );
        let dead = metrics.rows_dead();
        if dead > 0 {
            line += &format!(", {} dead", count(dead));
        }
        if let Some(watermark) = metrics.watermark().filter(|&w| w != WATERMARK_MAX) {
            line += &format!(", watermark {} ({} behind)", iso(watermark), lag(watermark));
        }
        if let Some(back) = metrics.held_back() {
            line += &format!(", held back by {back}");
        }
        if let Some(share) = metrics.share_done() {
            line += &format!(", {:.0} %", share * 100.0);
        }
        self.rows = rows;
        line
    }
}

/// ms since the epoch as UTC, or the bare number where no calendar reaches.
pub fn iso(ms: i64) -> String {
    let array = arrow::array::TimestampMillisecondArray::from(vec![ms]);
    arrow::util::display::array_value_to_string(&array, 0).unwrap_or_else(|_| ms.to_string())
}

fn lag(watermark: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seconds = (now.as_millis() as i64).saturating_sub(watermark).max(0) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The first row's time in ms from the start of the job, if one has reached a sink.
pub fn first_row_ms(job: &JobHandle) -> Option<f64> {
    let ns = job.metrics().first_row_ns.load(Relaxed);
    (ns > 0).then_some(ns as f64 / 1e6)
}
