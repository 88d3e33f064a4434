"""The figure: share of the memory's bandwidth, a panel for each shape, a bar for each library and job."""

from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Of Okabe and Ito's palette, whose colours the colour-blind tell apart.
OURS, OURS_TEXT, THEIRS, INK, GREY = "#0072B2", "#005A8E", "#BBBBBB", "#222222", "#555555"


@dataclass(frozen=True)
class Library:
    packages: tuple
    ours: bool = False


LIBRARIES = {
    "fadam": Library(("fadam",), ours=True),
    "fadam_candle": Library(("fadam", "candle-nn"), ours=True),
    "torch_fused": Library(("torch",)),
    "torch": Library(("torch",)),
    "optax": Library(("optax", "jax")),
    "candle": Library(("candle-nn",)),
    "pytorch_optimizer": Library(("pytorch_optimizer", "torch")),
}
# From top to bottom: a heading, or (label, job, library).
LINES = [
    "AdamW",
    ("fadam", "adamw", "fadam"),
    ("fadam, in candle", "adamw", "fadam_candle"),
    ("PyTorch, fused=True", "adamw", "torch_fused"),
    ("PyTorch, default", "adamw", "torch"),
    ("optax, jit", "adamw", "optax"),
    ("candle-nn", "adamw", "candle"),
    "AdamW, clipped gradients",
    ("fadam, and a finite check", "clip", "fadam"),
    ("PyTorch, fused=True", "clip", "torch_fused"),
    ("optax, jit", "clip", "optax"),
    "FAdam, κ finite",
    ("fadam", "fadam", "fadam"),
    "Fisher Adam",
    ("fadam", "fisher_adam", "fadam"),
    ("pytorch_optimizer", "fisher_adam", "pytorch_optimizer"),
]
SHAPES = {
    "1048576": ("2²⁰ parameters", "in cache"),
    "16777216": ("2²⁴ parameters", "in memory"),
    "gpt2": ("GPT-2: 124M in 148 tensors", "in memory"),
}


def draw(rows, path):
    found = {(row["job"], row["library"], row["shape"]): row for row in rows}
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 8.5, "text.color": INK, "axes.edgecolor": "#999999"})
    fig, panels = plt.subplots(1, len(SHAPES), figsize=(8, 5.5), sharex=True, sharey=True)
    for panel, (shape, (title, place)) in zip(panels, SHAPES.items()):
        bars(panel, shape, found)
        panel.text(0, 1.05, title, transform=panel.transAxes, fontweight="bold")
        panel.text(0, 1.01, place, transform=panel.transAxes, color=GREY)
    labels(panels[0])
    fig.suptitle(finding(found), x=0.012, y=0.985, ha="left", fontsize=11.5, fontweight="bold", linespacing=1.25)
    row = rows[0]
    fig.text(0.012, 0.9, subtitle(row), fontsize=8, color=GREY, va="top")
    fig.supxlabel("share of the bandwidth that the same reads and writes reach without arithmetic, %", fontsize=8.5, x=0.625, y=0.012)
    fig.subplots_adjust(left=0.265, right=0.985, top=0.79, bottom=0.09, wspace=0.06)
    # Metadata would name matplotlib's version.
    fig.savefig(path, dpi=200, facecolor="white", metadata={"Software": None})
    print(f"wrote {path}")


def finding(found):
    """What the measurement says, in its own numbers."""
    share = lambda job, library, shape: found[job, library, shape]["share"]["median"]
    in_memory = [row["share"]["median"] for row in found.values() if row["library"] == "fadam" and row["shape"] != "1048576"]
    clip = [found["clip", "torch_fused", s]["ms"]["median"] / found["clip", "fadam", s]["ms"]["median"] for s in SHAPES]
    return (
        f"An optimizer step at {100 * min(in_memory):.0f}–{100 * max(in_memory):.0f} % of the memory's bandwidth;\n"
        f"with clipping, {min(clip):.1f}–{max(clip):.1f} times as fast as PyTorch's fused AdamW"
    )


def subtitle(row):
    place = f"CPU, f32, {row['threads']} threads on {row['cpu'].split(',')[0]}"
    return f"{place}; median of {row['rounds']} rounds, whiskers from the least to the greatest"


def bars(panel, shape, found):
    panel.axvline(100, color=GREY, linewidth=0.9, zorder=0.8)
    for y, line in enumerate(LINES):
        if isinstance(line, str):
            continue
        _, job, library = line
        ours = LIBRARIES[library].ours
        share = {name: 100 * value for name, value in found[job, library, shape]["share"].items()}
        panel.barh(y, share["median"], height=0.74, color=OURS if ours else THEIRS)
        panel.plot([share["min"], share["max"]], [y, y], color=INK, linewidth=0.9, solid_capstyle="butt")
        text = f"{share['median']:.0f}" if share["median"] >= 9.5 else f"{share['median']:.1f}"
        weight = dict(fontweight="bold", color=OURS_TEXT) if ours else {}
        behind = dict(facecolor="white", edgecolor="none", pad=0.8)  # so that no line crosses the number
        panel.text(share["max"] + 3, y, text, va="center", fontsize=8, bbox=behind, **weight)
    panel.set_xlim(0, 1.22 * max(100, *(100 * row["share"]["max"] for row in found.values())))  # room for the number
    panel.set_xticks([0, 50, 100])
    panel.set_ylim(len(LINES) - 0.4, -0.7)
    panel.tick_params(length=0, colors=GREY, labelsize=8)
    panel.set_axisbelow(True)
    panel.grid(axis="x", color="#E6E6E6", linewidth=0.7)
    for side in ("top", "right", "bottom"):
        panel.spines[side].set_visible(False)


def labels(panel):
    """Names at the left of the first panel, headings in bold above them."""
    panel.set_yticks([])
    for y, line in enumerate(LINES):
        heading = isinstance(line, str)
        text = line if heading else line[0]
        ours = not heading and LIBRARIES[line[2]].ours
        style = dict(fontweight="bold" if heading or ours else "normal", color=OURS_TEXT if ours else INK)
        x, side = (-1.055, "left") if heading else (-0.03, "right")
        panel.text(x, y, text, transform=panel.get_yaxis_transform(), ha=side, va="center", **style)
