"""Jobs with checkpoints: how fast they are, how large checkpoints are, how soon a killed or rescaled job goes on.

A keyed count over datagen rows without end, two workers. `restart`: SIGKILL behind a checkpoint, start again, from the start of
the process to the first row at the sink. `rescale`: what `tidemill rescale` says, from two workers to one and back.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
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

    def start(self):
        command = self.command("run", str(HERE / "pipeline.yaml"), "-w", "2")
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
        asked = subprocess.run(
            self.command("rescale", "durable", "-w", str(workers)), env=self.environment, capture_output=True, text=True, check=True
        )
        return int(re.search(r"(\d+) ms", asked.stdout)[1])

    def end(self, how):
        self.process.send_signal(how)
        self.process.communicate()


def rates(tidemill, folder, runs, scale):
    for backend, keys, rows in [("heap", 10**5, 6 * 10**7), ("rocksdb", 10**5, 6 * 10**7), ("rocksdb", 10**7, 10**7)]:
        for interval in ["1d", "1s"]:
            done = []
            for _ in range(runs):
                shutil.rmtree(folder / "store", ignore_errors=True)
                done.append(Job(tidemill, folder, backend, keys, interval=interval, rows=rows * scale).run())
            yield {
                "what": f"keyed count, {backend}, {keys:,} keys, " + ("no checkpoint" if interval == "1d" else "a checkpoint each second"),
                "rows_per_s": round(statistics.median(d["rows_in"] / d["wall_s"] for d in done)),
                "rows_per_cpu_s": round(statistics.median(d["rows_in"] / d["cpu_s"] for d in done)),
                "peak_mb": max(d["peak_rss_bytes"] for d in done) // 10**6,
            }


def restarts(tidemill, folder):
    for backend, keys in [("heap", 30 * 10**6), ("rocksdb", 10**7)]:
        shutil.rmtree(folder / "store", ignore_errors=True)
        job = Job(tidemill, folder, backend, keys, memory="1GiB", interval="5s")
        job.start()
        # Nearly all keys have come: a key is missed by 3 times as many rows with probability exp(-3).
        job.wait(lambda status: status["rows_in"] > 3 * keys)
        before = job.status()["checkpoints"]
        last = job.wait(lambda status: status["checkpoints"] > before + 1)["last_checkpoint"]
        job.end(signal.SIGKILL)
        began = time.monotonic()
        job.start()
        job.wait(lambda status: status["rows_out"] > 0)
        restart = time.monotonic() - began
        rescaled = [job.rescale(workers) for workers in [1, 2]]
        job.end(signal.SIGKILL)
        yield {
            "what": f"restart, {backend}, {keys:,} keys",
            "checkpoint_mb": last["bytes"] // 10**6,
            "written_mb": last["written_bytes"] // 10**6,
            "aligned_ms": last["aligned_ms"],
            "checkpoint_ms": last["took_ms"],
            "first_row_s": round(restart, 2),
            "rescale_ms": rescaled,
        }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    tidemill = args.bin.resolve() / "tidemill"
    COMPONENT.parent.mkdir(exist_ok=True)
    subprocess.run([tidemill, "build", OPERATORS, "--out", COMPONENT], check=True)
    results = []
    with tempfile.TemporaryDirectory(prefix="tidemill-durable-") as folder:
        folder = Path(folder)
        for result in [*rates(tidemill, folder, args.runs, args.scale), *restarts(tidemill, folder)]:
            print(json.dumps(result), flush=True)
            results.append(result)
    if args.json:
        args.json.write_text(json.dumps(results))


main()
