#!/usr/bin/env python3
"""Records learning-rate schedules of Hugging Face's transformers, as torch's LambdaLR walks through them, and loss scales of
torch's GradScaler, as schedules.json beside this file. tests/schedule.rs and tests/loss_scale.rs compare with it.

    python schedules.py     with torch 2.15.0 and transformers 4.57.1
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
import transformers

# kind, the arguments of our constructor (the floor last), and the same schedule of theirs
SCHEDULES = [
    ("constant", [0], lambda o: transformers.get_constant_schedule(o)),
    ("constant", [7], lambda o: transformers.get_constant_schedule_with_warmup(o, 7)),
    ("cosine", [0, 40, 0.0], lambda o: transformers.get_cosine_schedule_with_warmup(o, 0, 40)),
    ("cosine", [9, 50, 0.0], lambda o: transformers.get_cosine_schedule_with_warmup(o, 9, 50)),
    ("cosine", [3, 31, 0.1],
     lambda o: transformers.get_cosine_with_min_lr_schedule_with_warmup(o, 3, 31, min_lr_rate=0.1)),
    ("linear", [0, 10, 0.0], lambda o: transformers.get_linear_schedule_with_warmup(o, 0, 10)),
    ("linear", [6, 47, 0.0], lambda o: transformers.get_linear_schedule_with_warmup(o, 6, 47)),
    ("inverse_sqrt", [5, 60], lambda o: transformers.get_inverse_sqrt_schedule(o, 5)),
    ("inverse_sqrt", [1, 30], lambda o: transformers.get_inverse_sqrt_schedule(o, 1)),
    # A floor is not compared: their warm-up begins at it, ours at 0, as in their other schedules.
    ("warmup_stable_decay", [4, 20, 11, 0.0],
     lambda o: transformers.get_wsd_schedule(o, 4, 11, num_stable_steps=20, decay_type="linear")),
]

# init_scale, growth_factor, backoff_factor, growth_interval, and which of the steps find an infinity
SCALERS = [
    ([65536.0, 2.0, 0.5, 2000], [3, 4]),
    ([65536.0, 2.0, 0.5, 3], [0, 4, 9, 10, 20]),
    ([1.0, 2.0, 0.5, 1], [1, 3]),
    ([2.0**120, 2.0, 0.5, 1], [3]),
    ([1024.0, 1.5, 0.25, 2], [5, 6, 30]),
]
STEPS = 40


def factors(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps + 1):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def scales(arguments, infinite):
    init_scale, growth_factor, backoff_factor, growth_interval = arguments
    scaler = torch.amp.GradScaler("cpu", init_scale, growth_factor, backoff_factor, growth_interval)
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    found = []
    for step in range(STEPS):
        optimizer.zero_grad()
        scaler.scale((parameter * 1e-30).sum()).backward()
        if step in infinite:
            parameter.grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
        found.append(scaler.get_scale())
    return found


def last_step(kind, arguments):
    if kind == "warmup_stable_decay":
        return sum(arguments[:3])
    return arguments[0] if kind == "constant" else arguments[1]


recorded = {
    "source": f"torch {version('torch')}, transformers {version('transformers')}",
    "schedules": [
        {"kind": kind, "arguments": arguments, "factors": factors(make, last_step(kind, arguments))}
        for kind, arguments, make in SCHEDULES
    ],
    "scalers": [
        {"arguments": arguments, "infinite": infinite, "scales": scales(arguments, infinite)}
        for arguments, infinite in SCALERS
    ],
}
Path(__file__).with_suffix(".json").write_text(json.dumps(recorded) + "\n")
