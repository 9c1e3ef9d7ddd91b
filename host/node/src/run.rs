//! `tidemill run`: runs a pipeline in this process until its input ends or someone stops it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use signal_hook::consts::{SIGINT, SIGTERM};
use tidemill_model::{Fault, FaultKind};
use tidemill_runtime::{JobHandle, start};

use crate::check::{EXIT_BAD_PIPELINE, load_or_report};
use crate::guest_metrics::GuestMetrics;
use crate::progress::{Progress, first_row_ms};
use crate::summary::{Summary, text};
use crate::terminal::{EXIT_CLOSED, note, print};

#[derive(clap::Args)]
pub struct Args {
    /// The pipeline file (YAML)
    file: PathBuf,
    /// Worker threads [default: the number of processors]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// What to print at the end
    #[arg(long, value_enum, default_value_t = Style::Text)]
    summary: Style,
    /// No progress and no text summary
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Style {
    /// For people, on standard error
    Text,
    /// One line of JSON, the last on standard output
    Json,
}

/// How often the job is looked at.
const POLL: Duration = Duration::from_millis(2);
/// How long a job that shall end at once may take to clean up. What is stuck then (in a read of a pipe, in a write to
/// one, in a call of a component) ends with the process.
const CLEAN_UP: Duration = Duration::from_millis(500);
/// What a job is told that shall end at once.
const AT_ONCE: &str = "ended at once on request";
/// What the shell shows for a process that Ctrl-C ended.
const EXIT_INTERRUPTED: u8 = 130;

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let signals = count_signals()?;
    let Some(loaded) = load_or_report(&args.file)? else { return Ok(ExitCode::from(EXIT_BAD_PIPELINE)) };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = args.workers.map_or(processors, usize::from);
    let before_job = began.elapsed();
    let guests = GuestMetrics::install();
    let job = match start(loaded.plan, workers) {
        Ok(job) => job,
        Err(fault) => return Ok(failed(&fault)),
    };
    if !watch(&job, &signals, args.quiet) {
        return Ok(interrupted());
    }
    let first_row = first_row_ms(&job).map(|ms| ms + before_job.as_secs_f64() * 1e3);
    let metrics = job.metrics_handle();
    let outcome = job.wait();
    match outcome {
        Ok(done) => {
            let summary = Summary::new(&done);
            if !args.quiet {
                note(text(&summary, first_row, done.ending, metrics.metrics(), &guests).trim_end());
            }
            if args.summary == Style::Json {
                print(serde_json::to_string(&summary)? + "\n")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(fault) if fault.message == AT_ONCE => Ok(interrupted()),
        // As other programs in a pipe: without a word.
        Err(fault) if fault.kind == FaultKind::Closed => Ok(ExitCode::from(EXIT_CLOSED)),
        Err(fault) => Ok(failed(&fault)),
    }
}

fn failed(fault: &Fault) -> ExitCode {
    note(format_args!("error: {fault}"));
    ExitCode::FAILURE
}

fn interrupted() -> ExitCode {
    note(format_args!("{AT_ONCE}; nothing that sinks had not committed is visible"));
    ExitCode::from(EXIT_INTERRUPTED)
}

/// Counts Ctrl-C and SIGTERM.
fn count_signals() -> anyhow::Result<Arc<AtomicUsize>> {
    let signals = Arc::new(AtomicUsize::new(0));
    for signal in [SIGINT, SIGTERM] {
        let counter = signals.clone();
        // Sound: the handler does nothing but add to an atomic.
        let count = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        unsafe { signal_hook::low_level::register(signal, count) }.context("cannot listen to Ctrl-C")?;
    }
    Ok(signals)
}

/// Shows progress and passes signals on until the job has ended. False: it was told to end at once, and did not.
fn watch(job: &JobHandle, signals: &AtomicUsize, quiet: bool) -> bool {
    let mut progress = Progress::new(quiet);
    let mut heard = 0;
    let mut end_by: Option<Instant> = None;
    while !job.is_finished() {
        let now = signals.load(Ordering::SeqCst);
        if now > 0 && heard == 0 {
            progress.finish();
            note(
                "stopping: sources end at the next boundary, what they have read is processed (Ctrl-C again ends at once)",
            );
            job.stop();
        }
        if now > 1 && heard <= 1 {
            job.abort(AT_ONCE);
            end_by = Some(Instant::now() + CLEAN_UP);
        }
        if end_by.is_some_and(|end| Instant::now() > end) {
            return false;
        }
        heard = now;
        if !quiet {
            progress.update(job);
        }
        std::thread::sleep(POLL);
    }
    progress.finish();
    true
}
