#!/usr/bin/env python3
"""The optimizer step of fadam and of its peers on this machine's CPU, side by side, against the bandwidth of its memory.

    bash .ci/test speed                         makes the environment, and runs:
    python docs/speed/measure.py                measures, writes speed.jsonl beside this file and docs/speed.png
    python docs/speed/measure.py --plot         draws the figure from speed.jsonl again; needs matplotlib alone
    python docs/speed/measure.py --bits         whether the peers' results depend on instruction set, threads, path

In each round everything is measured once: shape by shape, and in another order each time, so that a drift favours nobody.
What a peer reaches in a round is compared with the ceiling that `throughput` finds in the same round for the same shape
and traffic. Given is the median over the rounds, with the least and the greatest.

Python's peers live in one process for each framework from the first round to the last, since importing takes seconds, and
compiling too; parameters and moments are made anew for each turn, since all of them together would not fit the memory.
While a process waits for its turn its threads sleep. The Rust programs start anew for each turn: they start at once.

All have the same chances: as many threads as cores, and arrays in huge pages where the system gives them on request (fadam
asks by itself; glibc asks for the others). OpenMP's threads are kept on their cores, as `throughput` keeps its own: without
that the system at times leaves two of them on one core, and a step takes a time slice.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ among the documents
import figure

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = HERE / "speed.jsonl"
PYTHON_TURNS = {
    "torch": [("adamw", "torch_fused"), ("adamw", "torch"), ("clip", "torch_fused"), ("fisher_adam", "pytorch_optimizer")],
    "optax": [("adamw", "optax"), ("clip", "optax")],
}
ALL_THEIRS = dict(GLIBC_TUNABLES="glibc.malloc.hugetlb=1", OMP_PROC_BIND="true")
THREADS = len(os.sched_getaffinity(0))
DISTURBED = 1.1  # a share above this: the ceiling's threads, which wait for each other, suffer first from a busy machine
NEVER_ACTS = "1e6"  # as kappa: `throughput`'s update has a norm of the root of the number of elements


def gpt2():
    """The tensors of GPT-2 124M, as `throughput` has them."""
    width = 768
    norm, linear = [width, width], lambda inputs, outputs: [inputs * outputs, outputs]
    layer = norm + linear(width, 3 * width) + linear(width, width) + norm
    layer += linear(width, 4 * width) + linear(4 * width, width)
    return [50257 * width, 1024 * width] + 12 * layer + norm


SHAPES = {"1048576": [1 << 20], "16777216": [1 << 24], "gpt2": gpt2()}


# ---------------------------------------------------------------- turns: each yields (job, library, seconds, throughput's row or None)


class Peers:
    """A process of peers.py."""

    def __init__(self, process):
        command = [sys.executable, HERE / "peers.py", process]
        pipe = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.process = subprocess.Popen(command, env={**os.environ, **ALL_THEIRS}, **pipe)
        self.versions = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a process of peers.py has ended: what it printed says why")
        return json.loads(line)

    def turn(self, job, library, shape, seconds):
        turn = dict(job=job, library=library, lengths=SHAPES[shape], seconds=seconds)
        print(json.dumps(turn), file=self.process.stdin)
        yield job, library, self.answer(), None

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def cargo(*command, environment={}):
    run = subprocess.run(["cargo", *command], cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(f"`cargo {' '.join(command)}` failed")
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


THROUGHPUT = ["run", "--quiet", "--release", "--package", "fadam-programs", "--example", "throughput", "--"]
CANDLE = ["bench", "--quiet", "--package", "fadam", "--features", "candle", "--bench", "candle", "--"]


def throughput(options, jobs, shape, seconds):
    rows = cargo(*THROUGHPUT, "--json", "--device", "cpu", "--shape", shape, "--seconds", str(seconds), *options)
    for job, row in zip(jobs, rows, strict=True):
        yield job, "fadam", row["median_ms"] / 1e3, row


def candle(shape, seconds):
    rounds = "1" if shape == "gpt2" else "5"  # there one step takes candle-nn seconds
    (row,) = cargo(*CANDLE, "--json", "--rounds", rounds, shape, environment=ALL_THEIRS)
    yield "adamw", "candle", row["candle_nn_ms"] / 1e3, None
    yield "adamw", "fadam_candle", row["fadam_ms"] / 1e3, None


def turns(peers):
    """What is measured of each shape in each round."""
    checked = ["--algorithm", "adamw", "--clip"]
    plain = ["--algorithm", "adamw,fadam,fisher_adam", "--kappa", NEVER_ACTS]
    yield lambda *at: throughput(plain, ["adamw", "fadam", "fisher_adam"], *at)
    yield lambda *at: throughput(checked, ["clip"], *at)
    yield candle
    for name, process in peers.items():
        for turn in PYTHON_TURNS[name]:
            yield lambda *at, process=process, turn=turn: process.turn(*turn, *at)


# ---------------------------------------------------------------- rounds


def measure(rounds, seconds):
    if os.getloadavg()[0] > 0.5:
        print(f"warning: other programs are at work (load {os.getloadavg()[0]:.1f}), and will show", flush=True)
    for arguments in (THROUGHPUT + ["--help"], CANDLE + ["--rounds", "1", "16384"]):
        cargo(*arguments)  # builds
    peers = {name: Peers(name) for name in PYTHON_TURNS}
    everything = list(turns(peers))
    found = defaultdict(list)  # (job, library, shape): (seconds, throughput's row) of each round
    for i in range(rounds):
        for shape in SHAPES:
            first = i * len(everything) // rounds
            results = [r for turn in everything[first:] + everything[:first] for r in turn(shape, seconds)]
            ceilings = {job: row for job, _, _, row in results if row}
            for job, library, time, row in results:
                found[job, library, shape].append((time, row or ceilings[job], row))
                print(f"round {i + 1}/{rounds} {shape:>8} {job:>11} {library:<17} {time * 1e3:10.3f} ms", flush=True)
    for process in peers.values():
        process.end()
    versions = {**rust_versions(), **{name: v for process in peers.values() for name, v in process.versions.items()}}
    return [summary(key, found[key], versions, seconds) for key in sorted(found)]


def summary(key, rounds, versions, seconds):
    job, library, shape = key
    like = rounds[0][1]
    needed = like["bytes_per_param"] * like["params"]
    # Its own share `throughput` takes from many short turns of step and ceiling, which says more than two medians.
    shares = [own["share"] if own else needed / time * 1e-9 / row["ceiling_gb_per_s"] for time, row, own in rounds]
    return {
        "job": job,
        "library": library,
        "shape": shape,
        "params": like["params"],
        "tensors": like["tensors"],
        "bytes_per_param": like["bytes_per_param"],
        "ms": spread([time * 1e3 for time, _, _ in rounds]),
        "gb_per_s": spread([needed / time * 1e-9 for time, _, _ in rounds]),
        "ceiling_gb_per_s": spread([row["ceiling_gb_per_s"] for _, row, _ in rounds]),
        "share": spread(shares),
        "rounds": len(rounds),
        "seconds": seconds,
        "threads": THREADS,
        "cpu": cpu(),
        "versions": {name: versions[name] for name in figure.LIBRARIES[library].packages},
    }


def spread(values):
    return {"median": rounded(statistics.median(values)), "min": rounded(min(values)), "max": rounded(max(values))}


def rounded(value):
    return float(f"{value:.4g}")


def rust_versions():
    packages = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    return {package["name"]: package["version"] for package in packages if package["name"] in ("fadam", "candle-nn")}


def cpu():
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    facts = dict([part.strip() for part in line.split(":", 1)] for line in lines if ":" in line)
    name = facts.get("model name", "unknown")
    return f"{name}, family {facts['cpu family']}, model {facts['model']}" if "cpu family" in facts else name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each turn, once it is set up (default 0.4)")
    parser.add_argument("--plot", action="store_true")
    parser.add_argument("--bits", action="store_true")
    options = parser.parse_args()
    if options.bits:
        import bits

        return bits.main()
    if not options.plot:
        rows = measure(options.rounds, options.seconds)
        RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"wrote {RESULTS}")
        if any(row["library"] == "fadam" and row["share"]["median"] > DISTURBED for row in rows):
            print("warning: other programs have slowed the ceiling down; measure again on a quiet machine")
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    figure.draw(rows, ROOT / "docs" / "speed.png")


if __name__ == "__main__":
    main()
