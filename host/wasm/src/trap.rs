//! What a trap was, in the user's words: the limit that was broken or the panic, then the guest's stack.

use std::fmt::Write;

use wasmtime::{FrameInfo, Trap, WasmBacktrace};

use crate::host::Limits;
use crate::sandbox::GuestState;
use crate::symbols::{Symbol, Symbols};

/// Frames shown: enough to reach the user's code through a library.
const FRAMES_MAX: usize = 16;
/// Functions and folders of what a panic or a failed allocation puts on top of the place that matters.
const MACHINERY: &[&str] = &["core::", "std::", "alloc::", "<alloc::", "__rust", "rust_", "abort"];
const MACHINERY_FOLDERS: &[&str] = &["/library/core/src/", "/library/std/src/", "/library/alloc/src/", "/rust/deps/"];

/// What a guest has done that does not speak as the contract says.
pub(crate) const BROKEN: &str = "broke the contract";

/// The error of a call as text: what happened, and where in the guest.
pub(crate) fn explain(error: &wasmtime::Error, state: &GuestState, limits: &Limits, symbols: &Symbols) -> String {
    let mut text = what(error, state, limits);
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        frames(backtrace, symbols, &mut text);
    }
    text
}

fn what(error: &wasmtime::Error, state: &GuestState, limits: &Limits) -> String {
    if let Some(limit) = &state.budget.broken {
        return limit.clone();
    }
    if let Some(panic) = &state.panic {
        return if panic.starts_with("panicked") { panic.clone() } else { format!("panicked: {panic}") };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => return format!("ran longer than {} ms", limits.call_ms),
        Some(Trap::StackOverflow) => return "used up its stack: endless recursion?".to_owned(),
        // A guest's own stack lies at the bottom of its memory: past its end there is nothing.
        Some(Trap::MemoryOutOfBounds) => return "left its memory: endless recursion, or a wild pointer".to_owned(),
        Some(Trap::UnreachableCodeReached) => return "aborted (wasm `unreachable`), without a message".to_owned(),
        Some(trap) => return format!("trapped: {trap}"),
        None => {}
    }
    let root = error.root_cause().to_string();
    // The runtime's own type for this is private.
    if root.contains("fuel allocated for hostcalls") {
        return format!("returned more than {} from one call", bytes(limits.return_bytes));
    }
    format!("{BROKEN}: {root}")
}

fn frames(backtrace: &WasmBacktrace, symbols: &Symbols, into: &mut String) {
    let names: Vec<String> = backtrace.frames().iter().flat_map(|frame| lines(frame, symbols)).collect();
    let is_machinery = |name: &String| {
        MACHINERY.iter().any(|m| name.starts_with(m)) || MACHINERY_FOLDERS.iter().any(|f| name.contains(f))
    };
    // A stack of nothing but machinery is shown in full.
    let skipped = names.iter().position(|name| !is_machinery(name)).unwrap_or(0);
    if names.is_empty() {
        return;
    }
    into.push_str("\n  guest stack:");
    for (index, name) in names.iter().skip(skipped).take(FRAMES_MAX).enumerate() {
        // Writing to a string can't fail.
        let _ = write!(into, "\n    {index}: {name}");
    }
    let left = names.len().saturating_sub(skipped + FRAMES_MAX);
    if left > 0 {
        let _ = write!(into, "\n    ... {left} more");
    }
}

/// `name at file:line`, demangled, as far as the component's name and debug sections know; functions
/// that were inlined into another have lines of their own.
fn lines(frame: &FrameInfo, symbols: &Symbols) -> Vec<String> {
    let whole = || match frame.func_name() {
        Some(name) => demangled(name),
        None => format!("function {}", frame.func_index()),
    };
    let symbols = frame.module_offset().map(|offset| symbols.at(offset)).unwrap_or_default();
    if symbols.is_empty() {
        return vec![whole()];
    }
    // The last one is the function itself, whose full name is in the name section.
    let line = |(index, symbol): (usize, &Symbol)| {
        let inlined = index + 1 < symbols.len();
        let name = symbol.name.as_deref().filter(|_| inlined).map_or_else(whole, demangled);
        match (&symbol.file, symbol.line) {
            (Some(file), Some(line)) => format!("{name} at {file}:{line}"),
            _ => name,
        }
    };
    symbols.iter().enumerate().map(line).collect()
}

fn demangled(name: &str) -> String {
    // The alternate form leaves the hash out.
    format!("{:#}", rustc_demangle::demangle(name))
}

/// A number of bytes for people.
pub(crate) fn bytes(n: usize) -> String {
    match n {
        n if n >= 1 << 20 && n.is_multiple_of(1 << 20) => format!("{} MiB", n >> 20),
        n if n >= 1 << 10 && n.is_multiple_of(1 << 10) => format!("{} KiB", n >> 10),
        n => format!("{n} bytes"),
    }
}
