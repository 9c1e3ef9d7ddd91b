#!/usr/bin/env python3
"""Writes payments.csv: a day of payments with twenty cards, up to 5 seconds out of order. Thieves have three of the cards.

They try a stolen card with small payments. When those go through, they take as much as they can, at once.
"""

import pathlib
import random
from datetime import datetime, timedelta

START = datetime(2024, 3, 1)
#: Card, when it is tried (minute of the day), seconds between payments, cents of the payments.
STOLEN = [
    ("card-04", 412, 40, [45, 30, 64900]),
    ("card-11", 803, 25, [99, 15, 70, 20, 89900]),
    ("card-17", 1110, 75, [60, 80, 52500]),
]
#: What looks like it, and is not: one small payment only; something between; too slow.
HONEST = [
    ("card-02", 300, 30, [90, 61000]),
    ("card-08", 500, 30, [50, 60, 2500, 70000]),
    ("card-14", 900, 400, [75, 85, 55000]),
]

rng = random.Random(9)
payments = []
for card, minute, gap, amounts in STOLEN + HONEST:
    for i, cents in enumerate(amounts):
        payments.append((START + timedelta(minutes=minute, seconds=i * gap), card, cents))
for _ in range(500):
    made = START + timedelta(seconds=rng.randrange(86_400))
    payments.append((made, f"card-{rng.randrange(1, 21):02}", round(rng.lognormvariate(8, 1))))
lines = [
    (made + timedelta(seconds=rng.uniform(0, 5)), f"{made.isoformat()},{card},{cents}\n") for made, card, cents in payments
]
pathlib.Path(__file__).with_name("payments.csv").write_text("time,card,cents\n" + "".join(line for _, line in sorted(lines)))
