"""The figure, as SVG: for each card the share of the memory's bandwidth that a step reaches, a panel for each main shape,
a bar for each library and step. The same data give the same bytes."""

from html import escape

import names
from results import beside, job_of, usual

# Of Okabe and Ito's palette, whose colours the colour-blind tell apart; those of docs/speed.png.
OURS, OURS_TEXT, THEIRS, INK, GREY, GRID = "#0072B2", "#005A8E", "#BBBBBB", "#222222", "#555555", "#E6E6E6"
SHAPES = ("gpt2", "268435456")
PEERS = {("torch", "fused"), ("llm.c", None)}  # how, or none: any

WIDTH, MARGIN, LEFT, GAP = 980, 12, 236, 20  # pixels, as all below
ROW, BAR, HEAD, FOOT = 18, 13, 62, 22
ROOM = 180  # beside the longest bar, for its numbers


def draw(cards):
    """The SVG, or None where no card has a step of a main shape."""
    blocks = [(card, panels(card)) for card in cards]
    blocks = [(card, shapes) for card, shapes in blocks if shapes]
    if not blocks:
        return None
    parts, y = [], 30
    parts.append(label(MARGIN, y, "An optimizer step's share of the GPU memory's bandwidth", size=16, bold=True))
    for card, shapes in blocks:
        block, y = draw_card(card, shapes, y + 30)
        parts += block
    about = "share of the bandwidth that the same reads and writes reach without arithmetic, %; medians over the rounds"
    parts.append(label(LEFT, y + 6, about, size=11, fill=GREY))
    height = y + 20
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    font = "font-family=\"'DejaVu Sans', Verdana, Arial, sans-serif\""
    return "\n".join([f"{head} {font}>", f'<rect width="{WIDTH}" height="{height}" fill="white"/>', *parts, "</svg>", ""])


def panels(card):
    """{shape: {step: [(library, share, GB/s, ms, ours)]}}, in the order of the page."""
    shapes = {}
    for streams in sorted(card.ours().values(), key=lambda streams: names.place(usual(streams)[1].row)):
        stream, measured = usual(streams)
        row = measured.row
        if row["shape"] not in SHAPES:
            continue
        bars = [(names.library(row, stream), measured.share, measured.gb_per_s, measured.ms, True)]
        for (job, library, _, how), theirs in card.theirs().items():
            if job == job_of(row) and PEERS & {(library, how), (library, None)}:
                gb_per_s, share = beside(measured, theirs)
                bars.append((names.library(theirs.row), share, gb_per_s, theirs.ms, False))
        shapes.setdefault(row["shape"], {})[names.step(row)] = bars
    return shapes


def draw_card(card, shapes, top):
    """The card's block, and where it ends."""
    shown = [shape for shape in SHAPES if shape in shapes]
    lines = []  # heading, or (step, library)
    for shape in shown:
        for step, bars in shapes[shape].items():
            if step not in lines:
                lines.append(step)
            for bar in bars:
                if (step, bar[0]) not in lines:
                    at = max(i for i, line in enumerate(lines) if line == step or line[0] == step)
                    lines.insert(at + 1, (step, bar[0]))
    parts = [label(MARGIN, top, card.name, size=13, bold=True)]
    parts.append(label(MARGIN, top + 16, f"driver {card.driver}, commit {card.commit}", size=11, fill=GREY))
    first = top + HEAD
    for i, line in enumerate(lines):
        y = first + i * ROW
        if isinstance(line, str):
            parts.append(label(MARGIN, y, line, size=12, bold=True))
        else:
            ours = line[1].startswith("fadam")
            parts.append(label(LEFT - 8, y, line[1], size=12, anchor="end", fill=OURS_TEXT if ours else INK))
    width = (WIDTH - LEFT - MARGIN - GAP * (len(shown) - 1)) / len(shown)
    bottom = first + len(lines) * ROW
    for i, shape in enumerate(shown):
        parts += panel(LEFT + i * (width + GAP), width, first, bottom, shape, shapes[shape], lines)
    return parts, bottom + FOOT


def panel(left, width, first, bottom, shape, steps, lines):
    share_of = [bar[1] for bars in steps.values() for bar in bars]
    scale = (width - ROOM) / max(1, *share_of)
    parts = [label(left, first - 26, names.shape(shape), size=12, bold=True)]
    for tick in (0, 50, 100):
        x = left + scale * tick / 100
        for i, line in enumerate(lines):
            if not isinstance(line, str):  # a heading may reach into the panel
                top = first + i * ROW - BAR
                ends = f'y1="{top}" y2="{top + ROW}"'
                parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" {ends} stroke="{GREY if tick != 50 else GRID}"/>')
        parts.append(label(x, bottom + 4, str(tick), size=11, anchor="middle", fill=GREY))
    for step, bars in steps.items():
        for library, share, gb_per_s, ms, ours in bars:
            y = first + lines.index((step, library)) * ROW
            colour, ink = (OURS, OURS_TEXT) if ours else (THEIRS, INK)
            length = scale * share
            parts.append(f'<rect x="{left:.1f}" y="{y - BAR + 2}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>')
            numbers = f"{100 * share:.0f} %   {gb_per_s:.0f} GB/s   {ms:.3g} ms"
            parts.append(f'<rect x="{left + length + 3:.1f}" y="{y - BAR + 2}" width="{ROOM - 8}" height="{BAR}" fill="white"/>')
            parts.append(label(left + length + 6, y, numbers, size=11, bold=ours, fill=ink))
    return parts


def label(x, y, text, size, bold=False, anchor="start", fill=INK):
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y}" font-size="{size}"{weight} text-anchor="{anchor}" fill="{fill}" xml:space="preserve">'
        f"{escape(text)}</text>"
    )
