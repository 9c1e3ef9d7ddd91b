#!/usr/bin/env python3
"""Writes scores.csv: what twelve players score in ten minutes, up to 5 seconds out of order."""

import pathlib
import random
from datetime import datetime, timedelta

START = datetime(2024, 3, 1, 20, 0)
PLAYERS = ["ada", "bob", "cleo", "dan", "eve", "finn", "gus", "hal", "ida", "jon", "kim", "lee"]

rng = random.Random(4)
scores = []
for _ in range(600):
    made = START + timedelta(seconds=rng.randrange(600))
    scores.append((made + timedelta(seconds=rng.uniform(0, 5)), made, rng.choice(PLAYERS), rng.choice([5, 10, 10, 25])))
lines = [f"{made.isoformat()},{player},{points}\n" for _, made, player, points in sorted(scores)]
pathlib.Path(__file__).with_name("scores.csv").write_text("time,player,points\n" + "".join(lines))
