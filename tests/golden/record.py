#!/usr/bin/env python3
"""Records trajectories of other people's optimizers, in float64, as `<case>.safetensors` beside this file.

Inputs (parameters, gradients) are f32 or bf16 and exact in float64; the library runs in float64 on them, so what is
recorded is an oracle for an f32 implementation. README.md says what a file holds; check.py judges the files.

    python record.py [CASE ...]     all cases without arguments
"""

import json
import re
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
import optax
import pytorch_optimizer
import torch
from importlib.metadata import version
from safetensors.torch import save

HERE = Path(__file__).parent
F64 = torch.float64

# Five shapes, odd on purpose: SIMD tails, one element, no dimension, a vector plus two. Names carry `.` and `/`, and
# their byte order differs from this order, which must not matter.
FULL = {"layers.0/attn.weight": (3, 5), "layers.0/attn.bias": (7,), "embed/table": (130,), "scale": (), "Head.b": (1,)}
SMALL = {"layers.0/attn.weight": (3, 5), "layers.0/attn.bias": (7,), "mix/w": (33,), "scale": (), "Head.b": (1,)}
# One tensor longer than a chunk of 4096 elements. bf16 gradients and no trajectory keep its file small.
BIG = {"block.0/w": (4100,), "block.0/b": (7,)}


@dataclass
class Case:
    """One file. `optimizer` is the JSON object that `replay` takes; `run` is the library that answers."""

    name: str
    run: object
    optimizer: dict
    shapes: dict = field(default_factory=lambda: SMALL)
    steps: int = 6
    bf16: bool = False  # the gradients
    narrow: set = field(default_factory=set)  # the parameters that are bf16; the library steps their exact masters
    zeros: float = 0.06  # share of gradient entries that are exactly zero
    magnitude: tuple = (1e-3, 1.0)  # |g|, log-uniform
    magnitude_at: dict = field(default_factory=dict)  # (name, t) -> |g|: another magnitude for one tensor at one step; 0 = all zero
    missing: set = field(default_factory=set)  # (name, t): no gradient
    non_finite_at: tuple = ()  # steps with one infinite or NaN entry
    trajectory: bool = True
    # What the case is there to show, counted by check.py from the file itself: never | sometimes | always.
    covers: dict = field(default_factory=dict)


# ---------------------------------------------------------------- inputs


def draw(case):
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    params, grads = {}, {t: {} for t in range(1, case.steps + 1)}
    for name, shape in case.shapes.items():
        params[name] = torch.tensor(0.5 * rng.standard_normal(shape), dtype=torch.float32)
        if name in case.narrow:
            params[name] = params[name].to(torch.bfloat16)
    for t in grads:
        for name, shape in case.shapes.items():
            low, high = np.log(case.magnitude)
            size = np.exp(rng.uniform(low, high, shape)) * case.magnitude_at.get((name, t), 1.0)
            g = size * rng.choice([-1.0, 1.0], shape) * (rng.uniform(size=shape) >= case.zeros)
            if (name, t) not in case.missing:
                grads[t][name] = torch.tensor(g, dtype=torch.bfloat16 if case.bf16 else torch.float32)
    for i, t in enumerate(case.non_finite_at):
        list(grads[t].values())[0].view(-1)[i] = [float("inf"), float("nan")][i % 2]
    return params, grads


def lr_at(o, t):
    return o["lr"][t - 1] if isinstance(o["lr"], list) else o["lr"]


def unscale_and_clip(o, grads):
    """The effective gradient, by PyTorch's own clipping, and what the step reports of it."""
    grads = {n: g.to(F64) / o.get("grad_scale", 1.0) for n, g in grads.items()}
    if not grads:
        return grads, 0.0, 1.0
    leaves = {n: torch.nn.Parameter(torch.empty_like(g)) for n, g in grads.items()}
    for n, p in leaves.items():
        p.grad = grads[n]
    if o.get("max_grad_norm") is None:
        return grads, torch.nn.utils.get_total_norm(grads.values()).item(), 1.0
    norm = torch.nn.utils.clip_grad_norm_(leaves.values(), o["max_grad_norm"], foreach=False).item()
    return {n: p.grad for n, p in leaves.items()}, norm, min(1.0, o["max_grad_norm"] / (norm + 1e-6))


def report(t, grad_norm, clip, update_norm=None, skipped=False):
    return {"step": t, "grad_norm": grad_norm, "clip_coefficient": clip, "update_norm": update_norm, "skipped": skipped}


class Recorder:
    """Collects the trajectory; every `run` below returns one."""

    def __init__(self, source):
        self.source, self.trajectory, self.reports, self.final = source, {}, [], {}

    def after_step(self, t, params, report):
        for n, p in params.items():
            self.trajectory[f"expect/{t}/param/{n}"] = to_f64(p)
        self.reports.append(report)

    def finish(self, kind, tensors):
        for n, x in tensors.items():
            self.final[f"expect/{kind}/{n}"] = to_f64(x)


def to_f64(x):
    x = x.detach() if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x))
    assert x.dtype == F64, x.dtype
    return x.clone()


# ---------------------------------------------------------------- the libraries


def torch_adam(case, params, grads):
    """torch.optim.Adam / AdamW as they are, behind torch's clipping and, for non-finite gradients, its GradScaler."""
    o = case.optimizer
    params = {n: torch.nn.Parameter(p.to(F64)) for n, p in params.items()}
    cls = torch.optim.AdamW if o.get("decay") == "decoupled" else torch.optim.Adam
    opt = cls(params.values(), lr=lr_at(o, 1), betas=(o["beta1"], o["beta2"]), eps=o.get("eps", o.get("eps0")),
              weight_decay=o["weight_decay"], amsgrad=o.get("amsgrad", False), maximize=o.get("maximize", False), foreach=False)
    rec = Recorder(f"torch {version('torch')} torch.optim.{cls.__name__}, float64")
    if case.non_finite_at:
        rec.source += " under torch.amp.GradScaler"
    for t in range(1, case.steps + 1):
        opt.param_groups[0]["lr"] = lr_at(o, t)
        if case.non_finite_at:
            scaler = torch.amp.GradScaler("cpu", init_scale=o["grad_scale"])
            scaler.scale(torch.zeros(()))  # creates the scale
            for n, p in params.items():
                p.grad = grads[t][n].to(F64)
            scaler.unscale_(opt)
            norm = torch.nn.utils.get_total_norm([p.grad for p in params.values()]).item()
            before = [p.detach().clone() for p in params.values()]
            scaler.step(opt)
            skipped = t in case.non_finite_at
            assert skipped == all(torch.equal(b, p) for b, p in zip(before, params.values()))
            rec.after_step(t, params, report(t, None, None, skipped=True) if skipped else report(t, norm, 1.0))
            continue
        effective, norm, clip = unscale_and_clip(o, grads[t])
        for n, p in params.items():
            p.grad = effective.get(n)
        opt.step()
        rec.after_step(t, params, report(t, norm, clip))
    rec.finish("param", params)
    for kind in ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * o.get("amsgrad", False):
        rec.finish(kind, {n: opt.state[p][kind] for n, p in params.items()})
    return rec


def optax_adam(case, params, grads):
    """optax.adam / adamw; L2 decay by add_decayed_weights. One step count for all, so no missing gradients."""
    o = case.optimizer
    assert not case.missing and o.get("max_grad_norm") is None, "optax counts and clips differently: see README.md"
    lr = o["lr"] if not isinstance(o["lr"], list) else (lambda count: jnp.asarray(o["lr"])[count])
    kwargs = dict(b1=o["beta1"], b2=o["beta2"], eps=o["eps"])
    if o["decay"] == "decoupled":
        tx, what = optax.adamw(lr, weight_decay=o["weight_decay"], **kwargs), "optax.adamw"
    elif o["weight_decay"] == 0:
        tx, what = optax.adam(lr, **kwargs), "optax.adam"
    else:
        tx, what = optax.chain(optax.add_decayed_weights(o["weight_decay"]), optax.adam(lr, **kwargs)), "add_decayed_weights, adam"
    params = {n: jnp.asarray(p.to(F64).numpy()) for n, p in params.items()}
    state = tx.init(params)
    rec = Recorder(f"optax {version('optax')} (jax {version('jax')}) {what}, float64")
    for t in range(1, case.steps + 1):
        g = {n: jnp.asarray(x.to(F64).numpy()) for n, x in grads[t].items()}
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        rec.after_step(t, params, report(t, float(optax.global_norm(g)), 1.0))
    adam = next(s for s in jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, optax.ScaleByAdamState))
                if isinstance(s, optax.ScaleByAdamState))
    rec.finish("param", params)
    rec.finish("exp_avg", adam.mu)
    rec.finish("exp_avg_sq", adam.nu)
    return rec


def pytorch_optimizer_fadam(case, params, grads):
    """pytorch_optimizer's FAdam, one instance for each parameter: its step count belongs to the group, ours to the
    parameter, and nothing else of it crosses tensors. The state is f32 unless told otherwise, hence the dtypes."""
    o = case.optimizer
    params = {n: torch.nn.Parameter(p.to(F64)) for n, p in params.items()}
    opts = {n: pytorch_optimizer.FAdam([p], lr=lr_at(o, 1), betas=(o["beta1"], o["beta2"]), weight_decay=o["weight_decay"],
                                       clip=o["clip"], p=o["rho"], eps=o["eps"], eps_2=o["eps2"], momentum_dtype=F64,
                                       fim_dtype=F64, foreach=False) for n, p in params.items()}
    clipping = o.get("max_grad_norm") is not None
    rec = Recorder(f"pytorch_optimizer {version('pytorch_optimizer')} FAdam (torch {version('torch')}), float64, one instance "
                   f"per parameter" + (", after torch.nn.utils.clip_grad_norm_" if clipping else ""))
    for t in range(1, case.steps + 1):
        effective, norm, clip = unscale_and_clip(o, grads[t])
        for n, g in effective.items():
            params[n].grad = g
            opts[n].param_groups[0]["lr"] = lr_at(o, t)
            opts[n].step()
        rec.after_step(t, params, report(t, norm, clip))
    rec.finish("param", params)
    rec.finish("exp_avg", {n: opts[n].state[p]["momentum"] for n, p in params.items()})
    rec.finish("exp_avg_sq", {n: opts[n].state[p]["fim"] for n, p in params.items()})
    return rec


def composed_fadam(case, params, grads):
    """FAdam as algorithms.md §2 has it exists in no library. The moments and Δ are torch.optim.Adam's own: it steps a
    shadow that is zero before each step, at lr 1 and with ε_t as its eps, and leaves −Δ there. The norm, κ and the
    decay are float64 torch operations, written here."""
    o = case.optimizer
    kappa, cap, decay = o.get("kappa"), o.get("decay_cap"), o["weight_decay"]
    params = {n: p.to(F64) for n, p in params.items()}
    shadow = {n: torch.nn.Parameter(torch.zeros_like(p)) for n, p in params.items()}
    opt = torch.optim.Adam([{"params": [p], "name": n} for n, p in shadow.items()], lr=1.0, betas=(o["beta1"], o["beta2"]), foreach=False)
    count = dict.fromkeys(params, 0)
    rec = Recorder(f"composed: torch {version('torch')} torch.optim.Adam gives exp_avg, exp_avg_sq and Delta (lr 1, per-step eps, "
                   "zeroed parameter); kappa, decay and decay_cap are float64 torch operations written in record.py")
    for t in range(1, case.steps + 1):
        effective, norm, clip = unscale_and_clip(o, grads[t])
        eps = {}
        for group in opt.param_groups:
            n, p = group["name"], group["params"][0]
            p.grad = effective.get(n)
            p.data.zero_()
            if n in effective:
                count[n] += 1
                eps[n] = group["eps"] = o["eps0"] / (1 + o["eps_decay"] * count[n])
        opt.step()
        delta = {n: -shadow[n].detach() for n in effective}
        update_norm = torch.linalg.vector_norm(torch.cat([d.flatten() for d in delta.values()])).item()
        shrink = kappa / update_norm if kappa is not None and update_norm > kappa else 1.0
        lr = lr_at(o, t)
        for n in effective:
            d = (opt.state[shadow[n]]["exp_avg_sq"] / (1 - o["beta2"] ** count[n])).sqrt() + eps[n]
            coefficient = lr * decay / d
            if cap is not None:
                coefficient = coefficient.clamp(max=cap)
            params[n] = params[n] - lr * shrink * delta[n] - coefficient * params[n]
        rec.after_step(t, params, report(t, norm, clip, update_norm if kappa is not None else None))
    rec.finish("param", params)
    for kind in ["exp_avg", "exp_avg_sq"]:
        rec.finish(kind, {n: opt.state[p][kind] for n, p in shadow.items()})
    return rec


# ---------------------------------------------------------------- the cases


def adam(**changes):
    return dict(algorithm="adam", lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decay="l2", amsgrad=False,
                maximize=False, max_grad_norm=None, grad_scale=1.0) | changes


def adamw(**changes):
    return adam(**dict(weight_decay=0.01, decay="decoupled") | changes)


def fadam(**changes):
    return dict(algorithm="fadam", lr=1e-3, beta1=0.9, beta2=0.999, eps0=1e-8, eps_decay=0.0, kappa=None, decay_cap=None,
                weight_decay=0.0, max_grad_norm=None, grad_scale=1.0) | changes


def fisher(**changes):
    return dict(algorithm="fisher_adam", lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, eps2=0.01, rho=0.5, clip=1.0,
                weight_decay=0.1, max_grad_norm=None, grad_scale=1.0) | changes


SCHEDULE = [1e-3, 2e-3, 3e-3, 0.0, 2e-3, 5e-4]
# A parameter that starts late, one that pauses, and a step without any gradient.
MISSING = {("layers.0/attn.bias", 1), ("layers.0/attn.bias", 2), ("mix/w", 3), ("scale", 6)} | {(n, 5) for n in SMALL}
MISSING_T6 = {m for m in MISSING if m[1] != 5}  # the same without the empty step
NARROW = {"layers.0/attn.weight", "mix/w", "embed/table", "scale"}
NEVER, SOMETIMES, ALWAYS = "never", "sometimes", "always"

CASES = [
    # Adam and AdamW from torch
    Case("adam", torch_adam, adam(), FULL, 8),
    Case("adam_l2", torch_adam, adam(weight_decay=0.1), FULL),
    Case("adamw", torch_adam, adamw(), FULL, 8),
    Case("adamw_strong_decay", torch_adam, adamw(lr=1e-2, weight_decay=0.5)),
    Case("adam_amsgrad", torch_adam, adam(amsgrad=True, beta2=0.9)),
    Case("adamw_amsgrad", torch_adam, adamw(amsgrad=True, beta2=0.9)),
    Case("adam_maximize", torch_adam, adam(maximize=True)),
    Case("adam_maximize_l2", torch_adam, adam(maximize=True, weight_decay=0.1)),
    Case("adamw_maximize", torch_adam, adamw(maximize=True)),
    Case("adam_clip_fires", torch_adam, adam(max_grad_norm=0.5), covers=dict(grad_clip=ALWAYS)),
    Case("adam_clip_idle", torch_adam, adam(max_grad_norm=100.0), covers=dict(grad_clip=NEVER)),
    # norms near 1e-6, where the 1e-6 in the clip coefficient weighs
    Case("adam_clip_small_norm", torch_adam, adam(max_grad_norm=1e-6), magnitude=(1e-7, 1e-6), covers=dict(grad_clip=ALWAYS)),
    Case("adamw_clip_mixed", torch_adam, adamw(max_grad_norm=1.0), steps=6,
         magnitude_at={(n, t): 0.05 for n in SMALL for t in (2, 3, 5)}, covers=dict(grad_clip=SOMETIMES)),
    Case("adam_grad_scale", torch_adam, adam(grad_scale=1024.0), magnitude=(1.0, 1024.0)),
    Case("adam_l2_grad_scale_clip", torch_adam, adam(grad_scale=3.0, max_grad_norm=0.5, weight_decay=0.1), covers=dict(grad_clip=ALWAYS)),
    Case("adamw_lr_schedule", torch_adam, adamw(lr=SCHEDULE)),
    Case("adam_missing_grads", torch_adam, adam(), missing=MISSING),
    Case("adamw_missing_grads_clip", torch_adam, adamw(max_grad_norm=0.5, lr=SCHEDULE), missing=MISSING, covers=dict(grad_clip=SOMETIMES)),
    Case("adam_zero_grads", torch_adam, adam(), zeros=0.6, magnitude_at={("mix/w", t): 0.0 for t in range(1, 7)} | {("scale", 1): 0.0}),
    Case("adam_beta1_zero", torch_adam, adam(beta1=0.0)),
    Case("adam_beta2_zero", torch_adam, adam(beta2=0.0)),
    Case("adam_betas_zero", torch_adam, adam(beta1=0.0, beta2=0.0)),
    Case("adamw_betas_below_half", torch_adam, adamw(beta1=0.3, beta2=0.4)),
    Case("adam_beta1_below_half", torch_adam, adam(beta1=0.2)),
    Case("adam_eps_large", torch_adam, adam(eps=0.5)),
    Case("adam_eps_tiny", torch_adam, adam(eps=1e-20)),
    Case("adam_eps_zero", torch_adam, adam(eps=0.0), zeros=0.0),
    Case("adam_bf16_grads", torch_adam, adam(), bf16=True),
    Case("adamw_bf16_grads_clip", torch_adam, adamw(max_grad_norm=0.5), bf16=True, covers=dict(grad_clip=ALWAYS)),
    Case("adam_skip_non_finite", torch_adam, adam(grad_scale=8.0, non_finite="skip"), non_finite_at=(2, 4)),
    Case("adamw_long_tensor", torch_adam, adamw(max_grad_norm=5.0), BIG, 2, bf16=True, trajectory=False, covers=dict(grad_clip=ALWAYS)),
    Case("adamw_bf16_params", torch_adam, adamw(master="f32"), FULL, 8, bf16=True, narrow=NARROW),
    Case("adam_bf16_params_l2_amsgrad", torch_adam, adam(master="remainder", weight_decay=0.1, amsgrad=True, beta2=0.9), narrow=NARROW),
    Case("adamw_bf16_params_missing_clip", torch_adam, adamw(master="remainder", max_grad_norm=0.5, lr=SCHEDULE), bf16=True, narrow=set(SMALL),
         missing=MISSING, covers=dict(grad_clip=SOMETIMES)),
    # the same two from optax
    Case("optax_adam", optax_adam, adam(), FULL, 8),
    Case("optax_adam_l2", optax_adam, adam(weight_decay=0.1)),
    Case("optax_adamw", optax_adam, adamw(), FULL, 8),
    Case("optax_adamw_lr_schedule", optax_adam, adamw(lr=SCHEDULE)),
    Case("optax_adam_betas_below_half", optax_adam, adam(beta1=0.3, beta2=0.4)),
    Case("optax_adam_bf16_grads", optax_adam, adam(), bf16=True),
    Case("optax_adamw_bf16_params", optax_adam, adamw(master="remainder"), bf16=True, narrow=NARROW),
    # FAdam where it is Adam
    Case("fadam_is_adam", torch_adam, fadam(), FULL, 8),
    Case("fadam_is_adam_clip_missing", torch_adam, fadam(max_grad_norm=0.5, lr=SCHEDULE), missing=MISSING, covers=dict(grad_clip=SOMETIMES)),
    # FAdam, composed
    Case("fadam_eps_decay", composed_fadam, fadam(eps0=0.1, eps_decay=0.7), FULL),
    Case("fadam_kappa_fires", composed_fadam, fadam(kappa=1.0), covers=dict(kappa=ALWAYS)),
    Case("fadam_kappa_idle", composed_fadam, fadam(kappa=50.0), covers=dict(kappa=NEVER)),
    Case("fadam_kappa_mixed", composed_fadam, fadam(kappa=3.5), steps=8, covers=dict(kappa=SOMETIMES)),
    # no 1e-6 in this clip: a norm near 1e-6 would show it
    Case("fadam_kappa_small_norm", composed_fadam, fadam(lr=1e3, kappa=1e-6, eps0=1e4), magnitude=(1e-3, 0.1), covers=dict(kappa=ALWAYS)),
    Case("fadam_decay", composed_fadam, fadam(weight_decay=1e-3), FULL, zeros=0.0),
    Case("fadam_decay_eps", composed_fadam, fadam(weight_decay=0.01, eps0=1e-2, eps_decay=0.1)),
    Case("fadam_decay_cap", composed_fadam, fadam(weight_decay=0.1, decay_cap=0.05), FULL, covers=dict(decay_cap=SOMETIMES)),
    Case("fadam_decay_cap_idle", composed_fadam, fadam(weight_decay=1e-3, decay_cap=0.5), zeros=0.0, covers=dict(decay_cap=NEVER)),
    Case("fadam_all", composed_fadam, fadam(kappa=7.0, weight_decay=0.1, decay_cap=0.02, eps0=1e-3, eps_decay=0.5, max_grad_norm=0.5,
                                            grad_scale=4.0, lr=[2e-3, 1e-3, 0.0, 1e-3, 3e-3, 1e-3, 5e-4, 1e-3]), FULL, 8,
         covers=dict(kappa=SOMETIMES, decay_cap=SOMETIMES, grad_clip=ALWAYS)),
    Case("fadam_missing_grads", composed_fadam, fadam(kappa=3.0, weight_decay=1e-2, eps0=1e-2, eps_decay=0.5), missing=MISSING_T6,
         covers=dict(kappa=SOMETIMES)),
    Case("fadam_betas_below_half", composed_fadam, fadam(beta1=0.3, beta2=0.4, kappa=5.0, weight_decay=1e-3, eps0=1e-3), covers=dict(kappa=SOMETIMES)),
    Case("fadam_betas_zero", composed_fadam, fadam(beta1=0.0, beta2=0.0, kappa=3.0, weight_decay=1e-4, eps0=1e-3), covers=dict(kappa=ALWAYS)),
    Case("fadam_bf16_grads", composed_fadam, fadam(kappa=3.5, weight_decay=1e-3, eps0=1e-3), bf16=True, covers=dict(kappa=SOMETIMES)),
    Case("fadam_long_tensor", composed_fadam, fadam(kappa=20.0, weight_decay=1e-3, eps0=1e-4), BIG, 2, bf16=True, trajectory=False,
         covers=dict(kappa=ALWAYS)),
    Case("fadam_bf16_params", composed_fadam, fadam(master="remainder", kappa=3.5, weight_decay=1e-3, eps0=1e-3), bf16=True, narrow=NARROW,
         covers=dict(kappa=SOMETIMES)),
    # one sweep, with corrections
    Case("fadam_bf16_params_corrected", composed_fadam, fadam(master="f32", kappa=6.5), FULL, narrow=NARROW, covers=dict(kappa=SOMETIMES)),
    # FisherAdam from pytorch_optimizer
    Case("fisher_adam", pytorch_optimizer_fadam, fisher(), FULL, 8, covers=dict(eps_hat=NEVER)),
    Case("fisher_adam_no_decay", pytorch_optimizer_fadam, fisher(weight_decay=0.0)),
    Case("fisher_adam_clip_tight", pytorch_optimizer_fadam, fisher(clip=0.25), covers=dict(n_clip=SOMETIMES, w_clip=ALWAYS)),
    Case("fisher_adam_clip_idle", pytorch_optimizer_fadam, fisher(clip=1e4), zeros=0.0, covers=dict(n_clip=NEVER, w_clip=NEVER)),
    Case("fisher_adam_clip_mixed", pytorch_optimizer_fadam, fisher(clip=1.5), zeros=0.0, magnitude=(0.05, 1.0),
         magnitude_at={("layers.0/attn.bias", 4): 50.0, ("mix/w", 3): 50.0, ("mix/w", 4): 0.1}, covers=dict(n_clip=SOMETIMES, w_clip=SOMETIMES)),
    Case("fisher_adam_rho_quarter", pytorch_optimizer_fadam, fisher(rho=0.25)),
    Case("fisher_adam_rho_three_quarters", pytorch_optimizer_fadam, fisher(rho=0.75)),
    Case("fisher_adam_rho_one", pytorch_optimizer_fadam, fisher(rho=1.0)),
    # RMS(g) below 1e-6 = eps/eps2 for some tensors and steps, above it for others; then the same at values that weigh more
    Case("fisher_adam_eps_hat", pytorch_optimizer_fadam, fisher(), FULL, 8, magnitude=(1e-2, 1.0),
         magnitude_at={(n, t): 1e-6 for n in ("embed/table", "Head.b") for t in range(1, 9)} | {("layers.0/attn.bias", t): 1e-6 for t in (3, 4, 7)},
         covers=dict(eps_hat=SOMETIMES)),
    Case("fisher_adam_eps_hat_large", pytorch_optimizer_fadam, fisher(eps=0.1, eps2=0.5), magnitude_at={("mix/w", t): 0.1 for t in (1, 2, 4)},
         covers=dict(eps_hat=SOMETIMES)),
    Case("fisher_adam_eps_hat_rho", pytorch_optimizer_fadam, fisher(eps=0.1, eps2=0.5, rho=0.75), magnitude_at={("mix/w", t): 0.1 for t in (1, 2, 4)},
         covers=dict(eps_hat=SOMETIMES)),
    Case("fisher_adam_zero_grads", pytorch_optimizer_fadam, fisher(), zeros=0.5,
         magnitude_at={("mix/w", t): 0.0 for t in range(1, 7)} | {("scale", 1): 0.0, ("Head.b", 4): 0.0}),
    Case("fisher_adam_missing_grads", pytorch_optimizer_fadam, fisher(lr=SCHEDULE), missing=MISSING),
    Case("fisher_adam_betas_zero", pytorch_optimizer_fadam, fisher(beta1=0.0, beta2=0.0)),
    Case("fisher_adam_betas_below_half", pytorch_optimizer_fadam, fisher(beta1=0.3, beta2=0.4)),
    Case("fisher_adam_grad_clip", pytorch_optimizer_fadam, fisher(max_grad_norm=0.5, grad_scale=4.0, eps=1e-2, eps2=0.5),
         covers=dict(grad_clip=SOMETIMES, eps_hat=SOMETIMES)),
    Case("fisher_adam_bf16_grads", pytorch_optimizer_fadam, fisher(), bf16=True),
    Case("fisher_adam_bf16_params", pytorch_optimizer_fadam, fisher(master="remainder", lr=1e-2), bf16=True, narrow=NARROW),
    Case("fisher_adam_long_tensor", pytorch_optimizer_fadam, fisher(), BIG, 2, bf16=True, trajectory=False,
         covers=dict(n_clip=SOMETIMES, w_clip=ALWAYS)),
]


def record(case):
    params, grads = draw(case)
    # the libraries write into what they are given
    rec = case.run(case, {n: p.clone() for n, p in params.items()}, {t: {n: g.clone() for n, g in gs.items()} for t, gs in grads.items()})
    tensors = {f"param/{n}": p for n, p in params.items()}
    for name, x in (rec.final | (rec.trajectory if case.trajectory else {})).items():
        start, kind, n = re.fullmatch(r"(expect/(?:\d+/)?)(\w+)/(.*)", name).groups()
        tensors[f"{start}{'master' if kind == 'param' and n in case.narrow else kind}/{n}"] = x
    tensors |= {f"grad/{t}/{n}": g for t, gs in grads.items() for n, g in gs.items()}
    metadata = {"optimizer": json.dumps(case.optimizer), "source": rec.source, "expect_report": json.dumps(rec.reports),
                "covers": json.dumps(case.covers)}
    (HERE / f"{case.name}.safetensors").write_bytes(with_metadata(save(tensors), metadata))


def with_metadata(file, metadata):
    """The writer orders metadata at random; recording twice must give the same bytes."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps({"__metadata__": metadata} | json.loads(file[8:end]), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[end:]


def main():
    torch.set_num_threads(1)
    wanted = set(sys.argv[1:])
    unknown = wanted - {c.name for c in CASES}
    if unknown:
        sys.exit(f"no such case: {', '.join(sorted(unknown))}")
    for case in CASES:
        if not wanted or case.name in wanted:
            record(case)
            print(case.name, (HERE / f"{case.name}.safetensors").stat().st_size)


if __name__ == "__main__":
    main()
