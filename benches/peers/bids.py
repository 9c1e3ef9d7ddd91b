#!/usr/bin/env python3
"""The bids of the peers benchmark. Writes them as NDJSON for the work `ndjson`; the same arguments give the same bytes.

    bids.py ROWS FOLDER    two files, so that a reader that takes whole files can use two cores

The bids are those of the generators in process: bid i of file f is number 2 * i + f of the formula below.
"""

import pathlib
import sys

FILES = 2
ROWS_PER_WRITE = 50_000


def auction(i):
    return ((i * 2654435761) >> 8) % 100_000


def line(i):
    return (
        f'{{"auction":{auction(i)},"bidder":{i % 50_000},"price":{i * 40_503 % 10_000},'
        f'"ts":{i // 10},"channel":"channel-{i % 10}"}}\n'
    )


def rows_out(work, rows):
    """How many rows the work puts out, computed the plain way."""
    if work == "filter":
        return sum(auction(i) % 123 == 0 for i in range(rows))
    if work == "window":
        return len({(auction(i), i // 10 // 10_000) for i in range(rows)})
    if work in ("sliding10", "sliding60"):
        return sum(sliding(times, int(work[7:])) for times in by_auction(rows, 100_000))
    if work == "session":
        return sum(1 + sum(b - a > 10_000 for a, b in zip(times, times[1:])) for times in by_auction(rows, 10))
    if work == "join":
        return sum(pairs(times, 30_000) for times in by_auction(rows, 2))
    return rows


def by_auction(rows, unit):
    """The times of each auction's bids, in rows divided by `unit`."""
    times = {}
    for i in range(rows):
        times.setdefault(auction(i), []).append(i // unit)
    return times.values()


def pairs(times, bound):
    """How many pairs of two lists that are both `times`, which ascend, are not further apart than `bound`."""
    found, first = len(times), 0
    for last, time in enumerate(times):
        while time - times[first] > bound:
            first += 1
        found += 2 * (last - first)
    return found


def sliding(seconds, size):
    """How many windows of `size` seconds, one per second, hold one of these seconds, which ascend."""
    return size + sum(min(size, b - a) for a, b in zip(seconds, seconds[1:]))


def write(rows, folder):
    """Writes the files unless they are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(FILES):
        path = folder / f"bids-{part}.ndjson"
        if path.exists():
            continue
        fresh = folder / f".{path.name}"
        with open(fresh, "w", encoding="ascii", newline="") as out:
            for start in range(part, rows, FILES * ROWS_PER_WRITE):
                end = min(rows, start + FILES * ROWS_PER_WRITE)
                out.write("".join(map(line, range(start, end, FILES))))
        fresh.rename(path)


if __name__ == "__main__":
    write(int(sys.argv[1]), pathlib.Path(sys.argv[2]))
