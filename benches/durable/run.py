"""Jobs with checkpoints: how fast they are, how large checkpoints are, how soon a killed or rescaled job goes on.

A keyed count over datagen rows, two workers. `rates` and `beyond` (more state than memory) run Flink beside it; `upgrades` replaces the component under load and
looks for the longest gap in the output; `increments` sees how much of a checkpoint is new; `large` has 1 GB of state: SIGKILL behind a checkpoint, from the start of
the next process to the first row at the sink, and the same from `tidemill rescale` on, from two workers to one and back.
"""

import argparse
import collections
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "peers"))
from flink import Flink, Unavailable  # noqa: E402

VERSIONS = HERE.parent.parent / "tests" / "guests" / "versions"
OPERATORS = HERE.parent / "operators"
COMPONENT = HERE.parent / "peers" / "target" / "operators.wasm"
ENDLESS = 10**12


class Job:
    def __init__(self, tidemill, folder, backend, keys, memory="256MiB", interval="1d", rows=ENDLESS):
        self.tidemill, self.folder = tidemill, folder
        settings = {"BACKEND": backend, "MEMORY": memory, "KEYS": keys, "INTERVAL": interval, "ROWS": rows, "FOLDER": folder}
        self.environment = os.environ | {k: str(v) for k, v in settings.items()} | {"XDG_RUNTIME_DIR": str(folder)}

    def command(self, *arguments):
        return [str(self.tidemill), *arguments]

    def run(self, *flags):
        """To its end; the summary."""
        command = self.command("run", str(HERE / "pipeline.yaml"), "-w", "2", "-q", "--summary", "json", *flags)
        out = subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout
        return json.loads(out.splitlines()[-1])

    def start(self, workers=2):
        command = self.command("run", str(HERE / "pipeline.yaml"), "-w", str(workers))
        self.process = subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, text=True)

    def status(self):
        asked = subprocess.run(self.command("status", "durable", "--json"), env=self.environment, capture_output=True, text=True)
        return json.loads(asked.stdout) if asked.returncode == 0 else None

    def wait(self, condition):
        while True:
            status = self.status()
            if status and condition(status):
                return status
            if self.process.poll() is not None:
                raise SystemExit(f"the job ended: {self.process.stderr.read()}")
            time.sleep(0.02)

    def rescale(self, workers):
        """Seconds from the request to the first row that the new workers give to the sink."""
        began = time.monotonic()
        command = self.command("rescale", "durable", "-w", str(workers))
        subprocess.run(command, env=self.environment, capture_output=True, check=True)
        self.wait(lambda status: status["rows_out"] > 0)
        return round(time.monotonic() - began, 2)

    def end(self, how):
        self.process.send_signal(how)
        self.process.communicate()


def peer(folder, backend, keys, interval):
    """Flink with the same state; none if it can't run here."""
    properties = {"backend": {"heap": "hashmap"}.get(backend, backend), "keys": keys, "managed": "256m"}
    if interval != "1d":
        properties |= {"checkpoints": (folder / "flink").as_uri(), "interval": interval}
    try:
        return Flink(HERE.parent / "peers" / "target", properties=properties.items())
    except Unavailable as why:
        print(f"Flink is left out: {why}", file=sys.stderr)


RATES = [("heap", 10**5, 6 * 10**7, 6 * 10**6), ("rocksdb", 10**5, 6 * 10**7, 2 * 10**6)]
# As many rows for both: most keys have come in the end, and the state is larger than the memory it is given.
BEYOND = [("rocksdb", 10**7, 10**7, 10**7)]
WARMUP_MAX = 10**6


def rates(tidemill, folder, runs, scale, works=RATES):
    for backend, keys, rows, flink_rows in works:
        for interval in ["1d", "1s"]:
            done, flink_done = [], []
            flink = peer(folder, backend, keys, interval)
            for _ in range(runs):
                for stale in ["store", "flink"]:
                    shutil.rmtree(folder / stale, ignore_errors=True)
                done.append(Job(tidemill, folder, backend, keys, interval=interval, rows=rows * scale).run())
                if flink:
                    flink_done.append(flink.run("count", flink_rows * scale, min(flink_rows * scale // 2, WARMUP_MAX)))
            rate = statistics.median(d["rows_in"] / d["wall_s"] for d in done)
            result = {
                "what": f"keyed count, {backend}, {keys:,} keys, " + ("no checkpoint" if interval == "1d" else "a checkpoint each second"),
                "rows_per_s": round(rate),
                "rows_per_cpu_s": round(statistics.median(d["rows_in"] / d["cpu_s"] for d in done)),
                "peak_mb": max(d["peak_rss_bytes"] for d in done) // 10**6,
            }
            if flink_done:
                flink_rate = statistics.median(d["rows"] / d["wall_s"] for d in flink_done)
                result |= {"flink_rows_per_s": round(flink_rate), "ratio": round(rate / flink_rate, 1)}
            yield result


class Output:
    """What a job writes to standard output, by the time of its arrival."""

    def __init__(self, stream):
        self.times = []
        self.bytes = 0
        threading.Thread(target=self.read, args=[stream], daemon=True).start()

    def read(self, stream):
        while chunk := os.read(stream.fileno(), 1 << 16):
            self.times.append(time.monotonic())
            self.bytes += len(chunk)

    def gap_ms(self, start, end):
        """The longest time without a byte that touches start..end."""
        times = list(self.times)
        gaps = [after - before for before, after in zip(times, times[1:]) if after >= start and before <= end]
        return round(1e3 * max(gaps, default=0), 1)


def versions(tidemill, folder):
    """Components of one operator, by version."""
    built = {}
    for version in ["first", "more", "text", "number", "bad-open", "bad-call"]:
        built[version] = folder / f"{version}.wasm"
        flags = [] if version == "first" else ["--features", version]
        subprocess.run([tidemill, "build", VERSIONS, "--out", built[version], "--", *flags], check=True, capture_output=True)
    return built


def upgrades(tidemill, folder, rate=100_000, keys=10**6):
    built = versions(tidemill, folder)
    steps = [
        ("more", []),
        ("first", ["--drop-state", "calls"]),
        ("bad-open", []),
        ("bad-call", []),
        ("text", []),
        ("number", []),
        ("number", []),
        ("bad-call", []),
    ]
    for backend in ["heap", "rocksdb"]:
        shutil.rmtree(folder / "store", ignore_errors=True)
        job = Job(tidemill, folder, backend, keys, interval="1d")
        job.environment |= {"RATE": str(rate), "COMPONENT": str(built["first"])}
        command = job.command("run", str(HERE / "upgrade.yaml"), "-w", "2", "-q")
        job.process = subprocess.Popen(command, env=job.environment, stdout=subprocess.PIPE)
        output = Output(job.process.stdout)
        # About as many rows as keys: two thirds of the keys have a value then.
        time.sleep(keys / rate)
        quiet = output.gap_ms(time.monotonic() - 3, time.monotonic())
        gaps = collections.defaultdict(list)
        for version, flags in steps:
            while True:
                began = time.monotonic()
                words = ["upgrade", "upgrade", "--operator", "result", "--component", str(built[version]), *flags]
                asked = subprocess.run(job.command(*words), env=job.environment, capture_output=True, text=True)
                if "still being migrated" not in asked.stderr:
                    break
            time.sleep(0.2)
            gaps[version].append(output.gap_ms(began, time.monotonic()))
            if (asked.returncode == 0) == version.startswith("bad"):
                raise SystemExit(f"{version}: {asked.stdout}{asked.stderr}")
        job.end(signal.SIGKILL)
        yield {"what": f"upgrade, {backend}, {keys:,} keys, {rate:,} rows/s: longest gap in output, ms", "without": quiet, **gaps}


class Rate:
    """Rows that a job has read, by time."""

    def __init__(self, job):
        self.job, self.samples = job, []

    def watch(self, seconds):
        """Until so many seconds have passed and a checkpoint has ended in them. Its status and when it was seen."""
        before, end = self.job.status()["checkpoints"], time.monotonic() + seconds
        while True:
            status = self.job.status()
            now = time.monotonic()
            self.samples.append((now, status["rows_in"]))
            if status["checkpoints"] > before:
                return status["last_checkpoint"], now
            if now > end:
                raise SystemExit("no checkpoint has come")

    def between(self, start, end):
        inside = [sample for sample in self.samples if start <= sample[0] <= end]
        return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


def large(tidemill, folder):
    """About 1 GB of state: a checkpoint, a kill, another number of workers."""
    for backend, keys in [("heap", 45 * 10**6), ("rocksdb", 24 * 10**6)]:
        shutil.rmtree(folder / "store", ignore_errors=True)
        job = Job(tidemill, folder, backend, keys, memory="2GiB", interval="30s")
        job.start()
        # Nearly all keys have come: a key is missed by 3 times as many rows with probability exp(-3).
        job.wait(lambda status: status["rows_in"] > 3 * keys)
        rate = Rate(job)
        rate.watch(120)
        last, seen = rate.watch(120)
        begun = seen - last["took_ms"] / 1e3
        during, beside = rate.between(begun, seen), rate.between(begun - 10, begun)
        job.end(signal.SIGKILL)
        began = time.monotonic()
        job.start()
        job.wait(lambda status: status["rows_out"] > 0)
        restart = time.monotonic() - began
        rescaled = [job.rescale(workers) for workers in [1, 2]]
        job.end(signal.SIGKILL)
        yield {
            "what": f"1 GB, {backend}, {keys:,} keys",
            "checkpoint_mb": last["bytes"] // 10**6,
            "written_mb": last["written_bytes"] // 10**6,
            "aligned_ms": last["aligned_ms"],
            "checkpoint_ms": last["took_ms"],
            "rate_during_checkpoint": round(during / beside, 2),
            "first_row_s": round(restart, 2),
            "rescale_s": rescaled,
        }


def increments(tidemill, folder, keys=10**7):
    """A full checkpoint, and the next ones when one key in a hundred has changed."""
    shutil.rmtree(folder / "store", ignore_errors=True)
    job = Job(tidemill, folder, "rocksdb", keys, memory="1GiB")
    job.start()
    job.wait(lambda status: status["rows_in"] > 3 * keys)
    subprocess.run(job.command("stop", "durable"), env=job.environment, check=True, capture_output=True)
    job.process.communicate()
    text = (HERE / "pipeline.yaml").read_text().replace("      rows: ${ROWS}\n", f"      rate: {keys // 500}\n")
    slow = folder / "slow.yaml"
    slow.write_text(text.replace("../peers/target/operators.wasm", str(COMPONENT)))
    job.environment["INTERVAL"] = "5s"
    job.process = subprocess.Popen(job.command("run", str(slow), "-w", "2", "-q"), env=job.environment, stderr=subprocess.PIPE, text=True)
    written = []
    for count in range(1, 6):
        last = job.wait(lambda status: status["checkpoints"] >= count)["last_checkpoint"]
        written.append(round(last["written_bytes"] / last["bytes"], 3))
    job.end(signal.SIGKILL)
    yield {"what": "part of a checkpoint that is new when one key in a hundred has changed", "checkpoint_mb": last["bytes"] // 10**6, "written": written}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--parts", nargs="*", choices=["rates", "beyond", "upgrades", "increments", "large"])
    args = parser.parse_args()
    tidemill = args.bin.resolve() / "tidemill"
    COMPONENT.parent.mkdir(exist_ok=True)
    subprocess.run([tidemill, "build", OPERATORS, "--out", COMPONENT], check=True)
    results = []
    with tempfile.TemporaryDirectory(prefix="tidemill-durable-") as folder:
        folder = Path(folder)
        parts = {
            "rates": lambda: rates(tidemill, folder, args.runs, args.scale),
            "beyond": lambda: rates(tidemill, folder, args.runs, args.scale, BEYOND),
            "upgrades": lambda: upgrades(tidemill, folder),
            "increments": lambda: increments(tidemill, folder),
            "large": lambda: large(tidemill, folder),
        }
        for part in args.parts or parts:
            for result in parts[part]():
                print(json.dumps(result), flush=True)
                results.append(result)
    if args.json:
        args.json.write_text(json.dumps(results))


main()
