//! `tidemill worker`: a process of a job that another one leads.
//!
//! It takes part in one generation of the job after the other: when the job has failed, or the leader was lost, it dials the leader
//! again, until the job has ended.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use tidemill_control::Loaded;
use tidemill_model::Fault;
use tidemill_runtime::cluster::{FollowOptions, Followed, Gate, GateOptions, follow};

use crate::catalog::{loader, wasm_host};
use crate::check::{EXIT_BAD_PIPELINE, load_or_report, load_silently};
use crate::cluster::{HostsArgs, end_with_parent, identity, secret_from_parent};
use crate::durable::{Durable, work_directory};
use crate::guest_metrics::GuestMetrics;
use crate::run::{failed, kill_at};
use crate::terminal::note;

#[derive(clap::Args)]
pub struct Args {
    /// The pipeline file (YAML), the same as the leader's
    file: PathBuf,
    /// Number of this process: its line in the hosts file, counted from 0
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    process: u16,
    #[command(flatten)]
    hosts: HostsArgs,
    /// The parent of this process, which has the secret on standard input
    #[arg(long, hide = true, conflicts_with = "hosts")]
    leader: Option<String>,
}

/// Between two attempts to reach the leader: it doubles from the first to the last.
const AGAIN_MIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(2);

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let process = usize::from(args.process);
    if let Some(leader) = &args.leader {
        let secret = secret_from_parent()?;
        // Whoever sends them sends them to the parent, too, which knows what to do.
        for signal in [SIGINT, SIGTERM] {
            // Sound: the handler does nothing.
            unsafe { signal_hook::low_level::register(signal, || {}) }?;
        }
        end_with_parent()?;
        // The parent has told of warnings.
        let Some(loaded) = load_silently(&args.file)? else { return Ok(ExitCode::from(EXIT_BAD_PIPELINE)) };
        let open = || {
            let identity = identity(&loaded.plan, &args.file)?;
            let address = "127.0.0.1:0".to_owned();
            Gate::open(GateOptions { identity, process, address, secret, tls: None })
        };
        return Ok(match open() {
            Ok(gate) => take_part(&loaded, args, &gate, leader, &gate.address().to_string(), true),
            Err(fault) => failed(&fault),
        });
    }
    let Some(hosts) = &args.hosts.hosts else {
        let help = "for several processes on one machine use `tidemill run --processes`";
        return Ok(failed(&Fault::config("`tidemill worker` needs `--hosts`").with_help(help)));
    };
    let Some(loaded) = load_or_report(&args.file)? else { return Ok(ExitCode::from(EXIT_BAD_PIPELINE)) };
    Ok(match args.hosts.open(hosts, process, &loaded.plan, &args.file) {
        Ok((gate, addresses)) => take_part(&loaded, args, &gate, &addresses[0], &addresses[process], false),
        Err(fault) => failed(&fault),
    })
}

/// Until the job has ended. A child says nothing: what it has to say the leader says.
fn take_part(loaded: &Loaded, args: &Args, gate: &Gate, leader: &str, own: &str, is_child: bool) -> ExitCode {
    let base = args.file.parent().unwrap_or(Path::new("")).to_owned();
    let durable = match Durable::open(&loaded.plan, &base) {
        Ok(durable) => durable,
        Err(fault) => return failed(&fault),
    };
    let scratch = match work_directory(&loaded.plan.options, &base) {
        Ok(scratch) => scratch,
        Err(fault) => return failed(&fault),
    };
    let wasm = match wasm_host() {
        Ok(wasm) => wasm,
        Err(fault) => return failed(&fault),
    };
    let _guests = GuestMetrics::install();
    let options = FollowOptions {
        plan: &loaded.plan,
        gate,
        leader,
        own,
        store: durable.map(|durable| durable.store),
        scratch,
        phases: kill_at(gate.process()),
        loader: loader(wasm),
    };
    let say = |line: String| {
        if !is_child {
            note(line);
        }
    };
    // What it waits for is said once.
    let (mut pause, mut halted, mut told) = (AGAIN_MIN, false, None);
    loop {
        match follow(&options) {
            Ok(Followed::Finished) => return ExitCode::SUCCESS,
            Ok(Followed::Halted) => (halted, told, pause) = (true, None, AGAIN_MIN),
            Ok(Followed::Failed(fault)) => {
                say(format!("error: {fault}\nwaiting for the job to start again"));
                (halted, told, pause) = (false, None, AGAIN_MIN);
            }
            Err(refused) if !refused.again => return failed(&refused.fault),
            // The job was stopped, and nobody starts it again.
            Err(_) if halted && pause == AGAIN_MAX => return ExitCode::SUCCESS,
            Err(refused) => {
                let why = refused.fault.to_string();
                if told.as_ref() != Some(&why) {
                    say(format!("waiting for the leader: {why}"));
                    told = Some(why);
                }
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(AGAIN_MAX);
    }
}
