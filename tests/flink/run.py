#!/usr/bin/env python3
"""Rewrites the goldens of the cases with `#: oracle flink` by running them in Flink: `./dev oracle`.

Flink and its jars are found as by the benchmark against it (benches/peers/flink.py). Only the standard library is used.
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
CASES = HERE.parent / "cases" / "pipelines"
sys.path.insert(0, str(HERE.parent.parent / "benches" / "peers"))
from flink import Flink, Unavailable  # noqa: E402


def main():
    try:
        flink = Flink(HERE / "target", HERE / "Oracle.java")
    except Unavailable as reason:
        sys.exit(f"Flink can't run: {reason}")
    print(flink.call([CASES]), end="")


if __name__ == "__main__":
    main()
