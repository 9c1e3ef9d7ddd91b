"""The report of a group of works: a section of RESULTS.md between two marks; the rest of the file stays."""

import datetime
import os
import pathlib
import platform
import re
import subprocess

TITLES = {"peers": "Against Flink", "windows": "Event time against Flink"}
# Times Flink's rate that are asked for, and what is aimed at.
BARS = {"filter": (8, None), "map": (8, None), "count": (8, 20), "window": (20, 50), "ndjson": (3, 6)}
BARS |= {"sliding10": (20, None), "sliding60": (20, None), "session": (8, None), "join": (5, None)}
# Rate of the windows of 60 s against those of 10 s: cost shall not grow with size / slide.
SLIDING_MIN = 0.7
# CPU of a WASM operator's pipeline against the native one's.
WASM_CPU_MAX = 1.5
LABELS = {
    "filter": "filter",
    "map": "map (two columns computed)",
    "count": "keyed count, 100,000 keys, one value state",
    "window": "tumbling 10 s count over 100,000 keys",
    "ndjson": "NDJSON file to keyed count",
    "sliding10": "sliding 10 s / 1 s average over 100,000 keys, 100,000 rows per s of event time",
    "sliding60": "sliding 60 s / 1 s, the same",
    "join": "interval join of two streams, 30 s before and after, 100,000 keys, 2,000 rows per s of event time on each side (rows of one side)",
    "session": "sessions, gap 10 s, count over 100,000 keys, 10,000 rows per s of event time",
}


def write(path, results, cold, version, note, args):
    """Puts the section into the file and returns it."""
    begin, end = f"<!-- {args.group}: written by ./dev bench {args.group} -->", f"<!-- /{args.group} -->"
    section = "\n".join([begin, *body(results, cold, version, note, args), end])
    text = path.read_text() if path.exists() else f"# Results\n\n{begin}\n{end}\n"
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    path.write_text(re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: section, text, flags=re.S))
    return section


def body(results, cold, version, note, args):
    by_work = {}
    for result in results:
        by_work.setdefault(result["work"], {})[result["engine"]] = result
    yield f"## {TITLES[args.group]}\n"
    yield f"{datetime.date.today()}, commit {commit()}, {machine()}; {version or 'no peer'}; rustc {rustc()}."
    yield f"`./dev bench {args.group}`: median of {args.runs} runs, engines in turn" + (
        f", row counts x {args.scale:g}." if args.scale != 1 else "."
    )
    if note:
        yield f"\n{note}"
    yield from rates(by_work)
    yield from sliding_cost(by_work)
    yield from wasm_cost(by_work)
    if cold:
        yield "\nStart of the process to its end, keyed count of 1,000,000 rows: " + ", ".join(
            f"{name} {seconds:.2f} s" for name, seconds in cold.items()
        ) + "."


def rates(by_work):
    yield "\n| work | engine | rows/s | times Flink | bar | rows per CPU second | peak memory | slowest to fastest run |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"
    for work, engines in by_work.items():
        for name, result in engines.items():
            bar = verdict(work, result["ratio"]) if name == "tidemill" else ""
            ratio = f"{result['ratio']:.1f}" if result["ratio"] else ""
            spread = f"{millions(min(result['spread']))} to {millions(max(result['spread']))}"
            yield (
                f"| {LABELS[work]} | {name} | {millions(result['rows_per_s'])} | {ratio} | {bar} | "
                f"{millions(result['rows_per_cpu_s'])} | {result['peak_rss_bytes'] / 1e6:.0f} MB | {spread} |"
            )


def verdict(work, ratio):
    bar, aim = BARS[work]
    text = f"{bar}, aim {aim}" if aim else str(bar)
    return text if ratio is None else f"{text}: {'met' if ratio >= bar else 'missed'}"


def sliding_cost(by_work):
    if "sliding10" in by_work and "sliding60" in by_work:
        rate = lambda work: by_work[work]["tidemill"]["rows_per_s"]
        ratio = rate("sliding60") / rate("sliding10")
        yield (
            f"\nWindows of 60 s have {ratio:.2f} of the rate of those of 10 s (bar: {SLIDING_MIN}): "
            f"{'met' if ratio >= SLIDING_MIN else 'missed'}."
        )


def wasm_cost(by_work):
    pairs = {w: (e["tidemill"], e["tidemill-native"]) for w, e in by_work.items() if "tidemill-native" in e}
    if not pairs:
        return
    yield f"\nCPU of the whole pipeline, WASM against native operators (bar: at most {WASM_CPU_MAX}):\n"
    yield "| work | WASM / native | |"
    yield "| --- | ---: | --- |"
    for work, (wasm, native) in pairs.items():
        ratio = native["rows_per_cpu_s"] / wasm["rows_per_cpu_s"]
        yield f"| {LABELS[work]} | {ratio:.2f} | {'met' if ratio <= WASM_CPU_MAX else 'missed'} |"


def millions(n):
    return f"{n / 1e6:.2f} M"


def machine():
    cpus = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", cpus)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores of {model[1] if model else platform.machine()}, {memory:.0f} GiB"


def commit():
    return output("git", "rev-parse", "--short", "HEAD")


def rustc():
    return (output("rustc", "--version").split() + ["?", "?"])[1]


def output(*words):
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "?"
