//! `tidemill new`: starts an operator crate that builds, with a test and a pipeline that runs.
//!
//! Laws: nothing that exists is overwritten; what is written needs no Tidemill but the binary that wrote it,
//! because the SDK's sources and the contract come along.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use include_dir::{Dir, include_dir};

use crate::terminal::print;

/// Bytes in a name, as everywhere in a pipeline.
const NAME_BYTES_MAX: usize = tidemill_model::limits::NAME_BYTES_MAX;

/// Names that cargo or the compiler keep to themselves, or that the scaffold needs.
const RESERVED: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "tidemill-sdk",
    "tidemill-sdk-derive",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

static CRATE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates/new");
static WIT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../wit");
static SDK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../guest-sdk/rust/src");
static DERIVE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../guest-sdk/rust-derive/src");

/// Single files of `NAME/sdk`.
const SDK_FILES: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../templates/sdk.toml.in")),
    ("README.md", include_str!("../templates/sdk-README.md.in")),
    ("OPERATORS.md", include_str!("../../../OPERATORS.md")),
    ("PIPELINE.md", include_str!("../../../PIPELINE.md")),
    ("guest-sdk/rust/Cargo.toml", include_str!("../../../guest-sdk/rust/Cargo.toml")),
    ("guest-sdk/rust-derive/Cargo.toml", include_str!("../../../guest-sdk/rust-derive/Cargo.toml")),
];

#[derive(clap::Args)]
pub struct Args {
    /// Name of the crate, and of the folder to be made (a path makes it there)
    name: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    create(&args.name)?;
    let folder = args.name.display();
    print(format_args!("{folder}: an operator, its test, and a pipeline\n"))?;
    print(format_args!("    cd {folder} && cargo test && tidemill build && tidemill run pipeline.yaml\n"))?;
    Ok(())
}

/// Writes the crate to the folder, whose last part is its name.
fn create(folder: &Path) -> anyhow::Result<()> {
    let name = folder.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    check_name(name)?;
    if fs::symlink_metadata(folder).is_ok() {
        bail!("`{}` exists already: choose another name, or remove it first", folder.display());
    }
    let sdk = folder.join("sdk");
    extract(&CRATE, folder, name)?;
    extract(&WIT, &sdk.join("wit"), name)?;
    extract(&SDK, &sdk.join("guest-sdk/rust/src"), name)?;
    extract(&DERIVE, &sdk.join("guest-sdk/rust-derive/src"), name)?;
    SDK_FILES.iter().try_for_each(|(path, text)| write(&sdk.join(path), &fill(text, name)))
}

fn check_name(name: &str) -> anyhow::Result<()> {
    let rule = "a name has small letters, digits, `-` and `_`, and starts with a letter";
    if name.is_empty() {
        bail!("a name is missing: {rule}");
    }
    if let Some(bad) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '_')) {
        bail!("`{name}` can't be a name because of `{bad}`: {rule}");
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        bail!("`{name}` can't be a name because of its first character: {rule}");
    }
    if name.len() > NAME_BYTES_MAX {
        bail!("`{name}` is too long: a name has at most {NAME_BYTES_MAX} bytes");
    }
    if RESERVED.contains(&name.replace('_', "-").as_str()) {
        bail!("`{name}` can't be a name: it means something to Rust. Try `{name}-operators`");
    }
    Ok(())
}

/// Writes an embedded folder. `.in` is cut from file names, `gitignore` gets its dot.
fn extract(dir: &Dir<'_>, to: &Path, name: &str) -> anyhow::Result<()> {
    for file in dir.files() {
        let base = file.path().file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let base = base.strip_suffix(".in").unwrap_or(base);
        let base = if base == "gitignore" { ".gitignore" } else { base };
        let text = file.contents_utf8().with_context(|| format!("the template {base} is not text"))?;
        write(&to.join(base), &fill(text, name))?;
    }
    for inner in dir.dirs() {
        extract(inner, &to.join(inner.path().file_name().unwrap_or_default()), name)?;
    }
    Ok(())
}

fn fill(text: &str, name: &str) -> String {
    text.replace("{{name}}", name)
        .replace("{{version}}", env!("CARGO_PKG_VERSION"))
        .replace("{{rust-version}}", env!("CARGO_PKG_RUST_VERSION"))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("can't make the folder `{}`", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("can't write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

    #[test]
    fn bad_names_are_refused_with_the_rule() {
        for (name, expected) in [
            ("Orders", "`Orders` can't be a name because of `O`"),
            ("my orders", "`my orders` can't be a name because of ` `"),
            ("1st", "`1st` can't be a name because of its first character"),
            ("-x", "`-x` can't be a name because of its first character"),
            ("..", "a name is missing"),
            ("match", "`match` can't be a name: it means something to Rust. Try `match-operators`"),
            ("tidemill_sdk", "`tidemill_sdk` can't be a name"),
            (&"x".repeat(65), "is too long: a name has at most 64 bytes"),
        ] {
            let error = create(&Path::new("/nowhere").join(name)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_exists_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        fs::write(&taken, "mine").unwrap();
        let error = create(&taken).unwrap_err().to_string();
        assert!(error.contains("exists already"), "{error}");
        assert_eq!(fs::read_to_string(&taken).unwrap(), "mine");
    }

    #[test]
    fn the_sdk_comes_with_the_versions_of_this_repository() {
        let root = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
        let template = include_str!("../templates/sdk.toml.in");
        let dependencies = template.split("[workspace.dependencies]").nth(1).unwrap().lines();
        for line in dependencies.take_while(|l| !l.starts_with("[w")).filter(|l| l.contains('=') && !l.contains("path"))
        {
            assert!(root.lines().any(|l| l == line), "the workspace does not have the line: {line}");
        }
    }

    /// The scaffold as a user gets it: its test passes, it becomes a component. Versions are those of this
    /// repository, so that nothing is fetched.
    #[test]
    fn a_new_crate_tests_and_builds() {
        let folder = tempfile::tempdir().unwrap();
        let krate = folder.path().join("my-orders");
        create(&krate).unwrap();
        assert!(krate.join(".gitignore").is_file() && krate.join("pipeline.yaml").is_file());
        // The SDK's own tests include the guide from where it lies in the repository.
        assert!(krate.join("sdk/guest-sdk/rust/src/../../../OPERATORS.md").is_file());
        assert!(krate.join("sdk/PIPELINE.md").is_file());
        fs::copy(Path::new(ROOT).join("Cargo.lock"), krate.join("Cargo.lock")).unwrap();
        // Kept between runs beside what this test was built to.
        let exe = std::env::current_exe().unwrap();
        let target = exe.ancestors().nth(3).unwrap().join("scaffold");
        let output = Command::new("cargo")
            .args(["test", "--quiet"])
            .current_dir(&krate)
            .env("CARGO_TARGET_DIR", &target)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let component = crate::build_cmd::build(&krate, None, &[], Some(&target)).unwrap();
        assert!(component.starts_with(b"\0asm\x0d\0\x01\0"), "a component, not a core module");
    }
}
