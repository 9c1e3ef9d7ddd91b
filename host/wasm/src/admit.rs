//! What may become a component at all: decided on its bytes and its names, before any of it runs.

use tidemill_model::Fault;

use crate::host::Limits;
use crate::imports::GRANTED;
use crate::trap::bytes;

const PACKAGE: &str = "tidemill:operator/";
const VERSION: &str = "0.1.0";

/// The interfaces that a component exports, under their full names.
pub(crate) const LIFECYCLE: &str = "tidemill:operator/lifecycle@0.1.0";
pub(crate) const STATELESS: &str = "tidemill:operator/stateless@0.1.0";
pub(crate) const KEYED: &str = "tidemill:operator/keyed@0.1.0";

/// How files begin that are taken for components.
const WASM: &[u8] = b"\0asm";
const CORE_VERSION: &[u8] = &[1, 0, 0, 0];
const ELF: &[u8] = b"\x7fELF";

/// Whether these bytes are a WebAssembly core module.
pub(crate) fn is_core_module(wasm: &[u8]) -> bool {
    wasm.starts_with(WASM) && wasm.get(4..8) == Some(CORE_VERSION)
}

/// Whether these bytes begin like a component.
pub(crate) fn is_component(wasm: &[u8]) -> bool {
    wasm.starts_with(WASM) && wasm.len() >= 8 && !is_core_module(wasm)
}

/// Refuses what is no component, with what it is instead.
pub(crate) fn check_bytes(wasm: &[u8], limits: &Limits) -> Result<(), Fault> {
    check_size(wasm.len() as u64, limits)?;
    let build = "run `tidemill build` in the operator's crate, and name the component that it writes";
    if is_component(wasm) {
        return Ok(());
    }
    let (what, help) = if wasm.is_empty() {
        ("is empty", build)
    } else if is_core_module(wasm) {
        ("is a core WebAssembly module, not a component", build)
    } else if wasm.starts_with(ELF) {
        ("is machine code, not a component; the host compiles components itself", build)
    } else if wasm.starts_with(b"(component") || wasm.starts_with(b"(module") {
        ("is WebAssembly text, not a component", "assemble it first, for example with `wasm-tools parse`")
    } else {
        ("is not a WebAssembly component", build)
    };
    Err(Fault::component(what).with_help(help))
}

pub(crate) fn check_size(size: u64, limits: &Limits) -> Result<(), Fault> {
    if size <= limits.component_bytes {
        return Ok(());
    }
    let most = bytes(limits.component_bytes as usize);
    Err(Fault::component(format!("has {size} bytes; a component may have {most}"))
        .with_help("build it optimised, and without debug information"))
}

/// Refuses imports that nothing grants, and contracts of another version.
pub(crate) fn check_names(imports: &[String], exports: &[String]) -> Result<(), Fault> {
    let refused: Vec<&str> = imports.iter().map(String::as_str).filter(|i| !GRANTED.contains(i)).collect();
    if let Some(&first) = refused.first() {
        return Err(refuse_import(first, &refused));
    }
    for name in [LIFECYCLE, STATELESS, KEYED] {
        if let Some(other) = other_version(name, exports) {
            return Err(speaks(format!("exports `{other}`")));
        }
    }
    match exports.iter().any(|e| e == LIFECYCLE) {
        true => Ok(()),
        false => Err(Fault::component(format!("does not export `{LIFECYCLE}`"))
            .with_help("an operator component exports the world `operator` of tidemill:operator")),
    }
}

fn refuse_import(first: &str, all: &[&str]) -> Fault {
    if let Some(interface) = first.strip_prefix(PACKAGE) {
        let plain = interface.split('@').next().unwrap_or(interface);
        if GRANTED.iter().any(|g| *g == format!("{PACKAGE}{plain}@{VERSION}")) {
            return speaks(format!("imports `{first}`"));
        }
        return Fault::component(format!("imports `{first}`, which is not in tidemill:operator@{VERSION}"));
    }
    let more = match all.len() - 1 {
        0 => String::new(),
        _ => format!(" (nor {})", all[1..].iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")),
    };
    Fault::component(format!("imports `{first}`, which no grant allows{more}")).with_help(
        "operators have no files, clock, randomness or network; \
         build for wasm32-unknown-unknown, or stub WASI (`--stub-wasi`)",
    )
}

fn speaks(what: String) -> Fault {
    Fault::component(format!("{what}, this host speaks {VERSION}"))
        .with_help("build it again with the SDK of this version (`tidemill build`)")
}

/// The same interface as `name` in another version, if that is exported and `name` is not.
fn other_version<'a>(name: &str, exports: &'a [String]) -> Option<&'a String> {
    let plain = name.split('@').next().unwrap_or(name);
    let same = |e: &&String| e.split('@').next() == Some(plain);
    exports.iter().find(|e| e.as_str() == name).map_or_else(|| exports.iter().find(same), |_| None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&n| n.to_owned()).collect()
    }

    #[test]
    fn names_decide_before_anything_runs() {
        let log = "tidemill:operator/logging@0.1.0";
        for (imports, exports, expected) in [
            (&[log, "tidemill:operator/types@0.1.0"][..], &[LIFECYCLE, KEYED][..], "ok"),
            (
                &["wasi:filesystem/types@0.2.0"],
                &[LIFECYCLE],
                "imports `wasi:filesystem/types@0.2.0`, which no grant allows",
            ),
            (
                &["wasi:cli/exit@0.2.0", "wasi:io/poll@0.2.0"],
                &[LIFECYCLE],
                "imports `wasi:cli/exit@0.2.0`, which no grant allows (nor `wasi:io/poll@0.2.0`)",
            ),
            (
                &["tidemill:operator/logging@0.2.0"],
                &[LIFECYCLE],
                "imports `tidemill:operator/logging@0.2.0`, this host speaks 0.1.0",
            ),
            (
                &["tidemill:operator/clock@0.1.0"],
                &[LIFECYCLE],
                "imports `tidemill:operator/clock@0.1.0`, which is not in tidemill:operator@0.1.0",
            ),
            (&["env"], &[LIFECYCLE], "imports `env`, which no grant allows"),
            (
                &[],
                &["tidemill:operator/lifecycle@0.2.0"],
                "exports `tidemill:operator/lifecycle@0.2.0`, this host speaks 0.1.0",
            ),
            (
                &[],
                &[LIFECYCLE, "tidemill:operator/keyed@0.1.1"],
                "exports `tidemill:operator/keyed@0.1.1`, this host speaks 0.1.0",
            ),
            (&[], &["tidemill:operator/lifecycle"], "exports `tidemill:operator/lifecycle`, this host speaks 0.1.0"),
            (&[], &[KEYED], "does not export `tidemill:operator/lifecycle@0.1.0`"),
            (&[], &[], "does not export `tidemill:operator/lifecycle@0.1.0`"),
        ] {
            let got =
                check_names(&names(imports), &names(exports)).map_or_else(|fault| fault.message, |()| "ok".into());
            assert_eq!(got, expected);
        }
    }
}
