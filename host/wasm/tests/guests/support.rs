//! Builds the guest crate `tests/guests/evil` once, and opens its operators.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use tidemill_model::logic::{Logic, OpenContext, RowsIn};
use tidemill_model::time::Now;
use tidemill_model::{Fault, limits};
use tidemill_wasm::{Component, Limits, WasmConfig, WasmHost, encode_component};

/// Small enough to be broken quickly, large enough for a busy machine.
pub const LIMITS: Limits = Limits {
    memory_bytes: 16 << 20,
    call_ms: 500,
    return_bytes: 1 << 20,
    component_bytes: limits::COMPONENT_BYTES_MAX,
};

static CORE: LazyLock<Vec<u8>> = LazyLock::new(|| build(&[]));
static STATELESS: LazyLock<Vec<u8>> = LazyLock::new(|| build(&["--features", "stateless"]));
static HOST: LazyLock<Arc<WasmHost>> = LazyLock::new(|| host(None));
static EVIL: LazyLock<Arc<Component>> = LazyLock::new(|| load(&encode_component(core()).unwrap()).unwrap());

/// The core module as cargo leaves it.
pub fn core() -> &'static [u8] {
    &CORE
}

/// The one that exports the world `stateless-operator`.
pub fn stateless_core() -> &'static [u8] {
    &STATELESS
}

pub fn host(cache_dir: Option<PathBuf>) -> Arc<WasmHost> {
    WasmHost::new(WasmConfig { cache_dir, limits: LIMITS }).unwrap()
}

pub fn evil() -> Arc<Component> {
    EVIL.clone()
}

pub fn load(component: &[u8]) -> Result<Arc<Component>, Fault> {
    HOST.load_bytes("evil.wasm", component)
}

/// Opens an operator of the evil component with these settings.
pub fn open(operator: &str, config: &[(&str, &str)]) -> Result<Box<dyn Logic>, Fault> {
    evil().factory(operator)?.open(&context(operator, config))
}

pub fn context(operator: &str, config: &[(&str, &str)]) -> OpenContext {
    OpenContext {
        operator: operator.to_owned(),
        node: "node".to_owned(),
        config: config.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect(),
        key_schema: None,
        worker: 0,
        workers: 1,
    }
}

/// Rows of one column `n`.
pub fn numbers(numbers: &[i64]) -> RowsIn {
    let column = Arc::new(Int64Array::from(numbers.to_vec())) as ArrayRef;
    let schema = evil().operators()[1].inputs[0].schema.clone();
    let rows = RecordBatch::try_new(schema, vec![column]).unwrap();
    RowsIn { input: 0, rows, times: None, kinds: None, now: Now::START }
}

/// Builds the guest; one after the other, since all builds leave their result in the same place.
fn build(options: &[&str]) -> Vec<u8> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests/evil/Cargo.toml");
    let done = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--target", "wasm32-unknown-unknown", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target)
        .args(options)
        // Flags for the host's own code (coverage, for example) mean nothing to this target.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::read(target.join("wasm32-unknown-unknown/debug/evil.wasm")).unwrap()
}
