//! Latency from source to sink at 200,000 rows/s, keyed count in WASM.

use crate::child::{self, component, number};
use crate::report::{Figure, median};

/// Rows per second and seconds of each run.
const RATE: u64 = 200_000;
const SECONDS: u64 = 10;
const RUNS: usize = 3;

pub fn run() -> anyhow::Result<Vec<Figure>> {
    component()?;
    let (p50, p99, cpu) = run_all()?;
    let figure = Figure {
        work: "latency".into(),
        engine: "tidemill".into(),
        rows_per_s: Some(RATE as f64),
        rows_per_cpu_s: Some((RATE * SECONDS) as f64 / cpu),
        more: [("p50_ms".to_owned(), p50), ("p99_ms".to_owned(), p99)].into(),
        ..Figure::default()
    };
    Ok(vec![figure])
}

/// Medians of p50 and p99 in ms and of CPU seconds.
fn run_all() -> anyhow::Result<(f64, f64, f64)> {
    let (mut p50, mut p99, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let summary =
            child::run("latency.yaml", &[("ROWS", (RATE * SECONDS).to_string()), ("RATE", RATE.to_string())])?;
        p50.push(number(&summary, "p50_ms")?);
        p99.push(number(&summary, "p99_ms")?);
        cpu.push(number(&summary, "cpu_s")?);
    }
    Ok((median(p50), median(p99), median(cpu)))
}
