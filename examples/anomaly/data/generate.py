#!/usr/bin/env python3
"""Writes readings.csv: five sensors, a reading a minute each. Some readings are far off, and one sensor is moved."""

import pathlib
import random
from datetime import datetime, timedelta

START = datetime(2024, 3, 1)
SENSORS = {"attic": (14, 0.8), "cellar": (9, 0.2), "kitchen": (21, 0.5), "office": (20, 0.4), "porch": (3, 1.5)}
#: Added to a reading, by sensor and minute.
FAULTS = {("attic", 70): 9, ("cellar", 41): -2.5, ("cellar", 42): -2.4, ("office", 110): 40, ("porch", 90): -30}
#: From this minute on the sensor in the kitchen stands on the fridge.
MOVED = 120

rng = random.Random(5)
lines = []
for minute in range(160):
    time = (START + timedelta(minutes=minute)).isoformat()
    for sensor, (mean, deviation) in SENSORS.items():
        celsius = rng.gauss(mean, deviation) + FAULTS.get((sensor, minute), 0)
        if sensor == "kitchen" and minute >= MOVED:
            celsius += 6
        lines.append(f"{time},{sensor},{celsius:.2f}\n")
lines.insert(300, "2024-03-01T01:00:00,porch,nan\n")
pathlib.Path(__file__).with_name("readings.csv").write_text("time,sensor,celsius\n" + "".join(lines))
