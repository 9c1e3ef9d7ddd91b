#!/usr/bin/env python3
"""Computes what the pipeline must put out, with DuckDB and plain Python instead of Tidemill, into expected/.

    pip install duckdb && ./oracle.py

Lateness follows Flink's rules, stated here on their own: the watermark is the largest event time seen so far minus
the delay minus 1 ms; a row is late when the last millisecond of its window is at or below the watermark. The pipeline
asks for ticks by batch, so the watermark moves after every BATCH_ROWS rows of the file, and a row sees what the
batches before its own have reached.
"""

import csv
import pathlib
from datetime import timedelta

import duckdb

HERE = pathlib.Path(__file__).resolve().parent
# As in pipeline.yaml: options.batch_rows, the source's delay.
BATCH_ROWS = 256
DELAY = "INTERVAL 2 HOUR"
MS = "INTERVAL 1 MILLISECOND"
# As in the operator `streak`.
DELAYED_MINUTES = 15
STREAK_LENGTH = 3
STREAK_IDLE = timedelta(hours=12)

FLIGHTS = f"""
CREATE TABLE flights AS
SELECT row_number() OVER () - 1 AS i, * FROM read_csv('{HERE}/data/january.csv.gz', header = true)
"""

# What the rows of a batch see: cancelled flights move time like all others.
WATERMARKS = f"""
CREATE TABLE watermarks AS
WITH batches AS (SELECT i // {BATCH_ROWS} AS batch, max(sched) AS latest FROM flights GROUP BY ALL)
SELECT batch,
       max(latest) OVER (ORDER BY batch ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) - {DELAY} - {MS} AS watermark
FROM batches
"""

FLOWN = f"""
CREATE TABLE flown AS
SELECT f.*, batch, watermark, origin || '-' || dest AS route, date_diff('minute', sched, departed) AS delay,
       date_trunc('hour', sched) AS window_start,
       coalesce(window_start + INTERVAL 1 HOUR - {MS} <= watermark, false) AS late
FROM flights f JOIN watermarks w ON w.batch = f.i // {BATCH_ROWS}
WHERE departed IS NOT NULL
"""

# Of n delays in order the percentile stands at 0.9 n; a t-digest may answer with anything up to the values beside it.
HOURLY = """
WITH windows AS (
    SELECT origin, window_start, count(*) AS flights, avg(delay) AS mean, list_sort(list(delay)) AS delays
    FROM flown WHERE NOT late GROUP BY ALL
)
SELECT origin, strftime(window_start, '%Y-%m-%dT%H:%M:%S') AS window_start, flights, mean,
       delays[greatest(floor(0.9 * flights)::INT, 1)] AS p90_low,
       delays[least(floor(0.9 * flights)::INT + 2, flights)] AS p90_high
FROM windows ORDER BY ALL
"""

LATE = """
SELECT strftime(sched, '%Y-%m-%dT%H:%M:%S') AS sched, origin, carrier, flight FROM flown WHERE late ORDER BY ALL
"""

BY_AIRCRAFT = "SELECT tailnum, sched, delay, route, batch, watermark FROM flown ORDER BY tailnum, i"


def main():
    base = duckdb.connect()
    for table in (FLIGHTS, WATERMARKS, FLOWN):
        base.sql(table)
    for name, query in {"hourly": HOURLY, "late": LATE}.items():
        result = base.sql(query)
        write(name, result.columns, result.fetchall())
    grown, ended = streaks(base.sql(BY_AIRCRAFT).fetchall())
    write("streaks", ["tailnum", "departures", "since", "route", "delay"], sorted(grown))
    write("ended", ["tailnum", "departures", "since", "until", "mean_delay", "reason"], sorted(ended))


def streaks(flights):
    """Delayed departures in a row, from the third on, and how such streaks ended. `flights` by aircraft and departure."""
    grown, ended, run, last = [], [], [], None

    def end(reason):
        if len(run) >= STREAK_LENGTH:
            times, delays = [f[1] for f in run], [f[2] for f in run]
            mean = sum(delays) / len(delays)
            ended.append((run[0][0], len(run), iso(min(times)), iso(max(times)), mean, reason))
        run.clear()

    for flight in flights:
        tailnum, _, delay, route, batch, watermark = flight
        # The aircraft's timer fires when a tick closes, so never between two rows of a batch.
        fired = run and batch > last and watermark >= max(f[1] for f in run) + STREAK_IDLE
        if run and (fired or run[0][0] != tailnum):
            end("not flown")
        if delay < DELAYED_MINUTES:
            end("departed on time")
        else:
            run.append(flight)
            if len(run) >= STREAK_LENGTH:
                grown.append((tailnum, len(run), iso(min(f[1] for f in run)), route, delay))
        last = batch
    end("not flown")
    return grown, ended


def iso(time):
    return time.isoformat(timespec="seconds")


def write(name, columns, rows):
    path = HERE / "expected" / f"{name}.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
