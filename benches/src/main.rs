//! The benchmarks that need a program: the same operators native instead of WASM, latency at a fixed
//! rate, time to the first row, memory while a sink stands still. `./dev bench` calls them.

mod child;
mod latency;
mod micro;
mod native;
mod report;
mod stall;
mod start;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run benches/peers/tidemill/WORK.yaml with native operators; prints the summary as JSON
    Native { work: String, rows: u64 },
    /// Source to sink at 200,000 rows/s
    Latency(Out),
    /// From the start of the process to the first row out, component compiled
    Start(Out),
    /// Peak memory while a sink stands still for a minute behind a hundredfold flat-map
    Stall {
        #[command(flatten)]
        out: Out,
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Write what the last `cargo bench` measured
    Micro(Out),
}

#[derive(clap::Args)]
struct Out {
    /// Also write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Native { work, rows } => native::run(&work, rows),
        Command::Latency(out) => report::write(&latency::run()?, out.json.as_deref()),
        Command::Start(out) => report::write(&start::run()?, out.json.as_deref()),
        Command::Stall { out, seconds } => report::write(&stall::run(seconds)?, out.json.as_deref()),
        Command::Micro(out) => report::write(&micro::run()?, out.json.as_deref()),
    }
}
