#!/usr/bin/env python3
"""Writes orders.csv and reservations.csv: an hour of orders, and what warehouses answer. Up to 5 seconds out of order.

Most orders are reserved within half a minute, some by two warehouses, some after a refusal (no pieces), some much later,
some never. The clocks of the warehouses are up to 3 seconds slow, so a reservation may seem to come before its order.
"""

import pathlib
import random
from datetime import datetime, timedelta

START = datetime(2024, 3, 1, 14, 0)

rng = random.Random(8)
orders, reservations = [], []


def add(rows, time, rest):
    rows.append((time + timedelta(seconds=rng.uniform(0, 5)), f"{time.isoformat()},{rest}\n"))


def reserve(order, time, pieces):
    add(reservations, time, f"{order},{rng.choice(['oslo', 'kiel'])},{pieces}")


for order in range(1000, 1120):
    made, pieces = START + timedelta(seconds=rng.randrange(3600)), rng.randrange(1, 6)
    add(orders, made, f"{order},{rng.choice(['boots', 'tent', 'stove'])},{pieces}")
    answered, fate = made + timedelta(seconds=rng.randrange(-3, 16)), rng.random()
    if fate < 0.10:
        continue
    if fate < 0.20:
        reserve(order, made + timedelta(seconds=rng.randrange(40, 300)), pieces)
    elif fate < 0.35 and pieces > 1:
        reserve(order, answered, 1)
        reserve(order, answered + timedelta(seconds=6), pieces - 1)
    elif fate < 0.50:
        reserve(order, answered, 0)
        if fate < 0.45:
            reserve(order, answered + timedelta(seconds=10), pieces)
    else:
        reserve(order, answered, pieces)

for name, header, rows in [
    ("orders.csv", "time,order,sku,pieces\n", orders),
    ("reservations.csv", "time,order_id,warehouse,pieces\n", reservations),
]:
    pathlib.Path(__file__).with_name(name).write_text(header + "".join(line for _, line in sorted(rows)))
