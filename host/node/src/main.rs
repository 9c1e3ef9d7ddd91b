//! The command line: parses flags and calls the command.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tidemill::terminal::{EXIT_CLOSED, leave, note};
use tidemill::{build_cmd, check, inspect, jobs, new, run, upgrade, worker};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A stream-processing host whose operators are WebAssembly components.
#[derive(Parser)]
#[command(name = "tidemill", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start an operator crate with a test and a pipeline that runs
    New(new::Args),
    /// Compile an operator crate to a component
    Build(build_cmd::Args),
    /// Show what a component holds
    Inspect(inspect::Args),
    /// Check a pipeline file and show the plan, without running anything
    Check(check::Args),
    /// Run a pipeline
    Run(run::Args),
    /// Take part in a pipeline that `tidemill run --hosts` runs on another machine
    Worker(worker::Args),
    /// Show how a running job is doing
    Status(jobs::StatusArgs),
    /// Take, list, describe and delete savepoints
    #[command(subcommand)]
    Savepoint(jobs::Savepoints),
    /// Stop a running job at a checkpoint or savepoint, from which it can go on
    Stop(jobs::StopArgs),
    /// Change the number of workers of a running job
    Rescale(jobs::RescaleArgs),
    /// Replace the component of an operator while its job runs
    Upgrade(upgrade::Args),
}

fn main() {
    log_to_stderr();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !tidemill_model::panics::are_expected() {
            print(panic);
        }
    }));
    let outcome = match Cli::parse().command {
        Command::New(args) => new::run(args).map(|()| ExitCode::SUCCESS),
        Command::Build(args) => build_cmd::run(args).map(|()| ExitCode::SUCCESS),
        Command::Inspect(args) => inspect::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Check(args) => check::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Worker(args) => worker::run(&args),
        Command::Status(args) => jobs::status(&args).map(|()| ExitCode::SUCCESS),
        Command::Savepoint(command) => jobs::savepoint(&command),
        Command::Stop(args) => jobs::stop(&args).map(|()| ExitCode::SUCCESS),
        Command::Rescale(args) => jobs::rescale(&args).map(|()| ExitCode::SUCCESS),
        Command::Upgrade(args) => upgrade::run(&args),
    };
    let code = outcome.unwrap_or_else(|error| {
        if is_closed_pipe(&error) {
            return ExitCode::from(EXIT_CLOSED);
        }
        note(format_args!("error: {error:#}"));
        ExitCode::FAILURE
    });
    leave(code)
}

/// Nobody reads the output any more: the end, but nobody's mistake.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.root_cause().downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Log lines of operators and of the host; `TIDEMILL_LOG` sets the level (`debug`, `my_node=trace`).
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("TIDEMILL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // What cannot be logged is lost: the subscriber would complain about it with a panic.
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi);
    logger.with_writer(std::io::stderr).log_internal_errors(false).init();
}
