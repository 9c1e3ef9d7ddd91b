//! Commands for running jobs (`status`, `savepoint`, `stop`, `rescale`) and for what is stored of them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use tidemill_model::Fault;
use tidemill_model::checkpoint::{Listed, Manifest};

use crate::check::{EXIT_BAD_PIPELINE, load_or_report};
use crate::control_socket::{Answer, Request, Status, ask, savepoint_name};
use crate::durable::{Durable, From};
use crate::summary::count;
use crate::terminal::print;

/// How a running job is named.
#[derive(clap::Args)]
pub struct Job {
    /// The running job: the name of its pipeline, or the pipeline file
    job: String,
}

#[derive(clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    job: Job,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct StopArgs {
    #[command(flatten)]
    job: Job,
    /// End at a savepoint of this name instead of a checkpoint
    #[arg(long, value_name = "NAME")]
    savepoint: Option<String>,
}

#[derive(clap::Args)]
pub struct RescaleArgs {
    #[command(flatten)]
    job: Job,
    /// Worker threads of each process from now on
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Processes from now on [default: as many as before]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=64))]
    processes: Option<u16>,
}

#[derive(clap::Subcommand)]
pub enum Savepoints {
    /// Take a savepoint of a running job
    Take {
        #[command(flatten)]
        job: Job,
        /// Its name: letters, digits, `_`, `-`, `.`
        name: String,
    },
    /// List savepoints and checkpoints of a pipeline
    List {
        /// The pipeline file (YAML)
        file: PathBuf,
    },
    /// Show what a savepoint or checkpoint holds
    Describe {
        /// The pipeline file (YAML)
        file: PathBuf,
        /// Name of a savepoint or number of a checkpoint
        name: From,
    },
    /// Delete a savepoint
    Delete {
        /// The pipeline file (YAML)
        file: PathBuf,
        name: String,
    },
}

pub fn status(args: &StatusArgs) -> anyhow::Result<()> {
    match answered(&args.job, &Request::Status)? {
        Answer::Status(status) if args.json => print(serde_json::to_string(&status)? + "\n"),
        Answer::Status(status) => print(describe_status(&status)),
        _ => unexpected(),
    }
}

pub fn stop(args: &StopArgs) -> anyhow::Result<()> {
    let request = match &args.savepoint {
        Some(name) => named(name, true)?,
        None => Request::Stop,
    };
    match answered(&args.job, &request)? {
        Answer::Taken { id, took_ms, .. } => match &args.savepoint {
            Some(name) => print(format_args!("stopped at savepoint `{name}` in {took_ms} ms\n")),
            None => print(format_args!("stopped at checkpoint {id} in {took_ms} ms\n")),
        },
        Answer::Ended { took_ms } => {
            let what = "what had been read was processed, checkpoints are not retained";
            print(format_args!("stopped in {took_ms} ms: {what}\n"))
        }
        _ => unexpected(),
    }
}

/// A request for a savepoint. The job looks at the name as well.
fn named(name: &str, stop: bool) -> Result<Request, Fault> {
    savepoint_name(name)?;
    Ok(Request::Savepoint { name: name.to_owned(), stop })
}

pub fn rescale(args: &RescaleArgs) -> anyhow::Result<()> {
    let request = Request::Rescale { workers: args.workers.into(), processes: args.processes.map(usize::from) };
    match answered(&args.job, &request)? {
        Answer::Rescaled { workers, processes, took_ms } => {
            print(format_args!("runs with {}, {took_ms} ms after the request\n", size(workers, processes)))
        }
        _ => unexpected(),
    }
}

pub fn savepoint(command: &Savepoints) -> anyhow::Result<ExitCode> {
    let (file, name) = match command {
        Savepoints::Take { job, name } => {
            match answered(job, &named(name, false)?)? {
                Answer::Taken { bytes, took_ms, .. } => {
                    print(format_args!("savepoint `{name}`: {} bytes in {took_ms} ms\n", count(bytes)))?;
                }
                _ => unexpected()?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        Savepoints::List { file } => (file, None),
        Savepoints::Describe { file, name } => (file, Some(name.clone())),
        Savepoints::Delete { file, name } => (file, Some(From::Savepoint(name.clone()))),
    };
    let Some(loaded) = load_or_report(file)? else { return Ok(ExitCode::from(EXIT_BAD_PIPELINE)) };
    let base = file.parent().unwrap_or(Path::new(""));
    let Some(durable) = Durable::open(&loaded.plan, base)? else {
        let fault = Fault::config("the pipeline takes no checkpoints");
        return Err(fault.with_help("give it `checkpoints:` with a `store`").into());
    };
    match (command, name) {
        (Savepoints::List { .. }, _) => print(list(durable.store.list()?))?,
        (Savepoints::Delete { .. }, Some(name)) => {
            durable.delete(&name)?;
        }
        (_, Some(name)) => {
            let manifest = durable.find(&name, false)?;
            print(manifest.map_or_else(|| "nothing\n".to_owned(), |manifest| describe(&manifest)))?;
        }
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// The answer, unless it is an error.
pub fn answered(job: &Job, request: &Request) -> anyhow::Result<Answer> {
    match ask(&job.job, request)? {
        Answer::Error { message, help: Some(help) } => bail!("{message}\n  help: {help}"),
        Answer::Error { message, help: None } => bail!("{message}"),
        answer => Ok(answer),
    }
}

pub fn unexpected() -> anyhow::Result<()> {
    bail!("the job gave another answer than was asked for: it may be of another version of this program")
}

/// Workers and processes in words.
fn size(workers: usize, processes: usize) -> String {
    match processes {
        0 | 1 => format!("{workers} workers"),
        _ => format!("{processes} processes of {workers} workers"),
    }
}

fn describe_status(status: &Status) -> String {
    let mut text = format!(
        "{} (process {}): {}, {} rows in, {} out, {} dead\n",
        status.pipeline,
        status.process,
        size(status.workers, status.processes),
        count(status.rows_in),
        count(status.rows_out),
        count(status.rows_dead)
    );
    if status.runs > 1 {
        let _ = writeln!(text, "started {} times", status.runs);
    }
    let _ = writeln!(text, "{} checkpoints, {} failed", status.checkpoints, status.failed_checkpoints);
    if let Some(last) = &status.last_checkpoint {
        let _ = writeln!(
            text,
            "last checkpoint {}: {} bytes, {} written, aligned in {} ms, complete in {} ms",
            last.id,
            count(last.bytes),
            count(last.written_bytes),
            last.aligned_ms,
            last.took_ms
        );
    }
    text
}

fn list(mut all: Vec<Listed>) -> String {
    all.sort_by_key(|listed| listed.id);
    let line = |listed: &Listed| match &listed.savepoint {
        Some(name) => format!("savepoint {name}\n"),
        None => format!("checkpoint {}\n", listed.id),
    };
    all.iter().map(line).collect()
}

/// What a manifest holds, for people.
fn describe(manifest: &Manifest) -> String {
    let Manifest { id, generation, pipeline, workers, created_ms, .. } = manifest;
    let created = arrow::array::TimestampMillisecondArray::from(vec![*created_ms]);
    let created = arrow::util::display::array_value_to_string(&created, 0).unwrap_or_default();
    let mut text =
        format!("pipeline {pipeline}, number {id} of generation {generation}, {workers} workers, taken {created}Z\n");
    for node in &manifest.nodes {
        let parts: Vec<_> = manifest.parts.iter().filter(|part| part.node == node.name).collect();
        let _ = write!(text, "{} {}", node.kind, node.name);
        if !node.operator.is_empty() {
            let _ = write!(text, " ({} of component {})", node.operator, &node.component.get(..12).unwrap_or_default());
        }
        let splits: usize = parts.iter().map(|part| part.splits.len()).sum();
        if node.kind == "source" {
            let _ = write!(text, ": {splits} splits left");
        }
        let files: usize = parts.iter().map(|part| part.committables.len()).sum();
        if files > 0 {
            let _ = write!(text, ": {files} committables");
        }
        text.push('\n');
        let mut tables: std::collections::BTreeMap<&str, (u64, u64)> = std::collections::BTreeMap::new();
        for table in parts.iter().flat_map(|part| &part.tables) {
            let sum = tables.entry(&table.name).or_default();
            sum.0 += table.rows;
            sum.1 += table.segments.iter().map(|s| s.object.bytes).sum::<u64>();
        }
        for (name, (rows, bytes)) in tables {
            let _ = writeln!(text, "  {name}: {} rows, {} bytes", count(rows), count(bytes));
        }
        let native: u64 = parts.iter().flat_map(|part| &part.files).map(|file| file.object.bytes).sum();
        if native > 0 {
            let _ = writeln!(text, "  files of the state backend: {} bytes", count(native));
        }
        for state in &node.states {
            let _ = writeln!(text, "  state {} {} version {}", state.name, state.type_text(), state.version);
        }
    }
    text
}
