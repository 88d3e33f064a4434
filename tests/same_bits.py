#!/usr/bin/env python3
"""One recording for each optimizer, replayed on every device at hand: prints the hashes of what came out, and exits with 1
unless they are the same everywhere.

    python3 tests/same_bits.py REPLAY [--arm "QEMU ... REPLAY"]

REPLAY is the program `replay` (target/release/examples/replay); by --arm, a command that runs one built for aarch64.
`bash .ci/test same_bits` does it with emulated GPUs, `same_bits_arm` with aarch64 too. The recordings are made here, of
numbers that Python gives alike on every machine, and so the hashes should be alike there too.
"""

import argparse
import hashlib
import json
import os
import random
import shlex
import struct
import subprocess
import sys
import tempfile
from itertools import count
from math import ldexp
from pathlib import Path

# Above 65 536 elements a step is shared among threads. The lengths fill neither vectors nor rows.
LENGTHS = {"a": 70_001, "b": 3, "c": 33_007}
BF16 = {"c"}
STEPS = 3
OPTIMIZERS = {
    "AdamW": {"algorithm": "adam", "decay": "decoupled", "max_grad_norm": 0.5},
    "FAdam": {"algorithm": "fadam", "kappa": 200.0, "weight_decay": 1e-3, "max_grad_norm": 0.5},
    "Fisher Adam": {"algorithm": "fisher_adam", "max_grad_norm": 0.5},
}
LEVELS = ["scalar", "avx2", "avx512", "neon"]
THREADS = ["1", "2", "3"]
DIGITS = 12  # of a hash, shown


def recording(optimizer):
    """The safetensors file that `replay` takes."""
    rng = random.Random(1)
    tensors = {}
    for name, length in LENGTHS.items():
        for kind in ["param", *(f"grad/{t}" for t in range(1, STEPS + 1))]:
            # Sizes down to 2^-15 and less, so that sums depend on the order of their terms.
            numbers = [ldexp(2 * rng.random() - 1, -int(16 * rng.random())) for _ in range(length)]
            data = struct.pack(f"<{length}f", *numbers)
            if name in BF16:
                data = b"".join(data[i + 2 : i + 4] for i in range(0, len(data), 4))  # the upper half of an f32
            tensors[f"{kind}/{name}"] = ("BF16" if name in BF16 else "F32", length, data)
    header, offset = {"__metadata__": {"optimizer": json.dumps(optimizer)}}, 0
    for name, (dtype, length, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": [length], "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


def replay(command, folder):
    """What the device is called, and the hash of OUT for each optimizer; None where there is no such device."""
    hashes = []
    for optimizer in OPTIMIZERS.values():
        source, out = folder / "in", folder / "out"
        source.write_bytes(recording(optimizer))
        run = subprocess.run([*command, source, out], capture_output=True, text=True)
        if run.returncode != 0:
            if "is not available" in run.stderr:
                return None
            sys.exit(f"{shlex.join(command)}: {run.stderr}")
        hashes.append(hashlib.sha256(out.read_bytes()).hexdigest())
    device = run.stdout.splitlines()[0].removeprefix("device: ")
    return device, hashes


def devices(programs, folder):
    """Every row of the table."""
    for machine, program in programs:
        for level in LEVELS:
            for threads in THREADS:
                command = [*program, "--device", "cpu", "--simd", level, "--threads", threads]
                if found := replay(command, folder):
                    yield machine + found[0], found[1]
    for ordinal in count():
        found = replay([*programs[0][1], "--device", f"cuda:{ordinal}"], folder)
        if not found:
            if ordinal == 0 and os.environ.get("FADAM_REQUIRE_DEVICE") == "1":
                sys.exit("no GPU was found, and FADAM_REQUIRE_DEVICE asks for one")
            return
        yield found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("replay", type=Path)
    parser.add_argument("--arm", metavar="COMMAND", type=shlex.split)
    options = parser.parse_args()
    programs = [("", [options.replay.resolve()])]
    if options.arm:
        programs.append(("aarch64: ", options.arm))
    seen = set()
    print("| device | " + " | ".join(OPTIMIZERS) + " |")
    print("|---" * (len(OPTIMIZERS) + 1) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for device, hashes in devices(programs, Path(folder)):
            seen.add(tuple(hashes))
            print(f"| {device} | " + " | ".join(f"`{digest[:DIGITS]}`" for digest in hashes) + " |", flush=True)
    if len(seen) != 1:
        sys.exit("the bits are not the same everywhere")
    print("the same bits everywhere")


if __name__ == "__main__":
    main()
