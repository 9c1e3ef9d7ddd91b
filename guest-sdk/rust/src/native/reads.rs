//! What a keyed call may ask of lists and maps. In a component the host answers; natively whoever makes the call, for as long as it
//! takes.

use super::records::{Column, Entries};

/// The interface `state` of the contract. `Err` is a trap: the question was wrong, or there is no answer.
pub trait EntryReads {
    fn get_many(&mut self, state: u16, key_index: &[u8], entry_keys: &Column) -> Result<Column, String>;
    fn scan(&mut self, state: u16, key_index: &[u8], after: Option<&Column>, limit: u32) -> Result<Entries, String>;
}

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::cell::Cell;
    use std::ptr::NonNull;

    use super::EntryReads;

    thread_local! {
        static READS: Cell<Option<NonNull<dyn EntryReads>>> = const { Cell::new(None) };
    }

    /// Puts back what was there before, also when the call panics.
    struct Before(Option<NonNull<dyn EntryReads>>);

    impl Drop for Before {
        fn drop(&mut self) {
            READS.set(self.0);
        }
    }

    /// Does a keyed call that may read entries.
    pub fn with_entries<T>(reads: &mut dyn EntryReads, call: impl FnOnce() -> T) -> T {
        // SAFETY: only the lifetime is forgotten; the pointer is gone when the borrow ends.
        let reads =
            unsafe { std::mem::transmute::<NonNull<dyn EntryReads + '_>, NonNull<dyn EntryReads>>(reads.into()) };
        let _before = Before(READS.replace(Some(reads)));
        call()
    }

    /// Outside of a call there is nothing to read. Taken while it is used, so that there is one reference only.
    pub(crate) fn reads<T>(ask: impl FnOnce(&mut dyn EntryReads) -> Result<T, String>) -> Result<T, String> {
        let Some(mut reads) = READS.take() else { return Err("only a keyed call can read lists and maps".to_owned()) };
        let _before = Before(Some(reads));
        // SAFETY: see `with_entries`.
        ask(unsafe { reads.as_mut() })
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::reads;
#[cfg(not(target_arch = "wasm32"))]
pub use native::with_entries;

#[cfg(target_arch = "wasm32")]
pub(crate) fn reads<T>(ask: impl FnOnce(&mut dyn EntryReads) -> Result<T, String>) -> Result<T, String> {
    ask(&mut crate::wasm::HostReads)
}
