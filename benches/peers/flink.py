"""Flink as a peer: finds Java and the jars, compiles a program, runs it. Also the oracle of tests/flink uses it.

The jars come from the Python package `apache-flink-libraries`, which pip fetches by name into the cache. Nothing is
installed. `Unavailable` says in one sentence why Flink can't run here.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

PACKAGE = "apache-flink-libraries==2.3.0"
JAVA_MIN = 17
SOURCE = pathlib.Path(__file__).parent / "flink" / "Bench.java"
CACHE = pathlib.Path(os.environ.get("TIDEMILL_CACHE_DIR", pathlib.Path.home() / ".cache" / "tidemill"))
# The DataStream API and what it runs on; the table planner would only lengthen the start.
JARS = ("flink-dist-", "flink-connector-files-", "log4j-")
# Room for the window job's state; a larger heap brings no higher rate.
JVM = ["-Xmx4g", "--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.util=ALL-UNNAMED"]
# A work that takes longer than this is stuck: the longest takes about 20 s.
TIMEOUT_S = 600


class Unavailable(Exception):
    """Why Flink can't run."""


class Flink:
    """A program in Flink, compiled. `version` is for the report."""

    def __init__(self, build, source=SOURCE, properties=()):
        self.java = java_version()
        self.version = f"Flink {PACKAGE.split('==')[1]}, Java {self.java}"
        jars = [str(jar) for jar in sorted(library().glob("*.jar")) if jar.name.startswith(JARS)]
        classes = build / "flink"
        classes.mkdir(parents=True, exist_ok=True)
        path = ":".join(jars)
        done = subprocess.run(["javac", "-nowarn", "-d", str(classes), "-cp", path, str(source)])
        if done.returncode != 0:
            raise Unavailable(f"{source.name} does not compile, see above.")
        properties = [f"-D{name}={value}" for name, value in properties]
        self.command = ["java", *JVM, *properties, "-cp", f"{classes}:{path}", source.stem]

    def run(self, work, rows, warmup, count=False, files=None):
        """One measurement as a dictionary, in a JVM of its own. `warmup` rows run before, unmeasured."""
        words = [work, str(rows), str(warmup), "count" if count else "discard"]
        words += [files.resolve().as_uri()] if files else []
        return json.loads(self.call(words).splitlines()[-1])

    def call(self, words):
        """What the program prints, in a JVM of its own."""
        words = [str(word) for word in words]
        done = subprocess.run([*self.command, *words], capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode != 0:
            sys.exit(f"Flink failed at {' '.join(words)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done.stdout


def java_version():
    if not (shutil.which("java") and shutil.which("javac")):
        raise Unavailable(
            f"a Java {JAVA_MIN} development kit is missing: install one, for example with "
            "`apt-get install openjdk-17-jdk-headless`."
        )
    text = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr
    found = re.search(r'version "((\d+)[^"]*)"', text)
    if not found or int(found[2]) < JAVA_MIN:
        raise Unavailable(f"Java {JAVA_MIN} or later is needed, but `java -version` says: {text.splitlines()[0]}.")
    return found[1]


def library():
    """The folder with Flink's jars, fetched once."""
    folder = CACHE / PACKAGE.replace("==", "-")
    if not folder.exists():
        print(f"fetching {PACKAGE} (330 MB) into {CACHE}", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
            fetch(pathlib.Path(fresh))
            (pathlib.Path(fresh) / "jars").rename(folder)
    return folder


def fetch(fresh):
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest"]
    if subprocess.run([*pip, str(fresh), PACKAGE]).returncode != 0:
        raise Unavailable(f"pip could not download {PACKAGE}: check the network and that pip is installed.")
    (fresh / "jars").mkdir()
    with tarfile.open(next(fresh.glob("*.tar.gz"))) as archive:
        for member in archive:
            if "/deps/lib/" in member.name and member.name.endswith(".jar"):
                with open(fresh / "jars" / pathlib.Path(member.name).name, "wb") as jar:
                    shutil.copyfileobj(archive.extractfile(member), jar)
