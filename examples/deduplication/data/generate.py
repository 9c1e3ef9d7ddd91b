#!/usr/bin/env python3
"""Writes clicks.csv: two hours of clicks on ads. Some arrive more than once, most of those soon after, a few much later."""

import pathlib
import random
from datetime import datetime, timedelta

START = datetime(2024, 3, 1, 8, 0)
ADS = ["boots", "bread", "books"]

rng = random.Random(6)
clicks = []
for number in range(300):
    made, ad = START + timedelta(seconds=rng.randrange(7200)), rng.choice(ADS)
    click = f"c{number:03}"
    times = [made]
    if rng.random() < 0.12:
        times += [made + timedelta(seconds=rng.randrange(1, 90)) for _ in range(rng.randrange(1, 4))]
    if rng.random() < 0.03:
        times.append(made + timedelta(minutes=rng.randrange(50, 90)))
    clicks += [(time, click, ad) for time in times]
lines = [f"{time.isoformat()},{click},{ad}\n" for time, click, ad in sorted(clicks)]
pathlib.Path(__file__).with_name("clicks.csv").write_text("time,click,ad\n" + "".join(lines))
