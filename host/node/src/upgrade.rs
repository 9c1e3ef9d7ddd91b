//! `tidemill upgrade`: replaces the component of an operator while its job runs.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use tidemill_model::config::DurationMs;

use crate::control_socket::{Answer, Request, Shadow};
use crate::jobs::{Job, answered, unexpected};
use crate::summary::count;
use crate::terminal::print;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    job: Job,
    /// The operator, as the pipeline calls it
    #[arg(long, value_name = "NAME")]
    operator: String,
    /// The component that takes over
    #[arg(long, value_name = "FILE")]
    component: PathBuf,
    /// Only say whether it fits, and what would become of the state
    #[arg(long)]
    dry_run: bool,
    /// First let it work beside the one that runs for so long (30s, 5m), and show the rows that differ; with differences the
    /// running one stays
    #[arg(long, value_name = "DURATION")]
    shadow: Option<DurationMs>,
    /// Go over even if rows differ in the shadow
    #[arg(long, requires = "shadow")]
    accept_differences: bool,
    /// Give up the values of a state; may be repeated
    #[arg(long, value_name = "STATE")]
    drop_state: Vec<String>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let shown = args.component.display();
    // The job may stand in another folder.
    let component = args.component.canonicalize().with_context(|| format!("`{shown}` can't be read"))?;
    let request = Request::Upgrade {
        operator: args.operator.clone(),
        component,
        dry_run: args.dry_run,
        shadow_ms: args.shadow.map(|shadow| shadow.0.unsigned_abs()),
        accept: args.accept_differences,
        dropped: args.drop_state.clone(),
    };
    let Answer::Upgraded { changes, digest, took_ms, shadow } = answered(&args.job, &request)? else {
        return unexpected().map(|()| ExitCode::SUCCESS);
    };
    let mut text = String::new();
    changes.iter().for_each(|change| {
        let _ = writeln!(text, "{change}");
    });
    let differs = shadow.as_ref().is_some_and(|shadow| shadow.differing > 0);
    if let Some(shadow) = &shadow {
        describe(shadow, &mut text);
    }
    let (operator, digest) = (&args.operator, digest.get(..12).unwrap_or_default());
    match took_ms {
        None if differs && !args.dry_run => {
            print(text)?;
            bail!(
                "operator {operator} stays as it is: component {digest} emits other rows\n  \
                 help: `--accept-differences` goes over nevertheless"
            );
        }
        None => {
            let _ = writeln!(text, "operator {operator} can go over to component {digest}: nothing was changed");
        }
        Some(took) => {
            let _ = writeln!(
                text,
                "operator {operator} runs component {digest}, {took:.1} ms after the request was found good\n\
                 the next start takes what the pipeline file names: if that is another file than {shown}, change it"
            );
        }
    }
    print(text)?;
    Ok(ExitCode::SUCCESS)
}

/// What came of a shadow, for people.
fn describe(shadow: &Shadow, text: &mut String) {
    let rows = count(shadow.rows);
    let _ = match shadow.differing {
        0 => writeln!(text, "shadow: {rows} rows compared, none differs"),
        differing => {
            writeln!(
                text,
                "shadow: {rows} rows compared, {} differ (- emitted now, + by the new one):",
                count(differing)
            )
        }
    };
    shadow.examples.iter().for_each(|row| {
        let _ = writeln!(text, "  {row}");
    });
    if shadow.differing > shadow.examples.len() as u64 {
        let _ = writeln!(text, "  ...");
    }
    if shadow.fell_behind {
        let _ = writeln!(text, "shadow: the new component is slower than its input, so only a part of it was compared");
    }
}
