//! Memory while a sink stands still: standard output is a pipe that nobody reads, behind a flat-map of
//! a hundred rows per row.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::child::{benches_dir, component, tidemill};
use crate::report::Figure;

pub fn run(seconds: u64) -> anyhow::Result<Vec<Figure>> {
    component()?;
    let mut child = Command::new(tidemill()?)
        .arg("run")
        .arg(benches_dir().join("pipelines/stall.yaml"))
        .args(["--workers", "2", "--quiet"])
        .stdout(Stdio::piped())
        .spawn()?;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) && child.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_millis(200));
    }
    let peak = peak_rss(&child);
    child.kill()?;
    child.wait()?;
    let more = [("stalled_s".to_owned(), began.elapsed().as_secs_f64())].into();
    Ok(vec![Figure {
        work: "stall".into(),
        engine: "tidemill".into(),
        peak_rss_bytes: peak,
        more,
        ..Figure::default()
    }])
}

/// High-water mark of a process, as long as it runs.
fn peak_rss(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
