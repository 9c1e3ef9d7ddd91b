#!/usr/bin/env python3
"""Tidemill and Flink on the same work, the same cores, in one go: `./dev bench peers`, `./dev bench windows`.

Per work and run the engines take turns, so that a busy machine hits all alike; medians count. First all engines
run a small input once and must put out the same number of rows as a plain computation here. Only the standard
library is used. Writes RESULTS.md and, with --json, a list of
{work, engine, rows_per_s, rows_per_cpu_s, peak_rss_bytes, ratio}; `ratio` is against Flink.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import bids
import report
from flink import CACHE, Flink, Unavailable

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE / "target"
# Two workers against parallelism 2.
CORES = 2
# Rows per engine: each timed part takes seconds, so that starts and clocks do not count.
ROWS = {
    "filter": {"flink": 20_000_000, "tidemill": 100_000_000},
    "map": {"flink": 20_000_000, "tidemill": 100_000_000},
    "count": {"flink": 8_000_000, "tidemill": 50_000_000},
    "window": {"flink": 4_000_000, "tidemill": 50_000_000},
    "ndjson": {"flink": 4_000_000, "tidemill": 4_000_000},
    "sliding10": {"flink": 2_000_000, "tidemill": 60_000_000},
    "sliding60": {"flink": 1_000_000, "tidemill": 60_000_000},
    "session": {"flink": 4_000_000, "tidemill": 40_000_000},
    "join": {"flink": 2_000_000, "tidemill": 10_000_000},
}
# What is measured together.
GROUPS = {
    "peers": ["filter", "map", "count", "window", "ndjson"],
    "windows": ["sliding10", "sliding60", "session", "join"],
}
# Enough for several windows and for keys that repeat.
ROWS_COMPARED = 400_000
ROWS_COLD = 1_000_000
TIMEOUT_S = 600


def main():
    args = arguments()
    pin()
    engines = {"tidemill": Tidemill(args.bin)}
    if args.group == "peers":
        component(args.bin)
        engines["tidemill-native"] = Native(args.bin)
    note = None
    try:
        engines = {"flink": FlinkEngine(Flink(BUILD)), **engines}
    except Unavailable as reason:
        note = f"Flink did not run: {reason}"
        print(note, file=sys.stderr)
    results = []
    for work in args.works:
        rows = {name: max(1, int(ROWS[work].get(name, ROWS[work]["tidemill"]) * args.scale)) for name in engines}
        compare(work, engines)
        runs = measure(work, engines, rows, args.runs)
        results += [median(work, name, rows[name], runs[name]) for name in engines]
        add_ratios([r for r in results if r["work"] == work])
    cold = {} if args.no_cold or args.group != "peers" else {name: engines[name].cold("count", ROWS_COLD) for name in ("flink", "tidemill") if name in engines}
    version = engines["flink"].version if "flink" in engines else None
    print(report.write(args.out, results, cold, version, note, args))
    if args.json:
        keys = ("work", "engine", "rows_per_s", "rows_per_cpu_s", "peak_rss_bytes", "ratio")
        args.json.write_text(json.dumps([{k: r[k] for k in keys} for r in results], indent=1) + "\n")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="folder of tidemill and tidemill-benches")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures to this file")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / "RESULTS.md", help="the report")
    parser.add_argument("--group", choices=list(GROUPS), default="peers", help="what is measured together")
    parser.add_argument("--works", nargs="+", choices=list(ROWS), help="of the group; all if none is given")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the row counts, for a quick look")
    parser.add_argument("--no-cold", action="store_true", help="skip the cold starts")
    args = parser.parse_args()
    args.works = args.works or GROUPS[args.group]
    return args


def pin():
    """The same cores for all engines: children inherit them."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:CORES])


def component(binaries):
    """The operators as a WASM component."""
    BUILD.mkdir(exist_ok=True)
    words = [binaries / "tidemill", "build", HERE.parent / "operators", "--out", BUILD / "operators.wasm"]
    subprocess.run(words, check=True)


class Tidemill:
    """Ours, with the operators in WASM."""

    def __init__(self, binaries):
        self.binary = binaries / "tidemill"

    def command(self, work, rows):
        pipeline = HERE / "tidemill" / f"{work}.yaml"
        return [self.binary, "run", pipeline, "--workers", str(CORES), "--summary", "json"]

    def run(self, work, rows, **_):
        environment = {**os.environ, "ROWS": str(rows), "BIDS": str(files(work, rows) or "")}
        done = subprocess.run(
            self.command(work, rows), env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        if done.returncode != 0:
            sys.exit(f"tidemill failed at {work}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def cold(self, work, rows):
        """Seconds from the start of the process to its end."""
        start = time.monotonic()
        self.run(work, rows)
        return time.monotonic() - start


class Native(Tidemill):
    """Ours, with the same operators compiled into the binary."""

    def __init__(self, binaries):
        self.binary = binaries / "tidemill-benches"

    def command(self, work, rows):
        return [self.binary, "native", work, str(rows)]


class FlinkEngine:
    def __init__(self, flink):
        self.flink = flink
        self.version = flink.version

    def run(self, work, rows, count=False):
        # Half as many rows again before the clock starts: the JIT has settled by then.
        return self.flink.run(work, rows, 0 if count else max(rows // 2, 1), count, files(work, rows))

    def cold(self, work, rows):
        start = time.monotonic()
        self.flink.run(work, rows, 0, files=files(work, rows))
        return time.monotonic() - start


def files(work, rows):
    """The folder with `rows` bids as NDJSON, written once."""
    if work != "ndjson":
        return None
    folder = CACHE / f"bids-{rows}"
    bids.write(rows, folder)
    return folder


def compare(work, engines):
    """Ends with a message if an engine puts out another number of rows than it should."""
    expected = bids.rows_out(work, ROWS_COMPARED)
    for name, engine in engines.items():
        found = engine.run(work, ROWS_COMPARED, count=True)["rows_out"]
        if found != expected:
            sys.exit(f"{work}: {name} puts out {found} rows for {ROWS_COMPARED}, right would be {expected}")


def measure(work, engines, rows, runs):
    measured = {name: [] for name in engines}
    for run in range(runs):
        for name, engine in engines.items():
            result = engine.run(work, rows[name])
            measured[name].append(result)
            rate = rows[name] / result["wall_s"] / 1e6
            print(f"{work} run {run + 1} {name}: {rate:.2f} M rows/s, {result['cpu_s']:.2f} CPU s", file=sys.stderr)
    return measured


def median(work, engine, rows, runs):
    middle = lambda key: statistics.median(run[key] for run in runs)
    return {
        "work": work,
        "engine": engine,
        "rows": rows,
        "rows_per_s": round(rows / middle("wall_s")),
        "rows_per_cpu_s": round(rows / middle("cpu_s")),
        "peak_rss_bytes": round(middle("peak_rss_bytes")),
        "spread": [round(rows / run["wall_s"]) for run in runs],
        "ratio": None,
    }


def add_ratios(results):
    peer = next((r for r in results if r["engine"] == "flink"), None)
    for result in results if peer else []:
        result["ratio"] = round(result["rows_per_s"] / peer["rows_per_s"], 2)


if __name__ == "__main__":
    main()
