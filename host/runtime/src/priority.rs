//! Threads whose work can wait.

/// What the system calls niceness: beside a worker that has much to do such a thread gets about a tenth of a core, and all of one that
/// nobody else needs.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// From now on this thread, and those that it starts, leave the processors to the rest of the job. There is no way back.
pub(crate) fn lower() {
    // To Linux a thread is a process of its own. Where the system refuses, it goes on as it is.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn only_the_thread_that_asks_becomes_nicer() {
        let nice = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        let before = nice();
        let lowered = std::thread::spawn(move || {
            super::lower();
            nice()
        });
        assert_eq!(lowered.join().unwrap(), super::NICE.max(before));
        assert_eq!(nice(), before);
    }
}
