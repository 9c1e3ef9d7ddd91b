#!/usr/bin/env python3
"""Writes events.ndjson: four hours of a shop's events, with lines that are broken in the ways in which lines break."""

import json
import pathlib
import random
from datetime import datetime, timedelta

START = datetime(2024, 3, 1, 21, 0)
BROKEN = {
    20: '{"id":20,"kind":"purchase","time":"2024-03-01T21:2',
    55: '{"id":55,"kind":"purchase","time":"yesterday","country":"no","cents":1200}',
    70: "connection reset by peer",
    101: '{"id":101,"kind":"purchase","time":"2024-03-01T23:20:00","country":"de","cents":"12,00"}',
    130: '{"id":130,"time":"2024-03-02T00:05:00","country":"de"}',
}

rng = random.Random(3)
lines = []
for i in range(160):
    time = START + timedelta(seconds=i * 90 + rng.randrange(60))
    kind = rng.choice(["view", "view", "view", "cart", "purchase"])
    event = {"id": i, "kind": kind, "time": time.isoformat(), "country": rng.choice(["de", "no", "it"]), "agent": "web/2"}
    if kind == "purchase":
        event["cents"] = rng.randrange(500, 20_000)
    lines.append(BROKEN.get(i, json.dumps(event, separators=(",", ":"))) + "\n")
pathlib.Path(__file__).with_name("events.ndjson").write_text("".join(lines))
