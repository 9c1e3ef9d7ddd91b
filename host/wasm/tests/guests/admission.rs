//! What is refused before any of it runs, and what `describe` may say.

use tidemill_model::component::{LogicKind, StateScope};
use tidemill_model::fault::FaultKind;
use tidemill_wasm::encode_component;
use wasm_encoder::{
    Component, ComponentExportKind, ComponentExportSection, ComponentImportSection, ComponentInstanceSection,
    ComponentTypeRef, ComponentTypeSection, InstanceType,
};

use crate::support::{self, core, evil, load, stateless_core};

/// A component that does nothing but import and export empty interfaces of these names.
fn shell(imports: &[&str], exports: &[&str]) -> Vec<u8> {
    let mut component = Component::new();
    let mut types = ComponentTypeSection::new();
    types.instance(&InstanceType::new());
    component.section(&types);
    let mut section = ComponentImportSection::new();
    for &name in imports {
        section.import(name, ComponentTypeRef::Instance(0));
    }
    component.section(&section);
    let mut section = ComponentInstanceSection::new();
    section.export_items([] as [(&str, ComponentExportKind, u32); 0]);
    component.section(&section);
    let mut section = ComponentExportSection::new();
    for &name in exports {
        section.export(name, ComponentExportKind::Instance, imports.len() as u32, None);
    }
    component.section(&section);
    component.finish()
}

/// The evil core module with some bytes replaced by as many others.
fn patched(core: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut core = core.to_vec();
    let places: Vec<usize> =
        core.windows(from.len()).enumerate().filter(|(_, w)| *w == from.as_bytes()).map(|(i, _)| i).collect();
    assert!(!places.is_empty(), "`{from}` is not in the module");
    for at in places {
        core[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    core
}

fn described_as(case: &str) -> Vec<u8> {
    let core = patched(core(), "evil-describe-case:00", &format!("evil-describe-case:{case}"));
    encode_component(&core).unwrap()
}

#[test]
fn what_is_no_component_of_this_contract_is_refused_by_name() {
    let good = encode_component(core()).unwrap();
    let lifecycle = "tidemill:operator/lifecycle@0.1.0";
    for (bytes, expected) in [
        (vec![], "component `evil.wasm` is empty"),
        (b"departures;tail;delay".to_vec(), "component `evil.wasm` is not a WebAssembly component"),
        (b"\0asm".to_vec(), "component `evil.wasm` is not a WebAssembly component"),
        (core().to_vec(), "component `evil.wasm` is a core WebAssembly module, not a component"),
        (b"(component)".to_vec(), "component `evil.wasm` is WebAssembly text, not a component"),
        (
            b"\x7fELF....".to_vec(),
            "component `evil.wasm` is machine code, not a component; the host compiles components itself",
        ),
        (good[..good.len() / 2].to_vec(), "component `evil.wasm` is damaged, cut off or of an unknown kind: "),
        (
            encode_component(&patched(core(), "@0.1.0", "@0.2.0")).unwrap(),
            "component `evil.wasm` imports `tidemill:operator/logging@0.2.0`, this host speaks 0.1.0",
        ),
        (
            shell(&[], &["tidemill:operator/lifecycle@0.2.0"]),
            "component `evil.wasm` exports `tidemill:operator/lifecycle@0.2.0`, this host speaks 0.1.0",
        ),
        (shell(&[], &[]), "component `evil.wasm` does not export `tidemill:operator/lifecycle@0.1.0`"),
        (
            shell(&["wasi:filesystem/types@0.2.0"], &[lifecycle]),
            "component `evil.wasm` imports `wasi:filesystem/types@0.2.0`, which no grant allows",
        ),
        (
            shell(&["tidemill:operator/clock@0.1.0"], &[lifecycle]),
            "component `evil.wasm` imports `tidemill:operator/clock@0.1.0`, which is not in tidemill:operator@0.1.0",
        ),
        (shell(&[], &[lifecycle]), "component `evil.wasm` does not follow the contract tidemill:operator@0.1.0: "),
        (
            encode_component(stateless_core()).unwrap(),
            "component `evil.wasm` does not export `tidemill:operator/keyed@0.1.0`, which operator `echo_keyed` of kind `keyed` needs",
        ),
    ] {
        let fault = load(&bytes).expect_err(expected);
        assert_eq!(fault.kind, FaultKind::Component);
        let exact = !expected.ends_with(": ");
        assert!(
            if exact { fault.message == expected } else { fault.message.starts_with(expected) },
            "{}",
            fault.message
        );
        assert!(fault.help.is_some() || expected.contains("clock"), "{expected}");
    }
}

#[test]
fn a_description_is_checked() {
    for (case, expected) in [
        ("01", "failed in `describe`: panicked"),
        ("02", "describes itself wrongly: operator `map`: kind `aggregate` is unknown to this host"),
        ("03", "describes itself wrongly: it has no operators"),
        ("04", "failed in `describe`: ran longer than 500 ms"),
        ("05", "describes itself wrongly: operator `map`: output `out`: column `n`: `int` is not a type"),
        ("06", "describes itself wrongly: operator `map`: input `xxx"),
    ] {
        let fault = load(&described_as(case)).expect_err(expected);
        let message = fault.message.strip_prefix("component `evil.wasm` ").unwrap();
        // The panic hook is set in `open`, so that `describe` can only say that it aborted.
        let expected = if case == "01" { "failed in `describe`: aborted" } else { expected };
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn a_description_becomes_a_descriptor() {
    let component = evil();
    let names: Vec<&str> = component.operators().iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["echo", "map", "filter", "echo_keyed", "keyed", "shared"]);
    let [echo, map, filter, _, keyed, shared] = component.operators() else { panic!("six operators") };
    assert_eq!((echo.kind, filter.kind, keyed.kind), (LogicKind::Map, LogicKind::Filter, LogicKind::Keyed));
    assert_eq!(map.doc, "Does evil as `map`.");
    assert!(echo.changes && echo.reads_time && !map.changes);
    assert_eq!(map.outputs[1].name, "side");
    assert!(keyed.states.iter().all(|s| s.field.is_nullable() && s.scope == StateScope::Key));
    assert_eq!(shared.inputs.iter().map(|port| port.broadcast).collect::<Vec<_>>(), [false, true]);
    let scopes = shared.states.iter().map(|state| state.scope);
    let (broadcast, split) = (StateScope::Broadcast, StateScope::Split);
    assert_eq!(scopes.collect::<Vec<_>>(), [StateScope::Key, broadcast, broadcast, split]);
    assert_eq!(component.digest().len(), 64);
    assert!(component.imports().contains(&"tidemill:operator/logging@0.1.0".to_owned()));
    assert!(component.exports().contains(&"tidemill:operator/keyed@0.1.0".to_owned()));
    let fault = component.factory("mop").err().unwrap();
    assert!(fault.message.starts_with("the component has no operator `mop`; it has `echo`, `map`"), "{fault}");
}

#[test]
fn a_part_of_a_component_may_be_enough() {
    // Without the keyed operators in the description, the world `stateless-operator` is enough.
    let core = patched(stateless_core(), "evil-describe-case:00", "evil-describe-case:08");
    let component = load(&encode_component(&core).unwrap()).unwrap();
    assert_eq!(component.operators().len(), 3);
}

#[test]
fn modules_without_an_interface_do_not_become_components() {
    for (bytes, expected) in [
        (&b"\0asm\x01\0\0\0"[..], "the module has no operator in it: it describes no interface"),
        (b"fn main() {}", "the compiler's output is not a WebAssembly module"),
    ] {
        assert_eq!(encode_component(bytes).unwrap_err().message, expected);
    }
    let component = encode_component(core()).unwrap();
    assert_eq!(encode_component(&component).unwrap(), component);
}

#[test]
fn files_that_can_not_be_read_or_are_too_large() {
    let folder = tempfile::tempdir().unwrap();
    let (missing, large) = (folder.path().join("missing.wasm"), folder.path().join("large.wasm"));
    std::fs::File::create(&large).unwrap().set_len(support::LIMITS.component_bytes + 1).unwrap();
    let host = support::host(None);
    assert_eq!(host.load(&missing).unwrap_err().kind, FaultKind::Io);
    assert_eq!(host.load(folder.path()).unwrap_err().kind, FaultKind::Io);
    let fault = host.load(&large).unwrap_err();
    assert!(fault.message.ends_with("has 67108865 bytes; a component may have 64 MiB"), "{fault}");
}
