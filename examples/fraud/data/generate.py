#!/usr/bin/env python3
"""Writes purchases.csv and logins.csv, the same each time: everyday rows of many cards and users, and among them what the patterns look for.

Rows are nearly in order: some come up to 5 s late.
"""

import csv
import pathlib
import random

HERE = pathlib.Path(__file__).parent
START_S, END_S = 1_767_258_000, 1_767_265_200  # 2026-01-01, 09:00 to 11:00
SHOPS = ["books", "coffee", "fuel", "groceries", "music", "shoes", "tickets"]


def main():
    chance = random.Random(7)
    write("purchases.csv", ["time", "card", "shop", "amount"], purchases(chance), chance)
    write("logins.csv", ["time", "user", "address", "ok"], logins(chance), chance)


def purchases(chance):
    for _ in range(600):
        amount = chance.choice([round(chance.uniform(3, 80), 2), round(chance.uniform(0.5, 1.9), 2), 620.0])
        yield [chance.randint(START_S, END_S), f"card-{chance.randint(1, 80):03}", chance.choice(SHOPS), amount]
    # Somebody tries out stolen cards: pennies, then the prize.
    for card, smalls, pause_s, prize in [("card-901", 3, 20, 899.0), ("card-902", 5, 60, 1250.5), ("card-903", 4, 15, 710.0)]:
        at = chance.randint(START_S, END_S - 900)
        for number in range(smalls):
            yield [at + number * pause_s, card, "music", round(0.5 + number / 10, 2)]
        yield [at + smalls * pause_s, card, "tickets", prize]
    # Three small ones, but a usual one between, too slow, or no prize.
    at = START_S + 1800
    for card, steps in {
        "card-911": [(0, 1.0), (30, 1.0), (60, 25.0), (90, 1.0), (120, 900.0)],
        "card-912": [(0, 1.0), (60, 1.0), (120, 1.0), (720, 900.0)],
        "card-913": [(0, 1.0), (30, 1.0), (60, 1.0), (90, 60.0)],
    }.items():
        for after, amount in steps:
            yield [at + after, card, "music", amount]


def logins(chance):
    for _ in range(400):
        ok = chance.random() < 0.85
        yield [chance.randint(START_S, END_S), f"user-{chance.randint(1, 60):02}", address(chance), str(ok).lower()]
    for user, pauses in [("mallory", [0, 10, 12]), ("trudy", [0, 5, 40, 3]), ("patient", [0, 40, 40]), ("lucky", [0, 5])]:
        at = chance.randint(START_S, END_S - 300)
        where = address(chance)
        for pause in pauses:
            at += pause
            yield [at, user, where, "false"]
        yield [at + 8, user, where, "true"]


def address(chance):
    return f"10.0.{chance.randint(0, 255)}.{chance.randint(1, 254)}"


def write(name, header, rows, chance):
    rows = sorted(rows, key=lambda row: row[0] + chance.uniform(0, 5))
    with open(HERE / name, "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(header)
        out.writerows(rows)


if __name__ == "__main__":
    main()
