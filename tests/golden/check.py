#!/usr/bin/env python3
"""Recomputes every `*.safetensors` beside this file in float64 numpy, from the file alone, and compares.

A transcription of the project's definition of the algorithms that shares no code with the libraries that recorded the
files, so a mistake on either side shows. Also checks that a file is a valid input of `replay` and that it covers what
its metadata `covers` claims. Needs numpy alone.

    python check.py [CASE ...]
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
# Relative to the largest value of a tensor. The worst-conditioned scalar is 1 - beta2 (FisherAdam's beta2 of step 2 is a
# difference of that size): float64's 1.1e-16 over 1 - 0.999 is 1.1e-13, and a few such errors meet in a trajectory.
TOLERANCE = 1e-12
KEYS = {
    "adam": {"eps", "decay", "amsgrad", "maximize"},
    "fadam": {"eps0", "eps_decay", "kappa", "decay_cap"},
    "fisher_adam": {"eps", "eps2", "rho", "clip"},
}
COMMON_KEYS = {"algorithm", "lr", "beta1", "beta2", "weight_decay", "max_grad_norm", "grad_scale", "non_finite",
               "master"}


def load(path):
    """The format by hand: numpy has no bf16, and this way the check depends on no safetensors library either."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    metadata = header.pop("__metadata__")
    tensors, dtypes = {}, {}
    for name, entry in header.items():
        a, b = entry["data_offsets"]
        data = raw[end + a : end + b]
        dtypes[name] = entry["dtype"]
        if entry["dtype"] == "BF16":
            x = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        else:
            x = np.frombuffer(data, {"F32": "<f4", "F64": "<f8"}[entry["dtype"]])
        tensors[name] = x.astype(np.float64).reshape(entry["shape"])
    return tensors, dtypes, metadata


class Events:
    """How often something that a case is there to show happened, out of how often it could."""

    def __init__(self):
        self.seen = {}

    def count(self, what, happened):
        hits, of = self.seen.get(what, (0, 0))
        happened = np.asarray(happened)
        self.seen[what] = (hits + int(happened.sum()), of + happened.size)

    def share(self, what):
        hits, of = self.seen.get(what, (0, 0))
        return "never" if hits == 0 else "always" if hits == of else "sometimes"


def rms(x):
    return np.sqrt(np.mean(x * x)) if x.size else 0.0


def quotient(a, d):
    return np.divide(a, d, out=np.zeros_like(a), where=d != 0)


class Adam:
    def __init__(self, o, params):
        self.o, self.params, self.t = o, params, dict.fromkeys(params, 0)
        self.m = {n: np.zeros_like(p) for n, p in params.items()}
        self.v = {n: np.zeros_like(p) for n, p in params.items()}
        self.v_max = {n: np.zeros_like(p) for n, p in params.items()} if o.get("amsgrad") else {}

    def moments(self, n, g):
        b1, b2 = self.o["beta1"], self.o["beta2"]
        self.t[n] += 1
        self.m[n] = b1 * self.m[n] + (1 - b1) * g
        self.v[n] = b2 * self.v[n] + (1 - b2) * g * g
        return 1 - b1 ** self.t[n], 1 - b2 ** self.t[n]

    def step(self, grads, lr, events):
        o = self.o
        for n, g in grads.items():
            theta = self.params[n]
            g = -g if o["maximize"] else g
            if o["decay"] == "l2":
                g = g + o["weight_decay"] * theta
            c1, c2 = self.moments(n, g)
            v = self.v[n]
            if o["amsgrad"]:
                v = self.v_max[n] = np.maximum(self.v_max[n], v)
            if o["decay"] == "decoupled":
                theta = theta - lr * o["weight_decay"] * theta
            self.params[n] = theta - lr * quotient(self.m[n] / c1, np.sqrt(v / c2) + o["eps"])


class FAdam(Adam):
    def step(self, grads, lr, events):
        o, delta, d = self.o, {}, {}
        for n, g in grads.items():
            c1, c2 = self.moments(n, g)
            d[n] = np.sqrt(self.v[n] / c2) + o["eps0"] / (1 + o["eps_decay"] * self.t[n])
            delta[n] = quotient(self.m[n] / c1, d[n])
        norm = np.sqrt(sum(np.sum(x * x) for x in delta.values()))
        kappa, scale = o["kappa"], 1.0
        if kappa is not None:
            events.count("kappa", norm > kappa)
            scale = kappa / norm if norm > kappa else 1.0
        for n in grads:
            factor = quotient(np.full_like(d[n], lr * o["weight_decay"]), d[n])
            if o["decay_cap"] is not None:
                events.count("decay_cap", factor > o["decay_cap"])
                factor = np.minimum(factor, o["decay_cap"])
            self.params[n] = self.params[n] - lr * scale * delta[n] - factor * self.params[n]
        return norm if kappa is not None else None


class FisherAdam(Adam):
    def clipped(self, x, what, events):
        over = rms(x) / self.o["clip"]
        events.count(what, over > 1)
        return x / max(1.0, over)

    def step(self, grads, lr, events):
        o = self.o
        for n, g in grads.items():
            self.t[n] += 1
            b2 = o["beta2"] * (1 - o["beta2"] ** (self.t[n] - 1)) / (1 - o["beta2"] ** self.t[n])
            f = self.v[n] = b2 * self.v[n] + (1 - b2) * g * g
            r = rms(g)
            eps = min(o["eps"], o["eps2"] * r) if r > 0 else o["eps"]
            events.count("eps_hat", eps < o["eps"])
            d = f ** o["rho"] + eps ** (2 * o["rho"])
            natural = self.clipped(quotient(g, d), "n_clip", events)
            self.m[n] = o["beta1"] * self.m[n] + (1 - o["beta1"]) * natural
            decay = self.clipped(quotient(self.params[n], d), "w_clip", events)
            self.params[n] = self.params[n] - lr * (self.m[n] + o["weight_decay"] * decay)


def replay(o, params, grads, events):
    """Yields, after each step, the optimizer and what the step reports."""
    optimizer = {"adam": Adam, "fadam": FAdam, "fisher_adam": FisherAdam}[o["algorithm"]](o, params)
    for t in range(1, max(grads) + 1):
        g = {n: x / o["grad_scale"] for n, x in grads.get(t, {}).items()}
        lr = o["lr"][t - 1] if isinstance(o["lr"], list) else o["lr"]
        report = {"step": t, "grad_norm": None, "clip_coefficient": None, "update_norm": None, "skipped": True}
        if all(np.isfinite(x).all() for x in g.values()):
            norm = np.sqrt(sum(np.sum(x * x) for x in g.values())) if g else 0.0
            c = 1.0 if o["max_grad_norm"] is None else min(1.0, o["max_grad_norm"] / (norm + 1e-6))
            events.count("grad_clip", c < 1)
            update_norm = optimizer.step({n: c * x for n, x in g.items()}, lr, events)
            report |= {"grad_norm": norm, "clip_coefficient": c, "update_norm": update_norm, "skipped": False}
        yield t, optimizer, report


def check(path):
    """The largest deviation, relative to the largest value of its tensor; raises on anything worse."""
    tensors, dtypes, metadata = load(path)
    o = json.loads(metadata["optimizer"])
    assert set(o) <= COMMON_KEYS | KEYS[o["algorithm"]], "an unknown key"
    assert o.get("master", "remainder") != "none", "nothing would be exact"
    params, grads, expect, narrow = {}, {}, {}, set()
    for name, x in tensors.items():
        kind, rest = name.split("/", 1)
        if kind == "param":
            assert dtypes[name] in ("F32", "BF16")
            params[rest] = x
            narrow |= {rest} if dtypes[name] == "BF16" else set()
        elif kind == "grad":
            assert dtypes[name] in ("F32", "BF16")
            t, n = rest.split("/", 1)
            grads.setdefault(int(t), {})[n] = x
        else:
            assert kind == "expect" and dtypes[name] == "F64", name
            expect[rest] = x
    assert min(grads) >= 1 and all(x.shape == params[n].shape for g in grads.values() for n, x in g.items())
    assert not isinstance(o["lr"], list) or len(o["lr"]) == max(grads)

    worst = 0.0

    def compare(what, got, want):
        nonlocal worst
        got, want = np.asarray(got), np.asarray(want)
        assert got.shape == want.shape, what
        error = np.max(np.abs(got - want)) / max(np.max(np.abs(want)), np.finfo(np.float64).tiny)
        assert error <= TOLERANCE, f"{what}: off by {error:.2e}"
        worst = max(worst, error)
        return what

    def answer(kind, n):
        """Of a bf16 parameter the master is recorded: its rounding is not the libraries' business."""
        return f"{kind.replace('param', 'master') if n in narrow else kind}/{n}"

    events, seen, reports = Events(), set(), json.loads(metadata["expect_report"])
    assert len(reports) == max(grads)
    for t, optimizer, report in replay(o, params, grads, events):
        for key, got in report.items():
            want = reports[t - 1][key]
            if isinstance(got, float) and isinstance(want, float):
                compare(f"report {t} {key}", got, want)
            else:
                assert got == want, f"report {t} {key}: {got} instead of {want}"
        if any(name.startswith(f"{t}/") for name in expect):
            seen |= {compare(answer(f"{t}/param", n), p, expect[answer(f"{t}/param", n)]) for n, p in optimizer.params.items()}
    final = {"param": optimizer.params, "exp_avg": optimizer.m, "exp_avg_sq": optimizer.v, "max_exp_avg_sq": optimizer.v_max}
    for kind, state in final.items():
        seen |= {compare(answer(kind, n), x, expect[answer(kind, n)]) for n, x in state.items()}
    assert seen == set(expect), f"not compared: {set(expect) - seen}"
    for what, claim in json.loads(metadata["covers"]).items():
        assert events.share(what) == claim, f"{what} happens {events.share(what)} {events.seen.get(what)}, not {claim}"
    return worst, events.seen


def main():
    paths = [HERE / f"{c}.safetensors" for c in sys.argv[1:]] or sorted(HERE.glob("*.safetensors"))
    failed = 0
    for path in paths:
        try:
            worst, seen = check(path)
            shown = ", ".join(f"{what} {hits}/{of}" for what, (hits, of) in seen.items() if hits)
            print(f"ok    {path.stem:34} {worst:.1e}  {shown}")
        except AssertionError as error:
            failed += 1
            print(f"WRONG {path.stem:34} {error}")
    print(f"{len(paths) - failed} passed, {failed} failed")
    sys.exit(bool(failed) or not paths)


if __name__ == "__main__":
    main()
