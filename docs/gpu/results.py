"""Reads the results of `bash .ci/gpu`: one file for each stage on one machine, one JSON object a line, the first of which
describes the machine. What cannot be right is refused, with the file and the line.

    python3 docs/gpu/results.py FILE ...    exits with 1, and says where, if a file is not what is described here
"""

import json
import math
import re
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

STAGES = ("right", "fast", "deep")
STREAMS = ("default", "own", "graph")  # in the order in which a step's time is looked for


class Wrong(Exception):
    """A file is not what it should be."""


# ---------------------------------------------------------------- what a line holds


def text(value):
    return isinstance(value, str) and value != ""


def any_text(value):
    return isinstance(value, str)


def flag(value):
    return isinstance(value, bool)


def integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def count(value):
    return integer(value) and value > 0


def amount(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def positive(value):
    return amount(value) and value > 0


def one_of(*values):
    return lambda value: value in values


def written(pattern):
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def optional(kind):
    return lambda value: value is None or kind(value)


def kernels(value):
    return isinstance(value, list) and all(
        isinstance(kernel, dict) and text(kernel.get("name")) and amount(kernel.get("us")) for kernel in value
    )


def metrics(value):
    return isinstance(value, dict) and all(any_text(metric) for metric in value.values())


FLOAT = one_of("f32", "bf16")
MACHINE = {
    "stage": one_of(*STAGES),
    "card": text,
    "compute_capability": text,
    "memory_gib": positive,
    "driver": text,
    "driver_cuda": text,
    "nvrtc": text,
    "torch": optional(text),
    "commit": written("[0-9a-f]{12}"),
    "date": written(r"\d{4}-\d\d-\d\d"),
    "emulated": flag,
}
CHECK = {"name": text, "ok": flag, "rc": integer, "seconds": amount, "line": any_text}
LEFT_OUT = {"name": text, "why": text}
ANY_STEP = {
    "round": count,
    "algorithm": text,
    "shape": text,
    "param": FLOAT,
    "grad": FLOAT,
    "moments": FLOAT,
    "clip": flag,
    "params": count,
    "bytes_per_param": count,
    "median_ms": positive,
    "gb_per_s": positive,
}
STEPS = {
    "fadam": ANY_STEP
    | {
        "master": optional(one_of("f32", "remainder", "none")),
        "rounding": optional(one_of("nearest", "stochastic")),
        "weight_decay": amount,
        "kappa": optional(positive),
        "device": text,
        "tensors": count,
        "ceiling_gb_per_s": positive,
        "share": positive,
        "stream": one_of(*STREAMS),
        "host_us": amount,
        "kernels": optional(kernels),
    },
    "torch": ANY_STEP | {"version": text, "how": one_of("fused", "foreach", "graph")},
    "llm.c": ANY_STEP | {"how": text},
}
CEILING = {
    "name": text,
    "params": count,
    "bytes_per_param": count,
    "round": count,
    "median_ms": positive,
    "gb_per_s": positive,
}
NCU = {"kernel": text, "case": text, "metrics": metrics}


def no_number(name):
    raise ValueError(f"{name} is no number")


def parsed(line):
    """The object of one line, once it has all that its kind has."""
    try:
        row = json.loads(line.decode(), parse_constant=no_number)
    except ValueError as error:
        raise Wrong(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise Wrong("not a JSON object")
    what = row.get("what")
    kinds = {"machine": MACHINE, "check": CHECK, "left_out": LEFT_OUT, "ceiling": CEILING, "ncu": NCU}
    if what == "step":
        library = row.get("library")
        if not text(library) or library not in STEPS:
            raise Wrong(f"a step of the unknown library {library!r}: expected one of {', '.join(STEPS)}")
        keys = STEPS[library]
    elif text(what) and what in kinds:
        keys = kinds[what]
    else:
        raise Wrong(f"\"what\" is {what!r}: expected one of {', '.join([*kinds, 'step'])}")
    for key, fits in keys.items():
        if key not in row:
            raise Wrong(f"{what} without \"{key}\"")
        if not fits(row[key]):
            raise Wrong(f"{what} with \"{key}\" of {row[key]!r}")
    return row


def read_file(path):
    """The machine, and the other lines."""
    rows = []
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), 1):
        try:
            row = parsed(line)
            if (row["what"] == "machine") != (number == 1):
                raise Wrong("the first line, and no other, describes the machine")
        except Wrong as wrong:
            raise Wrong(f"{path}:{number}: {wrong}") from None
        rows.append(row)
    return rows[0], rows[1:]


# ---------------------------------------------------------------- what was measured


class Case(NamedTuple):
    """What `throughput` is asked for."""

    algorithm: str
    shape: str
    param: str
    grad: str
    master: str | None
    moments: str
    rounding: str | None
    weight_decay: float
    kappa: float | None
    clip: bool


class Job(NamedTuple):
    """What the peers can do as well."""

    algorithm: str
    shape: str
    param: str
    grad: str
    moments: str
    clip: bool


def job_of(row):
    """The peers' job that a row of ours is, if it is one. They have no master, and they round to nearest."""
    alike = row.get("master") in (None, "none") and row.get("rounding") != "stochastic" and row.get("kappa") is None
    return Job(*(row[key] for key in Job._fields)) if alike else None


class Measured:
    """Medians over the rounds of one step, with the least and the greatest time."""

    def __init__(self, rows):
        self.row = rows[0]  # what is the same in every round
        self.ms = middle(rows, "median_ms")
        self.least_ms, self.most_ms = (f(row["median_ms"] for row in rows) for f in (min, max))
        self.gb_per_s = middle(rows, "gb_per_s")
        self.rounds = len(rows)
        if self.row.get("library") == "fadam":
            self.share = middle(rows, "share")
            self.ceiling_gb_per_s = middle(rows, "ceiling_gb_per_s")
            self.host_us = middle(rows, "host_us")
            self.kernels = kernel_times([row["kernels"] for row in rows if row["kernels"]])


def beside(ours, theirs):
    """GB/s of a peer and its share of our step's ceiling, by the bytes that the job needs as ours are counted: those that
    a peer moves beyond them are its loss."""
    gb_per_s = ours.row["bytes_per_param"] * theirs.row["params"] / theirs.ms * 1e-6
    return gb_per_s, gb_per_s / ours.ceiling_gb_per_s


def middle(rows, key):
    return statistics.median(row[key] for row in rows)


def kernel_times(rounds):
    """Microseconds of each kernel, in the order of the step; what is launched twice is added up."""
    times = defaultdict(list)
    for launches in rounds:
        step = defaultdict(float)
        for launch in launches:
            step[launch["name"]] += launch["us"]
        for name, us in step.items():
            times[name].append(us)
    return {name: statistics.median(values) for name, values in times.items()}


def grouped(rows, key):
    found = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return {key: Measured(rows) for key, rows in found.items()}


@dataclass
class Card:
    """All files of one card, driver and commit."""

    name: str
    driver: str
    commit: str
    machines: list = field(default_factory=list)
    rows: list = field(default_factory=list)

    def of(self, what):
        return [row for row in self.rows if row["what"] == what]

    def facts(self, key):
        """What the files say, each answer once."""
        answers = (machine[key] for machine in self.machines)
        return sorted({"none" if answer is None else str(answer) for answer in answers})

    def date(self):
        return max(machine["date"] for machine in self.machines)

    def failed(self):
        return [check for check in self.of("check") if not check["ok"]]

    def passed(self):
        return [check for check in self.of("check") if check["ok"]]

    def ours(self):
        """{case: {stream: measured}}"""
        rows = [row for row in self.of("step") if row["library"] == "fadam"]
        found = defaultdict(dict)
        key = lambda row: (Case(*(row[key] for key in Case._fields)), row["stream"])
        for (case, stream), measured in grouped(rows, key).items():
            found[case][stream] = measured
        return dict(found)

    def theirs(self):
        """{(job, library, version, how): measured}"""
        rows = [row for row in self.of("step") if row["library"] != "fadam"]
        return grouped(rows, lambda row: (job_of(row), row["library"], row.get("version"), row["how"]))

    def ceilings(self):
        return grouped(self.of("ceiling"), lambda row: (row["name"], row["params"], row["bytes_per_param"]))


def usual(streams):
    """The stream and what was measured there: the default stream, which a program has that asks for nothing else, if it
    is among them."""
    return next((stream, streams[stream]) for stream in STREAMS if stream in streams)


def read(folder):
    """All results there, those of an emulated driver refused."""
    cards = {}
    for path in sorted(folder.glob("*.jsonl")):
        machine, rows = read_file(path)
        if machine["emulated"]:
            raise Wrong(f"{path}:1: of the emulated driver: its times mean nothing, and its checks are CI's")
        key = machine["card"], machine["driver"], machine["commit"]
        card = cards.setdefault(key, Card(*key))
        card.machines.append(machine)
        card.rows += rows
    return sorted(cards.values(), key=lambda card: (card.name, card.date(), card.driver, card.commit))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        try:
            read_file(Path(argument))
        except Wrong as wrong:
            sys.exit(str(wrong))
