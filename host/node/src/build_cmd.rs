//! `tidemill build`: compiles an operator crate with cargo and makes a component of it. No other tools.
//!
//! Law: what is written is a component that the host's encoder has validated, or nothing.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;
use tidemill_wasm::encode_component;

use crate::terminal::print;

const TARGET: &str = "wasm32-unknown-unknown";

/// Components are compiled like a release, but with line tables, so that a trap shows its place, and in cargo's
/// development profile, which shares the SDK's macros with `cargo test`.
const PROFILE: &[&str] = &[
    "profile.dev.opt-level=3",
    "profile.dev.debug=\"line-tables-only\"",
    "profile.dev.debug-assertions=false",
    "profile.dev.overflow-checks=false",
];

#[derive(clap::Args)]
pub struct Args {
    /// Folder of the operator crate
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Where to write the component [default: DIR/target/NAME.wasm]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A cargo profile of yours instead of the optimised one that is preset
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Further arguments for cargo, such as `-- --offline`
    #[arg(last = true)]
    cargo: Vec<String>,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let component = build(&args.dir, args.profile.as_deref(), &args.cargo, None)?;
    let out = match args.out {
        Some(out) => out,
        None => args.dir.join("target").join(format!("{}.wasm", package_name(&args.dir)?)),
    };
    write(&out, &component)?;
    print(format_args!("{}  {}\n", out.display(), size(component.len())))
}

/// The component of the crate in `dir`: for `tidemill build`, and for tests whose guests are built as they start.
pub fn build(
    dir: &Path,
    profile: Option<&str>,
    cargo_args: &[String],
    target_dir: Option<&Path>,
) -> anyhow::Result<Vec<u8>> {
    let manifest = dir.join("Cargo.toml");
    if !manifest.is_file() {
        bail!("there is no Cargo.toml in `{}`: `tidemill new NAME` starts an operator crate", dir.display());
    }
    let mut cargo = Command::new("cargo");
    cargo.current_dir(dir).args(["build", "--lib", "--target", TARGET, "--message-format=json-render-diagnostics"]);
    match profile {
        Some(profile) => cargo.args(["--profile", profile]),
        None => cargo.args(PROFILE.iter().flat_map(|setting| ["--config", setting])),
    };
    if let Some(target_dir) = target_dir {
        cargo.env("CARGO_TARGET_DIR", target_dir);
    }
    require_target(dir)?;
    let output = cargo.args(cargo_args).stderr(Stdio::inherit()).output().map_err(no_cargo)?;
    if !output.status.success() {
        bail!("`{}` does not compile: see cargo's messages above", dir.display());
    }
    let module = module_path(&String::from_utf8_lossy(&output.stdout), &manifest)?;
    let module = std::fs::read(&module).with_context(|| format!("can't read `{}`", module.display()))?;
    Ok(encode_component(&module)?)
}

/// Compiling without the target's standard library fails in the middle of a page of errors; this says it first.
fn require_target(dir: &Path) -> anyhow::Result<()> {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(dir).args(["--print", "target-libdir", "--target", TARGET]);
    let output = rustc.stderr(Stdio::inherit()).output().map_err(no_cargo)?;
    let libraries = String::from_utf8_lossy(&output.stdout);
    if Path::new(libraries.trim()).is_dir() {
        return Ok(());
    }
    bail!("Rust can't compile to WebAssembly yet: run `rustup target add {TARGET}`")
}

fn no_cargo(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow::anyhow!("there is no Rust on this machine: install it from https://rustup.rs")
        }
        _ => anyhow::Error::new(error).context("can't run cargo"),
    }
}

/// Finds the core module of this crate among cargo's messages.
fn module_path(messages: &str, manifest: &Path) -> anyhow::Result<PathBuf> {
    let manifest = manifest.canonicalize().with_context(|| format!("can't find `{}`", manifest.display()))?;
    let ours = |message: &Value| {
        let path = message.get("manifest_path").and_then(Value::as_str).map(Path::new);
        path.and_then(|p| p.canonicalize().ok()).is_some_and(|p| p == manifest)
    };
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let files = artifacts.filter(ours).filter_map(|message| message.get("filenames").cloned());
    let modules = files.flat_map(|files| files.as_array().cloned().unwrap_or_default());
    let paths = modules.filter_map(|file| file.as_str().map(PathBuf::from));
    let Some(module) = paths.into_iter().find(|path| path.extension() == Some(OsStr::new("wasm"))) else {
        bail!(
            "`{}` makes no WebAssembly module: add to it\n\n    [lib]\n    crate-type = [\"cdylib\", \"rlib\"]",
            manifest.display()
        )
    };
    Ok(module)
}

fn package_name(dir: &Path) -> anyhow::Result<String> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(dir).args(["read-manifest", "--offline"]).stderr(Stdio::inherit());
    let output = cargo.output().map_err(no_cargo)?;
    let manifest: Value = serde_json::from_slice(&output.stdout).context("cargo can't read the Cargo.toml")?;
    manifest.get("name").and_then(Value::as_str).map(str::to_owned).context("the Cargo.toml has no package name")
}

fn write(out: &Path, component: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = out.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| format!("can't make the folder `{}`", folder.display()))?;
    }
    std::fs::write(out, component).with_context(|| format!("can't write `{}`", out.display()))
}

fn size(bytes: usize) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_crate_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = build(folder.path(), None, &[], None).unwrap_err().to_string();
        assert!(error.contains("there is no Cargo.toml in") && error.contains("tidemill new NAME"), "{error}");
    }

    #[test]
    fn the_module_of_the_crate_itself_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("Cargo.toml");
        std::fs::write(&manifest, "").unwrap();
        let message = |manifest: &str, file: &str| {
            serde_json::json!({"reason": "compiler-artifact", "manifest_path": manifest, "filenames": [file]})
                .to_string()
        };
        let own = manifest.to_str().unwrap();
        let messages = [
            message("/elsewhere/Cargo.toml", "/t/other.wasm"),
            "not json".to_owned(),
            message(own, "/t/mine.rlib"),
            message(own, "/t/mine.wasm"),
        ];
        assert_eq!(module_path(&messages.join("\n"), &manifest).unwrap(), Path::new("/t/mine.wasm"));
        let error = module_path(&messages[..3].join("\n"), &manifest).unwrap_err().to_string();
        assert!(error.contains("crate-type = [\"cdylib\", \"rlib\"]"), "{error}");
    }
}
