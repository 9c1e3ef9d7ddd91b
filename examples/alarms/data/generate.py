#!/usr/bin/env python3
"""Writes measurements.csv: four machines, heat and load each 10 seconds for 20 minutes, up to 8 seconds out of order."""

import math
import pathlib
import random
from datetime import datetime, timedelta

START = datetime(2024, 3, 1, 6, 0)

rng = random.Random(7)
measurements = []
for step in range(120):
    made = START + timedelta(seconds=10 * step)
    for number in range(4):
        # Each machine has its own rhythm of working hard and resting.
        work = 0.5 + 0.5 * math.sin(step / (9 + 2 * number) + number)
        for metric, value in [("heat", 40 + 45 * work + rng.gauss(0, 1)), ("load", 100 * work)]:
            arrived = made + timedelta(seconds=rng.uniform(0, 8))
            measurements.append((arrived, f"{made.isoformat()},press-{number + 1},{metric},{value:.1f}\n"))
lines = [line for _, line in sorted(measurements)]
pathlib.Path(__file__).with_name("measurements.csv").write_text("time,device,metric,value\n" + "".join(lines))
