//! Panics of libraries that a user's data sets off: caught, told as an error, and not printed for each row that does it.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic on bad data. `Err`: the panic's message. What `run` has changed must not be used after that.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let before = EXPECTED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(run));
    EXPECTED.set(before);
    outcome.map_err(|panic| text(&*panic))
}

/// From now on no panic of this thread is printed: another thread sees how it ends.
pub fn expect_on_this_thread() {
    EXPECTED.set(true);
}

/// Whether a panic on this thread is expected, as by [`caught`]: a panic hook need not print it.
pub fn are_expected() -> bool {
    EXPECTED.get()
}

/// The message of a panic.
pub fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_texts() {
        assert_eq!(caught(|| 1), Ok(1));
        assert_eq!(caught(|| assert!(are_expected())), Ok(()));
        assert!(!are_expected());
        assert_eq!(caught(|| panic!("a {}", 1)), Err::<(), _>("a 1".to_owned()));
        assert_eq!(caught(|| panic!("b")), Err::<(), _>("b".to_owned()));
        assert!(!are_expected());
    }
}
