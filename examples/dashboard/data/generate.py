#!/usr/bin/env python3
"""Writes requests.csv: ten minutes of requests to three services, in the order in which a collector got them.

`checkout` has a bad time from 12:04 to 12:07. Most lines are up to 5 seconds late, one in forty a minute or two.
"""

import pathlib
import random
from datetime import datetime, timedelta

START = datetime(2024, 3, 1, 12, 0)
SERVICES = {"catalog": (40, 0.01), "checkout": (90, 0.02), "search": (120, 0.01)}

rng = random.Random(1)
requests = []
for _ in range(700):
    service = rng.choice(list(SERVICES))
    ms, broken = SERVICES[service]
    made = START + timedelta(seconds=rng.randrange(600_000) / 1000)
    if service == "checkout" and 4 <= (made - START).seconds // 60 < 7:
        ms, broken = ms * 12, 0.35
    status = 503 if rng.random() < broken else rng.choice([200, 200, 200, 200, 304, 404])
    delay = rng.uniform(60, 120) if rng.random() < 1 / 40 else rng.uniform(0, 5)
    requests.append((made + timedelta(seconds=delay), made, service, status, round(rng.lognormvariate(0, 0.5) * ms)))

lines = [f"{made.isoformat(timespec='milliseconds')},{service},{status},{ms}\n" for _, made, service, status, ms in sorted(requests)]
pathlib.Path(__file__).with_name("requests.csv").write_text("time,service,status,ms\n" + "".join(lines))
