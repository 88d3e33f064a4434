"""Whether what the peers compute depends on the instruction set, the number of threads, and the path through the library: a
few steps over the same numbers, and the hash of parameters and moments."""

import hashlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np

LENGTHS = [1_000_003, 3, 33_007]  # enough for PyTorch to share a step among threads; neither vectors nor rows are full
STEPS = 3
LR, WEIGHT_DECAY, MAX_NORM = 1e-3, 1e-2, 0.5
THREADS = [1, 2, 3]
# As ATEN_CPU_CAPABILITY and as XLA's flag spell them.
LEVELS = {"baseline": ("default", "SSE4_2"), "AVX2": ("avx2", "AVX2"), "AVX-512": ("avx512", "AVX512")}
DIGITS = 12  # of a hash, shown


def inputs():
    """Parameters and the gradients of each step, of sizes from 2^-15 on, so that sums depend on the order of their terms."""
    rng = np.random.default_rng(1)
    draw = lambda n: np.ldexp(rng.uniform(-1, 1, n), -rng.integers(0, 16, n)).astype(np.float32)
    return [draw(n) for n in LENGTHS], [[draw(n) for n in LENGTHS] for _ in range(STEPS)]


def digest(arrays):
    return hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in arrays)).hexdigest()[:DIGITS]


def torch_run(threads, clip, **options):
    import torch

    torch.set_num_threads(threads)
    parameters, gradients = inputs()
    parameters = [torch.nn.Parameter(torch.tensor(values)) for values in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=WEIGHT_DECAY, **options)
    for step in gradients:
        for parameter, values in zip(parameters, step):
            parameter.grad = torch.tensor(values)
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()
    state = [optimizer.state[p][name] for name in ("exp_avg", "exp_avg_sq") for p in parameters]
    return digest([p.detach() for p in parameters] + state)


def optax_run(clip, compiled):
    import jax
    import optax

    optimizer = optax.adamw(LR, weight_decay=WEIGHT_DECAY)
    if clip:
        optimizer = optax.chain(optax.clip_by_global_norm(MAX_NORM), optimizer)
    parameters, gradients = inputs()
    state = optimizer.init(parameters)

    def step(parameters, state, gradients):
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state

    for step_gradients in gradients:
        parameters, state = (jax.jit(step) if compiled else step)(parameters, state, step_gradients)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 1]
    return digest(parameters + moments)


def torch_rows():
    for threads, clip in product(THREADS, [False, True]):
        for path in ("fused", "foreach"):
            yield dict(path=path, clip=clip), torch_run(threads, clip, **{path: True})
        yield dict(path="for loop", clip=clip), torch_run(threads, clip, foreach=False)


def optax_rows():
    for clip, compiled in product([False, True], [True, False]):
        yield dict(path="jit" if compiled else "no jit", clip=clip), optax_run(clip, compiled)


def runs():
    """Instruction sets are chosen when a library is loaded, and XLA's threads are as many as the cores of its process."""
    for level, (torch_level, xla_level) in LEVELS.items():
        yield "PyTorch", level, "torch", {"ATEN_CPU_CAPABILITY": torch_level}, None
        for cores in range(1, len(os.sched_getaffinity(0)) + 1):
            yield "optax", level, "optax", {"XLA_FLAGS": f"--xla_cpu_max_isa={xla_level}"}, cores


def main():
    seen = defaultdict(list)  # (library, path, clip, level): a hash for each number of threads
    for library, level, process, environment, cores in runs():
        keep_to = (lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])) if cores else None
        command = [sys.executable, Path(__file__).resolve(), process]
        environment = {**os.environ, **environment}
        run = subprocess.run(command, env=environment, preexec_fn=keep_to, capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(f"{library} with {level}: {run.stderr}")
        for row in map(json.loads, run.stdout.splitlines()):
            seen[library, row["path"], row["clip"], level].append(row["hash"])
    print("| AdamW of | clipped | " + " | ".join(LEVELS) + " | different |")
    print("|---" * (3 + len(LEVELS)) + "|")
    for library, path, clip in sorted({key[:3] for key in seen}):
        cells = [seen[library, path, clip, level] for level in LEVELS]
        # One hash where threads make no difference.
        shown = [" ".join(f"`{found}`" for found in dict.fromkeys(hashes)) for hashes in cells]
        different = f"{len({found for hashes in cells for found in hashes})} of {sum(map(len, cells))}"
        print(f"| {library}, {path} | {'yes' if clip else 'no'} | " + " | ".join([*shown, different]) + " |")


if __name__ == "__main__":
    rows = {"torch": torch_rows, "optax": optax_rows}[sys.argv[1]]
    for row, found in rows():
        print(json.dumps({**row, "hash": found}))
