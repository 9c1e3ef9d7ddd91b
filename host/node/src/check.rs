//! `tidemill check`: reads, resolves and checks a pipeline, and shows the plan.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tidemill_control::{Loaded, describe, load};

use crate::catalog::Builtins;
use crate::terminal::{note, print};

#[derive(clap::Args)]
pub struct Args {
    /// The pipeline file (YAML)
    file: PathBuf,
}

/// What a command returns when the pipeline itself is wrong, so that scripts can tell it from a failed job.
pub const EXIT_BAD_PIPELINE: u8 = 2;

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(loaded) = load_or_report(&args.file)? else { return Ok(ExitCode::from(EXIT_BAD_PIPELINE)) };
    print(describe(&loaded))?;
    Ok(ExitCode::SUCCESS)
}

/// The checked pipeline; errors and warnings go to standard error. `None`: there were errors.
pub fn load_or_report(file: &Path) -> anyhow::Result<Option<Loaded>> {
    load_and_tell(file, true)
}

/// The same without warnings, which somebody else has shown.
pub fn load_silently(file: &Path) -> anyhow::Result<Option<Loaded>> {
    load_and_tell(file, false)
}

fn load_and_tell(file: &Path, warn: bool) -> anyhow::Result<Option<Loaded>> {
    let builtins = Builtins::new().map_err(anyhow::Error::new)?;
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match load(file, &builtins) {
        Ok(loaded) => {
            for warning in loaded.warnings.iter().filter(|_| warn) {
                note(warning.render(color));
            }
            Ok(Some(loaded))
        }
        Err(errors) => {
            note(errors.render(color).trim_end());
            Ok(None)
        }
    }
}
