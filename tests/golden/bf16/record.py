#!/usr/bin/env python3
"""Records what bf16 parameters and moments become, to the bit, as `<case>.safetensors` beside this file.

A transcription of the numerics into numpy float32, operation by operation: the steps of the three algorithms, sums over
chunks and lanes, rounding to nearest and by chance, Philox4x32-10. It shares nothing with the library but the definition,
and every element of an answer is one bit pattern. Needs numpy alone; recorded with numpy 2.4.6 on CPython 3.11.

    python record.py            all cases anew, to the same bytes
    python record.py --check    recomputes every file from its inputs, and compares
"""

import json
import math
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
F32, F64, U16, U32, U64 = np.float32, np.float64, np.uint16, np.uint32, np.uint64
np.seterr(all="ignore")

# ---------------------------------------------------------------- arithmetic


def fma(a, b, c):
    """a · b + c, rounded once to f32. The product of two f32 is exact in f64; the sum is rounded to odd there, which a
    second rounding to 24 bits does not notice."""
    product, c = F64(a) * F64(b), F64(c)
    total = product + c
    back = total - product
    lost = (product - (total - back)) + (c - back)
    even = np.asarray(total).view(U64) & U64(1) == 0
    odd = np.where((lost != 0) & even & np.isfinite(total), np.nextafter(total, np.copysign(np.inf, lost)), total)
    return odd.astype(F32)


def quotient(a, d):
    return np.where(d == 0, F32(0), np.divide(a, d)).astype(F32)


def bits(x):
    return np.asarray(x, F32).view(U32)


def widened(high):
    """The f32 whose high half this is."""
    return (high.astype(U32) << U32(16)).view(F32)


def philox(seed, count, step, stream):
    """Philox4x32-10 (Salmon et al. 2011): for blocks 0..count the four words of the counter (block, step, stream)."""
    mask, shift = U64(0xFFFFFFFF), U64(32)
    block = np.arange(count, dtype=U64) if np.isscalar(count) else count
    c = [block & mask, block >> shift, np.full_like(block, step & 0xFFFFFFFF), np.full_like(block, stream)]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = U64(0xD2511F53) * c[0], U64(0xCD9E8D57) * c[2]
        c = [(b >> shift) ^ c[1] ^ U64(key[0]), b & mask, (a >> shift) ^ c[3] ^ U64(key[1]), a & mask]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, axis=-1)


def known_answers():
    """Of the authors' Random123: kat_vectors."""
    ones = 0xFFFFFFFF
    cases = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ones,) * 4, (ones,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
         (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ]
    for c, key, want in cases:
        got = philox(key[0] | key[1] << 32, np.array([c[0] | c[1] << 32], U64), c[2], c[3])
        assert tuple(got[0]) == want, (c, got)


PARAMETER, EXP_AVG, EXP_AVG_SQ = 0, 1, 2


@dataclass
class Rounding:
    """How the values of one parameter are rounded to bf16 in one step of it; results are f32 that bf16 holds."""

    stochastic: bool
    seed: int
    step: int
    index: int

    def __call__(self, x, purpose):
        assert np.isfinite(x).all()
        old = bits(x)
        if not self.stochastic:
            return widened((old + U32(0x7FFF) + (old >> U32(16) & U32(1))) >> U32(16))
        words = philox(self.seed, -(-x.size // 8), self.step, self.index << 2 | purpose)
        halves = np.stack([words & U64(0xFFFF), words >> U64(16)], axis=-1)  # two elements a word, the low half first
        return widened((old + halves.reshape(-1)[: x.size].astype(U32)) >> U32(16))


def sum_of_squares(x):
    """Σx² of one tensor: lanes in f32, then their tree; chunks in f64."""
    partials = []
    for start in range(0, x.size, 4096):
        rows = np.zeros((32, 128), F32)
        chunk = x[start : start + 4096]
        rows.reshape(-1)[: chunk.size] = chunk
        lanes = np.zeros(128, F32)
        for row in rows:
            lanes = fma(row, row, lanes)
        while lanes.size > 1:
            lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
        partials.append(F64(lanes[0]))
    lanes = np.zeros(256, F64)
    for i, partial in enumerate(partials):
        lanes[i % 256] += partial
    while lanes.size > 1:
        lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
    return float(lanes[0])


# ---------------------------------------------------------------- what is kept of a parameter


class Parameter:
    def __init__(self, optimizer, index, value, narrow):
        self.o, self.index, self.narrow = optimizer, index, narrow
        self.value = value.copy()  # as f32: exact also where it is bf16
        self.theta = value.copy()  # the f32 that a master keeps
        self.exp_avg, self.exp_avg_sq, self.largest = (np.zeros_like(value) for _ in range(3))
        self.step, self.power1, self.power2, self.before2 = 0, 1.0, 1.0, 1.0

    def advance(self):
        self.step += 1
        self.before2 = self.power2
        self.power1 *= self.o["beta1"]
        self.power2 *= self.o["beta2"]
        self.round = Rounding(self.o.get("rounding", "stochastic") == "stochastic", self.o.get("seed", 0), self.step, self.index)

    def moment(self, x, purpose):
        return self.round(x, purpose) if self.o.get("moments") == "bf16" else x

    def store(self, theta):
        master = self.o.get("master", "remainder")
        self.theta = theta
        if not self.narrow:
            self.value = theta
        elif master == "f32":
            self.value = Rounding(False, 0, 0, 0)(theta, PARAMETER)
        elif master == "remainder":
            self.value = widened((bits(theta) + U32(0x8000)) >> U32(16))  # nearest, ties away from zero
        else:
            self.value = self.theta = self.round(theta, PARAMETER)


def exp_avg(old, new, beta):
    if beta < 0.5:
        return fma(F32(beta), old - new, new)
    return fma(F32(1.0 - beta), new - old, old)


def exp_avg_sq(old, g, beta, new_form):
    if new_form:
        square = g * g
        return fma(F32(beta), old - square, square)
    return fma(F32(1.0 - beta), fma(g, g, -old), old)


def moments(p, g):
    b1, b2 = p.o["beta1"], p.o["beta2"]
    p.exp_avg = p.moment(exp_avg(p.exp_avg, g, b1), EXP_AVG)
    p.exp_avg_sq = p.moment(exp_avg_sq(p.exp_avg_sq, g, b2, b2 < 0.5), EXP_AVG_SQ)


def denominator(p, second, eps):
    return fma(np.sqrt(second), F32(1.0 / math.sqrt(1.0 - p.power2)), F32(eps))


def direction(p, d):
    return quotient(p.exp_avg * F32(1.0 / (1.0 - p.power1)), d)


# ---------------------------------------------------------------- the algorithms


def adam(o, lr, taking, scale, *_):
    decay, decoupled = F32(o["weight_decay"]), o["decay"] == "decoupled"
    for p, grad in taking:
        g = grad * F32(-scale if o["maximize"] else scale)
        if decay and not decoupled:
            g = fma(decay, p.theta, g)
        moments(p, g)
        second = p.exp_avg_sq
        if o["amsgrad"]:
            second = p.largest = np.maximum(p.largest, second)
        r = direction(p, denominator(p, second, o["eps"]))
        if decay and decoupled:
            r = fma(decay, p.theta, r)
        p.store(fma(F32(-lr), r, p.theta))


def fadam(o, lr, taking, scale, *_):
    kappa, decay = o["kappa"], F32(o["weight_decay"])
    divisors, total = [], 0.0
    for p, grad in taking:
        moments(p, grad * F32(scale))
        d = denominator(p, p.exp_avg_sq, o["eps0"] / (1.0 + o["eps_decay"] * p.step))
        divisors.append(d)
        total += sum_of_squares(direction(p, d))
    norm = math.sqrt(total)
    clip = kappa / norm if kappa is not None and norm > kappa else 1.0
    for (p, _), d in zip(taking, divisors):
        r = F32(clip) * direction(p, d)
        if decay:
            q = quotient(decay, d)
            if o["decay_cap"] is not None:
                q = np.minimum(q, F32(o["decay_cap"] / lr))
            r = fma(q, p.theta, r)
        p.store(fma(F32(-lr), r, p.theta))
    return norm if kappa is not None else None


def fisher_adam(o, lr, taking, scale, sums, clip):
    assert o["rho"] == 0.5
    decay = o["weight_decay"]

    def shrink(x):
        excess = math.sqrt(sum_of_squares(x) / x.size) / o["clip"]
        return 1.0 / excess if excess > 1.0 else 1.0

    for (p, grad), total in zip(taking, sums):
        g = grad * F32(scale)
        rms = math.sqrt(total / g.size) * clip
        eps = o["eps2"] * rms if rms != 0.0 and o["eps2"] * rms < o["eps"] else o["eps"]
        beta = o["beta2"] * (1.0 - p.before2) / (1.0 - p.power2)
        p.exp_avg_sq = p.moment(exp_avg_sq(p.exp_avg_sq, g, beta, o["beta2"] < 0.5), EXP_AVG_SQ)
        d = np.sqrt(p.exp_avg_sq) + F32(eps)
        n = quotient(g, d)
        n = n * F32(shrink(n))
        p.exp_avg = p.moment(exp_avg(p.exp_avg, n, o["beta1"]), EXP_AVG)
        r = p.exp_avg
        if decay:
            w = quotient(p.theta, d)
            r = fma(F32(decay * shrink(w)), w, r)
        p.store(fma(F32(-lr), r, p.theta))


def replay(o, tensors):
    """The parameters after the last step, and the report, as `replay` answers."""
    names = sorted((n[6:] for n in tensors if n.startswith("param/")), key=str.encode)
    params = {n: Parameter(o, i, *flat(tensors[f"param/{n}"])) for i, n in enumerate(names)}
    grads = {}
    for name, tensor in tensors.items():
        if name.startswith("grad/"):
            _, t, n = name.split("/", 2)
            grads.setdefault(int(t), {})[n] = flat(tensor)[0]
    algorithm = {"adam": adam, "fadam": fadam, "fisher_adam": fisher_adam}[o["algorithm"]]
    report = []
    for t in range(1, max(grads) + 1):
        taking = [(params[n], grads[t][n]) for n in names if n in grads.get(t, {})]
        sums = [sum_of_squares(g * F32(1.0 / o["grad_scale"])) for _, g in taking]
        line = {"step": t, "grad_norm": None, "clip_coefficient": None, "update_norm": None, "skipped": True}
        if all(map(math.isfinite, sums)):
            total = 0.0
            for x in sums:
                total += x
            norm, clip = math.sqrt(total), 1.0
            if o["max_grad_norm"] is not None:
                clip = min(1.0, o["max_grad_norm"] / (norm + 1e-6))
            for p, _ in taking:
                p.advance()
            lr = o["lr"][t - 1] if isinstance(o["lr"], list) else o["lr"]
            update_norm = algorithm(o, lr, taking, clip / o["grad_scale"], sums, clip)
            line |= {"grad_norm": norm, "clip_coefficient": clip, "update_norm": update_norm, "skipped": False}
        report.append(line)
    return params, report


# ---------------------------------------------------------------- files

DTYPES = {"F32": "<u4", "BF16": "<u2"}


def flat(tensor):
    """Elements as f32, and whether they are bf16."""
    dtype, _, words = tensor
    return (widened(words), True) if dtype == "BF16" else (words.astype(U32).view(F32), False)


def tensor(x, shape, narrow):
    x = np.asarray(x, F32).reshape(-1)
    if not narrow:
        return "F32", list(shape), bits(x)
    assert not (bits(x) & U32(0xFFFF)).any(), "no bf16 value"
    return "BF16", list(shape), (bits(x) >> U32(16)).astype(U16)


def file_of(inputs, o):
    params, report = replay(o, inputs)
    tensors = dict(inputs)
    narrow_moments = o.get("moments") == "bf16"
    for n, p in params.items():
        shape = inputs[f"param/{n}"][1]
        tensors[f"expect/param/{n}"] = tensor(p.value, shape, p.narrow)
        tensors[f"expect/exp_avg/{n}"] = tensor(p.exp_avg, shape, narrow_moments)
        tensors[f"expect/exp_avg_sq/{n}"] = tensor(p.exp_avg_sq, shape, narrow_moments)
        if o.get("amsgrad"):
            tensors[f"expect/max_exp_avg_sq/{n}"] = tensor(p.largest, shape, narrow_moments)
        if p.narrow and o.get("master", "remainder") != "none":
            tensors[f"expect/master/{n}"] = tensor(p.theta, shape, False)
    metadata = {"optimizer": json.dumps(o), "expect_report": json.dumps(report), "source": "numpy float32, record.py"}
    header, data = {"__metadata__": metadata}, b""
    for name in sorted(tensors, key=str.encode):
        dtype, shape, words = tensors[name]
        raw = words.astype(DTYPES[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    header = json.dumps(header, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data


def inputs_of(file):
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end])
    o = json.loads(header.pop("__metadata__")["optimizer"])
    inputs = {}
    for name, entry in header.items():
        if not name.startswith("expect/"):
            a, b = entry["data_offsets"]
            inputs[name] = entry["dtype"], entry["shape"], np.frombuffer(file[end + a : end + b], DTYPES[entry["dtype"]])
    return inputs, o


# ---------------------------------------------------------------- the cases


# As in ../record.py; more than one draw of 8 elements, and tails of one. Names sort otherwise than they stand here.
SHAPES = {"layers.0/attn.weight": (3, 5), "layers.0/attn.bias": (7,), "mix/w": (33,), "scale": (), "Head.b": (1,)}
WIDE = {"layers.0/attn.bias", "Head.b"}  # F32 parameters among the BF16 ones
LONG = {"block.0/w": (4100,), "block.0/b": (7,)}  # more than a chunk of 4096 elements


@dataclass
class Case:
    name: str
    optimizer: dict
    shapes: dict = field(default_factory=lambda: SHAPES)
    wide: set = field(default_factory=lambda: WIDE)
    steps: int = 6
    wide_grads: bool = False
    magnitude: tuple = (1e-3, 1.0)
    missing: set = field(default_factory=set)
    non_finite_at: tuple = ()


def draw(case):
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    inputs = {}
    nearest = Rounding(False, 0, 0, 0)
    for n, shape in case.shapes.items():
        x = F32(0.5 * rng.standard_normal(math.prod(shape)))
        inputs[f"param/{n}"] = tensor(x if n in case.wide else nearest(x, PARAMETER), shape, n not in case.wide)
    low, high = np.log(case.magnitude)
    for t in range(1, case.steps + 1):
        for n, shape in case.shapes.items():
            size = math.prod(shape)
            g = F32(np.exp(rng.uniform(low, high, size)) * rng.choice([-1.0, 1.0], size) * (rng.uniform(size=size) >= 0.06))
            if not case.wide_grads:
                g = nearest(g, PARAMETER)
            if t in case.non_finite_at and n == "mix/w":
                g[t] = np.inf
            if (n, t) not in case.missing:
                inputs[f"grad/{t}/{n}"] = tensor(g, shape, not case.wide_grads)
    return inputs


def adam_keys(**changes):
    return dict(algorithm="adam", lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decay="l2", amsgrad=False,
                maximize=False, max_grad_norm=None, grad_scale=1.0) | changes


def adamw_keys(**changes):
    return adam_keys(**dict(weight_decay=0.01, decay="decoupled") | changes)


def fadam_keys(**changes):
    return dict(algorithm="fadam", lr=1e-3, beta1=0.9, beta2=0.999, eps0=1e-8, eps_decay=0.0, kappa=None, decay_cap=None,
                weight_decay=0.0, max_grad_norm=None, grad_scale=1.0) | changes


def fisher_keys(**changes):
    return dict(algorithm="fisher_adam", lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, eps2=0.01, rho=0.5, clip=1.0,
                weight_decay=0.1, max_grad_norm=None, grad_scale=1.0) | changes


SCHEDULE = [1e-3, 2e-3, 3e-3, 0.0, 2e-3, 5e-4]
# Starts late, pauses, never steps: step counts of one parameter that are not those of the file.
MISSING = {("layers.0/attn.weight", 1), ("layers.0/attn.weight", 2), ("mix/w", 3)} | {("scale", t) for t in range(1, 7)}
SEED = 0x0123456789ABCDEF  # no f64 holds it

CASES = [
    # the parameter alone is rounded
    Case("adamw_none_nearest", adamw_keys(master="none", rounding="nearest")),
    Case("adamw_none", adamw_keys(master="none", seed=SEED)),
    Case("adamw_none_missing", adamw_keys(master="none", rounding="stochastic", seed=SEED, lr=SCHEDULE), missing=MISSING, wide_grads=True,
         non_finite_at=(4,)),
    Case("fadam_none_nearest", fadam_keys(master="none", rounding="nearest", kappa=5.0, weight_decay=1e-3, eps0=1e-3)),
    Case("fisher_adam_none", fisher_keys(master="none")),
    # the moments alone
    Case("adam_moments_nearest", adam_keys(moments="bf16", rounding="nearest", master="f32", weight_decay=0.1, amsgrad=True,
                                           maximize=True, beta2=0.9)),
    Case("adamw_moments", adamw_keys(moments="bf16", seed=2**64 - 1, amsgrad=True, beta2=0.9), wide_grads=True),
    Case("adamw_moments_missing", adamw_keys(moments="bf16", master="f32", seed=7), missing=MISSING, non_finite_at=(4,)),
    Case("adam_moments_of_f32", adam_keys(moments="bf16", beta1=0.3, beta2=0.4), wide=set(SHAPES)),
    Case("adam_moments_subnormal", adam_keys(moments="bf16", beta2=0.9), magnitude=(1e-22, 1e-19)),
    Case("fadam_moments", fadam_keys(moments="bf16", kappa=50.0, weight_decay=1e-3, eps0=1e-3)),  # with f32 moments, one sweep
    Case("fisher_adam_moments_nearest", fisher_keys(moments="bf16", rounding="nearest", max_grad_norm=0.5, grad_scale=4.0, eps=1e-2,
                                                    eps2=0.5)),
    # both
    Case("adamw_narrow", adamw_keys(master="none", moments="bf16", seed=SEED, max_grad_norm=0.5, grad_scale=3.0)),
    Case("adamw_narrow_nearest", adamw_keys(master="none", moments="bf16", rounding="nearest", beta1=0.3, beta2=0.4)),
    Case("fadam_narrow", fadam_keys(master="none", moments="bf16", kappa=7.0, weight_decay=0.1, decay_cap=0.02, eps0=1e-3, eps_decay=0.5)),
    Case("fisher_adam_narrow", fisher_keys(master="none", moments="bf16", clip=0.25, seed=SEED), missing=MISSING),
    Case("adamw_narrow_long", adamw_keys(master="none", moments="bf16", seed=1), LONG, set(), steps=1),
]


def main():
    known_answers()
    wrong = 0
    for case in CASES:
        path = HERE / f"{case.name}.safetensors"
        if sys.argv[1:] == ["--check"]:
            recorded = path.read_bytes()
            same = file_of(*inputs_of(recorded)) == recorded
            print("ok   " if same else "WRONG", case.name)
            wrong += not same
        else:
            path.write_bytes(file_of(draw(case), case.optimizer))
            print(case.name, path.stat().st_size)
    files = len(list(HERE.glob("*.safetensors")))
    sys.exit(bool(wrong) or files != len(CASES))


if __name__ == "__main__":
    main()
