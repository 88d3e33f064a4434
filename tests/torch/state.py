#!/usr/bin/env python3
"""State of PyTorch's Adam and AdamW, to and from: what tests/state_torch.rs is about.

    python state.py record                          writes tests/golden/torch_state
    python state.py continue CASE PARAMETERS STATE OUT
                                                    continues a case with state that fadam has exported

`record` trains a small model in float32. A case is two files: `<case>.state.safetensors` is the optimizer's state_dict() after
STEPS_BEFORE steps, flattened as `state.<i>.<key>`; `<case>.safetensors` has the parameters then (`param/<name>`), and of each
later step t the gradients (`grad/<t>/<name>`), and what torch makes of them (`expect/<t>/<name>`, and after the last step
`expect/state.<i>.<key>`). Metadata: `optimizer`, JSON as `replay` takes it; `names`, JSON, in the order of torch's numbers;
`last`, the last t; `source`.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parents[1] / "golden" / "torch_state"
STEPS_BEFORE = 5
LAST = 12
CASES = {
    "adam": dict(decay="l2"),
    "adam_l2_amsgrad": dict(decay="l2", weight_decay=0.1, amsgrad=True, beta1=0.8, beta2=0.99),
    "adamw": dict(decay="decoupled", weight_decay=0.01, lr=0.01),
    "adamw_amsgrad": dict(decay="decoupled", weight_decay=0.05, amsgrad=True, eps=1e-6),
}
DEFAULTS = dict(algorithm="adam", lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, amsgrad=False)


def optimizer(config, parameters):
    """The torch optimizer of a configuration."""
    kind = torch.optim.AdamW if config["decay"] == "decoupled" else torch.optim.Adam
    return kind(
        parameters,
        lr=config["lr"],
        betas=(config["beta1"], config["beta2"]),
        eps=config["eps"],
        weight_decay=config["weight_decay"],
        amsgrad=config["amsgrad"],
    )


def flat(optimizer):
    """The state of a state_dict() as one table of tensors."""
    state = optimizer.state_dict()["state"]
    return {f"state.{i}.{key}": value.clone().contiguous() for i, s in state.items() for key, value in s.items()}


def record(name, config):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    # Takes part after the state is saved: torch has no state of it by then.
    model.register_parameter("late", torch.nn.Parameter(torch.randn(3)))
    parameters = dict(model.named_parameters())
    steps = optimizer(config, parameters.values())
    inputs, targets = torch.randn(16, 5), torch.randn(16, 1)
    tensors = {}
    for t in range(1, LAST + 1):
        steps.zero_grad(set_to_none=True)
        loss = ((model(inputs) - targets) ** 2).mean()
        if t > STEPS_BEFORE:
            loss = loss + (model.late**2).sum()
        loss.backward()
        if t > STEPS_BEFORE:
            tensors |= {f"grad/{t}/{n}": p.grad.clone() for n, p in parameters.items()}
        steps.step()
        if t == STEPS_BEFORE:
            save_file(flat(steps), FOLDER / f"{name}.state.safetensors")
            tensors |= {f"param/{n}": p.detach().clone() for n, p in parameters.items()}
        if t > STEPS_BEFORE:
            tensors |= {f"expect/{t}/{n}": p.detach().clone() for n, p in parameters.items()}
    tensors |= {f"expect/{n}": value for n, value in flat(steps).items()}
    metadata = {
        "optimizer": json.dumps(config),
        "names": json.dumps(list(parameters)),
        "last": str(LAST),
        "source": f"torch {torch.__version__}",
    }
    save_file(tensors, FOLDER / f"{name}.safetensors", metadata)


def resume(case, parameters, state, out):
    """The parameters are those of step t; the state tells t."""
    with safe_open(case, "pt") as file:
        metadata = file.metadata()
    tensors, start, state = load_file(case), load_file(parameters), load_file(state)
    names = json.loads(metadata["names"])
    model = {n: start[n].view_as(tensors[f"param/{n}"]).clone().requires_grad_() for n in names}
    steps = optimizer(json.loads(metadata["optimizer"]), model.values())
    restored = steps.state_dict()
    for key, value in state.items():
        _, i, key = key.split(".")
        parameter = model[names[int(i)]]
        restored["state"].setdefault(int(i), {})[key] = value if key == "step" else value.view_as(parameter)
    steps.load_state_dict(restored)
    t = int(max(value for key, value in state.items() if key.endswith(".step")))
    for t in range(t + 1, int(metadata["last"]) + 1):
        for n, p in model.items():
            p.grad = tensors[f"grad/{t}/{n}"]
        steps.step()
    save_file({n: p.detach() for n, p in model.items()} | flat(steps), out)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["record"]:
            FOLDER.mkdir(parents=True, exist_ok=True)
            for name, config in CASES.items():
                record(name, DEFAULTS | config)
        case ["continue", case, parameters, state, out]:
            resume(case, parameters, state, out)
        case _:
            sys.exit(__doc__)
