"""What was expected of GPUs before any had run this code. A change here, once results are there, rewrites history: add a
row for a kernel that has changed, and leave the others."""

import re
from dataclasses import dataclass

from results import usual

KERNELS_OF = "2a0f0a6"  # the commit whose kernels the model was made of
TOLERANCE = 0.2  # of the model, by its own account; a prediction without a range of its own gets this one
GPT2 = 124_439_808  # parameters
FLAT = 1 << 28  # elements of one tensor

# The cards of the bandwidths below: not the PCIe and NVL cards of the same name, nor a part of a card.
CARDS = {name: rf"\b{name}\b(?!.*\b(PCIe|NVL|MIG)\b)" for name in ("A100", "H100", "H200", "B200")}
BANDWIDTH = {"A100": "1.75, a guess", "H100": "3.0", "H200": "4.3", "B200": "7.0, a guess"}  # TB/s

# The model: for each element the time to issue a kernel's instructions and the time to move its bytes, in picoseconds.
MODEL = {
    "norm_partial": {"A100": (0.21, 2.29), "H100": (0.14, 1.33), "H200": (0.14, 0.93), "B200": (0.09, 0.57)},
    "adam": {"A100": (3.2, 16), "H100": (2.1, 9.3), "H200": (2.1, 6.5), "B200": (1.8, 4.0)},
    "fadam": {"A100": (3.9, 16), "H100": (2.6, 9.3), "H200": (2.6, 6.5), "B200": (2.1, 4.0)},
    "fisher_adam_sums": {"A100": (3.1, 9.1), "H100": (2.1, 5.3), "H200": (2.1, 3.7), "B200": (1.7, 2.3)},
    "fisher_adam_apply": {"A100": (3.6, 13.7), "H100": (2.4, 8.0), "H200": (2.4, 5.6), "B200": (2.0, 3.4)},
    "adam, remainder": {"A100": (4.1, 14.9), "H100": (2.7, 8.7), "H200": (2.7, 6.1), "B200": (2.4, 3.7)},
    "adam, all bf16, nearest": {"A100": (5.1, 8.0), "H100": (3.4, 4.7), "H200": (3.4, 3.3), "B200": (2.9, 2.0)},
    "adam, all bf16, stochastic": {"A100": (7.4, 8.0), "H100": (4.8, 4.7), "H200": (4.8, 3.3), "B200": (4.1, 2.0)},
    "PyTorch's AdamW": {"A100": (2.3, 16), "H100": (1.5, 9.3), "H200": (1.5, 6.5), "B200": (1.4, 4.0)},
}


@dataclass(frozen=True)
class Range:
    least: float
    most: float | None  # none: at least

    def verdict(self, value):
        inside = self.least <= value and (self.most is None or value <= self.most)
        return "within" if inside else "outside"


def about(value):
    return Range(value * (1 - TOLERANCE), value * (1 + TOLERANCE))


def at_least(value):
    return Range(value * (1 - TOLERANCE), None)


# ---------------------------------------------------------------- which measurement answers
#
# Each takes a card and gives (stream or version, value in the prediction's unit), or None.

SOME = object()  # anything but none
F32 = dict(param="f32", grad="f32", moments="f32")
ALL_BF16 = dict(param="bf16", grad="bf16", moments="bf16", master="none")
REMAINDER = dict(param="bf16", grad="bf16", moments="f32", master="remainder")


def fits(value, wanted):
    return value is not None if wanted is SOME else value == wanted


def in_order(found):
    return sorted(found.items(), key=lambda item: str(item[0]))


def ours(shape, algorithm="adamw", clip=False, **wanted):
    wanted = dict(shape=shape, algorithm=algorithm, clip=clip, kappa=None) | wanted

    def find(card):
        for _, streams in in_order(card.ours()):
            stream, measured = usual(streams)
            if all(fits(measured.row[key], value) for key, value in wanted.items()):
                return stream, measured

    return find


def milliseconds(find):
    def answer(card):
        found = find(card)
        return found and (found[0], found[1].ms)

    return answer


def extra_milliseconds(find, without):
    def answer(card):
        more, less = find(card), without(card)
        if more and less and more[0] == less[0]:
            return more[0], more[1].ms - less[1].ms

    return answer


def kernel_milliseconds(find, kernel):
    def answer(card):
        found = find(card)
        if found and kernel in found[1].kernels:
            return found[0], found[1].kernels[kernel] * 1e-3

    return answer


def torch_milliseconds(shape):
    def answer(card):
        for (job, library, version, how), measured in in_order(card.theirs()):
            wanted = ("adamw", shape, "f32", "f32", "f32", False)
            if library == "torch" and how == "fused" and tuple(job) == wanted:
                return "default", measured.ms

    return answer


# ---------------------------------------------------------------- the predictions


@dataclass(frozen=True)
class Stated:
    """Of one card: a number that was written down as such, or follows from one."""

    card: str
    what: str
    expected: Range  # ms
    basis: str
    answer: object


@dataclass(frozen=True)
class Modelled:
    """Of each card: GPT-2's parameters × the sum over the step's kernels of the longer of issue and memory."""

    what: str
    kernels: tuple
    bound: object  # about, or at_least
    answer: object

    def picoseconds(self, card):
        return sum(max(MODEL[kernel][card]) for kernel in self.kernels)

    def expected(self, card):
        return self.bound(self.picoseconds(card) * GPT2 * 1e-9)


gpt2, flat = "gpt2", str(FLAT)
all_bf16 = {rounding: ours(gpt2, rounding=rounding, **ALL_BF16) for rounding in ("nearest", "stochastic")}
checked, plain = ours(flat, clip=True, **F32), ours(flat, **F32)
FOLD = 0.68e-3 * FLAT / 2**20  # ms: 0.68 µs for each 2^20 elements of one tensor, 1198 cycles for each row of 256 partials

STATED = [
    Stated("H100", "AdamW, GPT-2", Range(1.18, 1.25), "stated", milliseconds(ours(gpt2, **F32))),
    Stated(
        "H100",
        "AdamW, clipping and finite check, GPT-2",
        Range(1.38, 1.45),
        "stated",
        milliseconds(ours(gpt2, clip=True, **F32)),
    ),
    Stated(
        "H100",
        "AdamW, all bf16, rounding to nearest, GPT-2",
        about(1.0),
        "stated as 1.0: the loads of a row wait for one another, 8.0 ps an element",
        milliseconds(all_bf16["nearest"]),
    ),
    Stated(
        "H100",
        "the same, if all loads of a row are under way together",
        about(4.7 * GPT2 * 1e-9),
        "4.7 ps an element; of these kernels too if the model is wrong about the waiting",
        milliseconds(all_bf16["nearest"]),
    ),
    Stated(
        "H100",
        "AdamW, all bf16, stochastic rounding, GPT-2",
        Range(1.25, 1.5),
        "stated: 10.2 ps an element",
        milliseconds(all_bf16["stochastic"]),
    ),
    Stated(
        "H100",
        "the same, if all loads of a row are under way together",
        about(5.8 * GPT2 * 1e-9),
        "5.8 ps an element",
        milliseconds(all_bf16["stochastic"]),
    ),
    Stated(
        "H100",
        "what clipping and finite check add to AdamW, one tensor of 2^28",
        about(0.36 + 0.18),
        "stated as .36 + .18, the next two rows",
        extra_milliseconds(checked, plain),
    ),
    Stated(
        "H100", "`norm_partial` of it", about(0.36), "stated: 4 bytes an element", kernel_milliseconds(checked, "norm_partial")
    ),
    Stated(
        "H100",
        "`adam_finalize` of it",
        about(0.18),
        "stated: 1198 cycles for each row of 256 partials",
        kernel_milliseconds(checked, "adam_finalize"),
    ),
    Stated(
        "H100",
        "`adam_finalize`, if it loads sixteen rows ahead",
        about(FOLD * 378 / 1198),
        "378 cycles a row in place of 1198",
        kernel_milliseconds(checked, "adam_finalize"),
    ),
    Stated(
        "H100",
        "`adam_finalize`, if eight warps share a tensor, too",
        about(FOLD * 35 / 1198),
        "35 cycles a row in place of 1198; a launch of its own takes longer than that",
        kernel_milliseconds(checked, "adam_finalize"),
    ),
    Stated("H100", "AdamW, one million elements", Range(0.03, 0.04), "stated", milliseconds(ours("1000000", **F32))),
]

MODELLED = [
    Modelled("AdamW", ("adam",), about, milliseconds(ours(gpt2, **F32))),
    Modelled(
        "AdamW, clipping and finite check", ("norm_partial", "adam"), about, milliseconds(ours(gpt2, clip=True, **F32))
    ),
    Modelled("FAdam", ("fadam",), about, milliseconds(ours(gpt2, "fadam", **F32))),
    Modelled(
        "FAdam, κ finite but not acting, clipping and finite check",
        ("norm_partial", "fadam"),
        about,
        milliseconds(ours(gpt2, "fadam", clip=True, kappa=SOME, bytes_per_param=32, **F32)),
    ),
    Modelled(
        "Fisher Adam",
        ("norm_partial", "fisher_adam_sums", "fisher_adam_apply"),
        about,
        milliseconds(ours(gpt2, "fisher_adam", **F32)),
    ),
    Modelled("AdamW, bf16 with remainder", ("adam, remainder",), at_least, milliseconds(ours(gpt2, **REMAINDER))),
    Modelled(
        "AdamW, all bf16, rounding to nearest", ("adam, all bf16, nearest",), at_least, milliseconds(all_bf16["nearest"])
    ),
    Modelled(
        "AdamW, all bf16, stochastic rounding",
        ("adam, all bf16, stochastic",),
        at_least,
        milliseconds(all_bf16["stochastic"]),
    ),
    Modelled("PyTorch's AdamW, fused", ("PyTorch's AdamW",), about, torch_milliseconds(gpt2)),
]


def of_card(name, cards):
    """The cards of this name among those that were measured."""
    return [card for card in cards if re.search(CARDS[name], card.name, re.IGNORECASE)]
