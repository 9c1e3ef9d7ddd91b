//! The clock that ends calls: one thread per engine that counts epochs, until it is dropped.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use wasmtime::Engine;

/// Length of an epoch: precise enough for limits of seconds, 100 wake-ups a second.
pub(crate) const TICK_MS: u64 = 10;

#[derive(Debug)]
pub(crate) struct Ticker {
    /// Dropped to stop the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    pub(crate) fn start(engine: Engine) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let tick = Duration::from_millis(TICK_MS);
        let thread = thread::Builder::new().name("wasm-epochs".to_owned()).spawn(move || {
            while stopped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                engine.increment_epoch();
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // The thread can't panic, and there is nobody to tell.
            let _ = thread.join();
        }
    }
}
