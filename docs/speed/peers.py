"""One step of each peer that has Python, and its time. A process of its own (`python peers.py torch|optax`) reads turns from
stdin and answers with seconds, one JSON line each."""

import gc
import json
import os
import statistics
import sys
import time
from functools import cache, partial
from importlib.metadata import version

import numpy as np

# As `throughput` has them: parameters stay what they are however many steps are timed, and every clipping acts.
LR = 1e-9
WEIGHT_DECAY = 0.01
MAX_NORM = 1.0

THREADS = len(os.sched_getaffinity(0))
WARM_UP = 0.1  # seconds, and at least two steps: the first allocates the moments, or compiles
LEAST_STEPS = 3


@cache
def tile():
    rng = np.random.default_rng(0)
    values = rng.uniform(2**-8, 2**-7, 1 << 20) * rng.choice([-1.0, 1.0], 1 << 20)
    return values.astype(np.float32)


def values(length):
    """As in `throughput`: of both signs, and of a size that leads to no subnormals."""
    return np.resize(tile(), length)


def torch_step(make, lengths, clip=False):
    import torch

    torch.set_num_threads(THREADS)
    parameters = [torch.nn.Parameter(torch.tensor(values(n))) for n in lengths]
    for parameter in parameters:
        parameter.grad = torch.tensor(values(parameter.numel()))
    optimizer = make(parameters)

    def step():
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()

    return step


def torch_adamw(lengths, clip=False, **options):
    import torch

    return torch_step(lambda p: torch.optim.AdamW(p, lr=LR, weight_decay=WEIGHT_DECAY, **options), lengths, clip)


def hwang_fadam(lengths):
    import pytorch_optimizer

    return torch_step(lambda p: pytorch_optimizer.FAdam(p, lr=LR), lengths)


@cache  # so that each list of lengths is compiled once, whatever the rounds
def optax_compiled(clip):
    import jax
    import optax

    optimizer = optax.adamw(LR, weight_decay=WEIGHT_DECAY)
    if clip:
        optimizer = optax.chain(optax.clip_by_global_norm(MAX_NORM), optimizer)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(parameters, state, gradients):
        updates, state = optimizer.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state

    return optimizer, step


def optax_adamw(lengths, clip=False):
    import jax

    optimizer, compiled = optax_compiled(clip)
    arrays = lambda: [jax.numpy.array(values(n)) for n in lengths]
    parameters, gradients = arrays(), arrays()
    state = optimizer.init(parameters)

    def step():
        nonlocal parameters, state
        parameters, state = jax.block_until_ready(compiled(parameters, state, gradients))

    return step


# What a turn may ask for, by the process that knows it.
STEPS = {
    "torch": {
        ("adamw", "torch_fused"): partial(torch_adamw, fused=True),
        ("adamw", "torch"): torch_adamw,
        ("clip", "torch_fused"): partial(torch_adamw, fused=True, clip=True),
        ("fisher_adam", "pytorch_optimizer"): hwang_fadam,
    },
    "optax": {
        ("adamw", "optax"): optax_adamw,
        ("clip", "optax"): partial(optax_adamw, clip=True),
    },
}
VERSIONS = {"torch": ["torch", "pytorch_optimizer"], "optax": ["optax", "jax"]}


def timed(step, seconds):
    """The median time of a step."""
    steps, begin = 0, time.perf_counter()
    while steps < 2 or time.perf_counter() - begin < WARM_UP:
        step()
        steps += 1
    times, begin = [], time.perf_counter()
    while len(times) < LEAST_STEPS or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main(process):
    print(json.dumps({name: version(name) for name in VERSIONS[process]}), flush=True)
    for line in sys.stdin:
        turn = json.loads(line)
        step = STEPS[process][turn["job"], turn["library"]](turn["lengths"])
        answer = timed(step, turn["seconds"])
        del step  # a state may be 2 GB, and the next process needs the room
        gc.collect()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
