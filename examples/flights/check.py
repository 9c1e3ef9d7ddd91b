#!/usr/bin/env python3
"""Compares what `tidemill run pipeline.yaml` wrote to out/ with expected/, which oracle.py computed without Tidemill.

    check.py [--show] [--out FOLDER]

All must be equal but `p90`: that comes from a t-digest and must lie between the values next to the exact
90th percentile. Ends with 1 and the differences if there are any. Standard library only.
"""

import argparse
import collections
import csv
import json
import pathlib
import sys
from datetime import datetime

HERE = pathlib.Path(__file__).resolve().parent
DIFFERENCES_SHOWN = 10


def time(text):
    return datetime.fromisoformat(text.rstrip("Z"))


def mean(text):
    """Sums of doubles depend on their order, in the last digits only."""
    return round(float(text), 6)


# Columns by which rows are compared, with what they are read as.
COLUMNS = {
    "hourly": {"origin": str, "window_start": time, "flights": int, "mean": mean},
    "late": {"sched": time, "origin": str, "carrier": str, "flight": int},
    "streaks": {"tailnum": str, "departures": int, "since": time, "route": str, "delay": float},
    "ended": {"tailnum": str, "departures": int, "since": time, "until": time, "mean_delay": mean, "reason": str},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "out", help="what the pipeline wrote")
    parser.add_argument("--show", action="store_true", help="print some of the result")
    args = parser.parse_args()
    have = {name: read(args.out / name) for name in COLUMNS}
    if args.show:
        show(have)
    differences = [text for name in COLUMNS for text in differ(name, have[name], expected(name))]
    differences += check_p90(have["hourly"], expected("hourly"))
    differences += [f"dead letter: {row}" for row in read(args.out / "dead")]
    for difference in differences[:DIFFERENCES_SHOWN]:
        print(difference, file=sys.stderr)
    if differences:
        sys.exit(f"{len(differences)} differences from expected/")
    print("as expected: " + ", ".join(f"{len(rows)} rows of `{name}`" for name, rows in have.items()))


def read(folder):
    """Rows of all files that a sink has committed to its folder, as dictionaries."""
    rows = []
    for file in sorted(folder.glob("part-*")):
        with open(file, encoding="utf-8", newline="") as text:
            rows += csv.DictReader(text) if file.suffix == ".csv" else map(json.loads, text)
    return rows


def expected(name):
    with open(HERE / "expected" / f"{name}.csv", encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def differ(name, have, want):
    """Rows that are missing and rows that should not be there, each as often as that is so."""
    columns = COLUMNS[name]
    values = lambda rows: collections.Counter(tuple(read(row[c]) for c, read in columns.items()) for row in rows)
    have, want = values(have), values(want)
    text = lambda row: ", ".join(f"{column} {value}" for column, value in zip(columns, row))
    yield from (f"{name}: missing: {text(row)}" for row in (want - have).elements())
    yield from (f"{name}: not expected: {text(row)}" for row in (have - want).elements())


def check_p90(have, want):
    bounds = {(row["origin"], time(row["window_start"])): row for row in want}
    for row in have:
        bound = bounds.get((row["origin"], time(row["window_start"])))
        if bound and not float(bound["p90_low"]) <= float(row["p90"]) <= float(bound["p90_high"]):
            place = f"{row['origin']} {row['window_start']}"
            yield f"hourly: {place}: p90 {row['p90']}, expected {bound['p90_low']} to {bound['p90_high']}"


def show(have):
    if not all(have.values()):
        return
    print("hours with the largest mean delay (minutes):")
    print("  airport  hour              flights   mean    p90")
    for row in sorted(have["hourly"], key=lambda row: -float(row["mean"]))[:5]:
        hour = time(row["window_start"]).strftime("%Y-%m-%d %H:%M")
        print(f"  {row['origin']}      {hour}  {row['flights']:>7}  {float(row['mean']):5.1f}  {float(row['p90']):5.1f}")
    print("longest streaks of delayed departures:")
    for row in sorted(have["ended"], key=lambda row: -int(row["departures"]))[:3]:
        span = f"{time(row['since']):%Y-%m-%d %H:%M} to {time(row['until']):%m-%d %H:%M}"
        print(f"  {row['tailnum']}  {row['departures']} departures, {span}, {row['mean_delay']:.0f} minutes each")
    latest = max(have["late"], key=lambda row: row["delay"])
    print(f"rows too late for their window: {len(have['late'])}; the latest: {latest['carrier']} {latest['flight']} ", end="")
    print(f"to {latest['dest']}, {latest['delay'] / 60:.1f} hours after schedule")


if __name__ == "__main__":
    main()
