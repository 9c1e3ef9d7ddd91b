//! File and line of places in a component's code, from its debug sections.
//!
//! The runtime could do this itself, but does it for each trap anew, and the search for poison rows traps a dozen
//! times: reading the debug sections takes as long as millions of rows. Here a place is looked up once.
//!
//! Law: debug sections are a guest's bytes like any others; where they make no sense there is no file and line.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianSlice, LittleEndian};
use tidemill_model::panics;
use wasmparser::{Parser, Payload};

/// Places remembered of one component: a guest that traps all over its code shall not fill the memory.
const PLACES_MAX: usize = 10_000;

/// One function at a place: those that were inlined come before the one that they were inlined into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Symbol {
    pub(crate) name: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
}

/// The debug sections of a component's modules, and what was looked up in them so far.
#[derive(Default)]
pub(crate) struct Symbols {
    modules: Vec<Module>,
    /// By offset in the component's file.
    known: Mutex<HashMap<usize, Arc<[Symbol]>>>,
}

#[derive(Default)]
struct Module {
    /// Where its code section is in the component's file.
    code: Range<usize>,
    /// Debug sections by name.
    sections: HashMap<String, Box<[u8]>>,
}

impl Symbols {
    /// Takes the debug sections out of a component. None is no error.
    pub(crate) fn of(component: &[u8]) -> Self {
        let mut modules = Vec::new();
        // What is inside of what: a component holds modules, and may hold components.
        let mut open: Vec<Module> = Vec::new();
        for payload in Parser::new(0).parse_all(component) {
            match payload {
                Ok(Payload::Version { .. }) => open.push(Module::default()),
                Ok(Payload::CodeSectionStart { range, .. }) => {
                    if let Some(module) = open.last_mut() {
                        module.code = range;
                    }
                }
                Ok(Payload::CustomSection(section)) if section.name().starts_with(".debug_") => {
                    if let Some(module) = open.last_mut() {
                        module.sections.insert(section.name().to_owned(), section.data().into());
                    }
                }
                Ok(Payload::End(_)) => modules.extend(open.pop().filter(|m| !m.sections.is_empty())),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        Self { modules, known: Mutex::default() }
    }

    /// The functions at an offset in the component's file, innermost first; empty if nothing is known.
    pub(crate) fn at(&self, offset: usize) -> Arc<[Symbol]> {
        let mut known = self.known.lock().expect("no panic while held");
        if let Some(symbols) = known.get(&offset) {
            return symbols.clone();
        }
        let module = self.modules.iter().find(|m| m.code.contains(&offset));
        // A library that meets damaged sections may give up by panicking; that is no reason to end the job.
        let look_up = || module.and_then(|m| m.look_up(offset - m.code.start));
        let found = panics::caught(look_up).ok().flatten();
        let symbols: Arc<[Symbol]> = found.unwrap_or_default().into();
        if known.len() < PLACES_MAX {
            known.insert(offset, symbols.clone());
        }
        symbols
    }
}

impl Module {
    /// `address`: relative to the code section, as the debug sections count.
    fn look_up(&self, address: usize) -> Option<Vec<Symbol>> {
        let section = |id: addr2line::gimli::SectionId| {
            let data = self.sections.get(id.name()).map_or(&[][..], |data| data);
            Ok::<_, addr2line::gimli::Error>(EndianSlice::new(data, LittleEndian))
        };
        let context = Context::from_dwarf(Dwarf::load(section).ok()?).ok()?;
        let mut frames = context.find_frames(address as u64).skip_all_loads().ok()?;
        let mut symbols = Vec::new();
        while let Ok(Some(frame)) = frames.next() {
            symbols.push(Symbol {
                name: frame.function.as_ref().and_then(|f| f.raw_name().ok()).map(Into::into),
                file: frame.location.as_ref().and_then(|l| l.file).map(str::to_owned),
                line: frame.location.as_ref().and_then(|l| l.line),
            });
        }
        Some(symbols)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_component_know_nothing() {
        for bytes in [&b""[..], b"\0asm", b"\0asm\x0d\0\x01\0", b"nonsense"] {
            assert!(Symbols::of(bytes).at(0).is_empty());
        }
    }
}
