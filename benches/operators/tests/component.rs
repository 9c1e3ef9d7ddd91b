//! The operators as a component: cargo compiles them, `wit-component` encodes them, nothing but the contract is asked for.

use std::path::PathBuf;
use std::process::Command;

use wit_component::{ComponentEncoder, DecodedWasm};

/// Compiles this crate for WebAssembly beside what this test was built to, so that both share what they can.
fn core_module() -> Vec<u8> {
    let exe = std::env::current_exe().unwrap();
    let target: PathBuf = exe.ancestors().nth(3).unwrap().into();
    let output = Command::new(env!("CARGO"))
        .args(["build", "--lib", "--target", "wasm32-unknown-unknown", "--target-dir"])
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(target.join("wasm32-unknown-unknown/debug/bench_operators.wasm")).unwrap()
}

#[test]
fn the_component_has_the_contracts_exports_and_no_other_imports() {
    let component = ComponentEncoder::default().validate(true).module(&core_module()).unwrap().encode().unwrap();
    let DecodedWasm::Component(resolve, world) = wit_component::decode(&component).unwrap() else {
        panic!("what was encoded is no component")
    };
    let world = &resolve.worlds[world];
    let names = |keys: Vec<_>| -> Vec<String> { keys.into_iter().map(|key| resolve.name_world_key(key)).collect() };
    assert_eq!(
        names(world.exports.keys().collect()),
        ["lifecycle", "stateless", "keyed"].map(|name| format!("tidemill:operator/{name}@0.1.0"))
    );
    for import in names(world.imports.keys().collect()) {
        assert!(import.starts_with("tidemill:operator/"), "an import from elsewhere: {import}");
    }
}
