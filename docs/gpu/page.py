#!/usr/bin/env python3
"""What GPUs say of fadam: docs/gpu.md, its figure and the README's paragraph, from the results kept in docs/gpu/*.jsonl.

    python3 docs/gpu/page.py            writes them; the figure only if there is something to draw, else it is removed
    python3 docs/gpu/page.py --check    writes nothing; exits with 1, and says where, if they differ from what the data say

`bash .ci/gpu` makes the results. results.py says what a line of them holds, predictions.py what was expected of them.
"""

import argparse
import difflib
import re
import sys
import textwrap
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ among the documents
import figure
import names
import predictions
from results import STAGES, STREAMS, Wrong, beside, job_of, read, usual

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BEGIN, END = "<!-- gpu: written by docs/gpu/page.py -->", "<!-- end gpu -->"
DIFF_LINES = 20
COLUMNS = 128


# ---------------------------------------------------------------- Markdown


def cell(value):
    """Text from a results file, as what it is and nothing else."""
    text = re.sub(r"([\\`*_\[\]|<>~])", r"\\\1", " ".join(str(value).split()))
    return text.replace("&", "&amp;")


def code(value):
    return f"`{re.sub(r'[`|]', '', ' '.join(str(value).split()))}`"


def prose(text):
    """In lines; code stays in one."""
    text = re.sub("`[^`]*`", lambda code: code[0].replace(" ", "\0"), text)
    return textwrap.fill(text, COLUMNS, break_long_words=False, break_on_hyphens=False).replace("\0", " ")


def table(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def digits(value, significant=4):
    """In plain figures, without an exponent."""
    text = f"{value:.{significant}g}"
    return text if "e" not in text else f"{value:.0f}" if value > 1 else f"{value:.9f}".rstrip("0")


def percent(share, decimals=0):
    return f"{100 * share:.{decimals}f} %"


def listed(items):
    return ", ".join(items)


def plural(number, noun):
    return f"{number} {noun}{'' if number == 1 else 's'}"


# ---------------------------------------------------------------- a card's section


def card_section(card):
    facts = lambda key: cell(listed(card.facts(key)))
    ran = {machine["stage"] for machine in card.machines}
    missing = [stage for stage in STAGES if stage not in ran]
    stages = listed(f"`{stage}`" for stage in STAGES if stage in ran)
    stages += f" ({listed(f'`{stage}`' for stage in missing)} did not run)" if missing else ""
    rows = [
        ["compute capability, memory", f"{facts('compute_capability')}, {facts('memory_gib')} GiB"],
        ["driver", f"{cell(card.driver)}, CUDA {facts('driver_cuda')}"],
        ["NVRTC", facts("nvrtc")],
        ["PyTorch", facts("torch")],
        ["commit", f"`{cell(card.commit)}`"],
        ["date", facts("date")],
        ["stages", stages],
    ]
    parts = [f"## {cell(card.name)}, commit {cell(card.commit)}, driver {cell(card.driver)}", table(["", ""], rows), checks(card)]
    for part in (steps(card), streams(card), kernels(card), ceilings(card), ncu(card)):
        parts += part
    return "\n\n".join(parts)


def tally(card):
    passed, failed = card.passed(), card.failed()
    if not passed and not failed:
        return "no check ran"
    if not failed:
        return f"{plural(len(passed), 'check')} passed, none failed"
    return f"{plural(len(passed), 'check')} passed, {len(failed)} failed: {listed(code(check['name']) for check in failed)}"


def checks(card):
    parts = [f"**Checks: {tally(card)}.**"]
    if card.passed():
        parts[0] += f" Passed: {listed(code(check['name']) for check in card.passed())}."
    if card.failed():
        row = lambda check: [code(check["name"]), str(check["rc"]), digits(check["seconds"]), cell(check["line"])]
        parts.append(table(["failed", "exit status", "seconds", "last line"], map(row, card.failed())))
    if card.of("left_out"):
        left_out = (f"{code(row['name'])} ({cell(row['why'])})" for row in card.of("left_out"))
        parts.append(prose(f"Left out: {listed(left_out)}."))
    parts[0] = prose(parts[0])
    return "\n\n".join(parts)


def by_shape(card):
    """[(shape, [(step of ours or none, {stream: measured}, [peer])])], in the order of the page. A peer stands with the
    first step of ours that is its job, or by itself."""
    theirs = card.theirs()
    entries = []
    for streams in sorted(card.ours().values(), key=lambda streams: names.place(usual(streams)[1].row)):
        job = job_of(usual(streams)[1].row)
        mine = [key for key in theirs if key[0] == job and job is not None]
        peers = [theirs.pop(key) for key in mine]
        entries.append((streams, sorted(peers, key=lambda peer: names.peer_place(peer.row))))
    entries += [({}, [peer]) for peer in sorted(theirs.values(), key=lambda peer: names.peer_place(peer.row))]
    row_of = lambda entry: (usual(entry[0])[1] if entry[0] else entry[1][0]).row
    shapes = {}
    for entry in sorted(entries, key=lambda entry: names.place(row_of(entry))):
        shapes.setdefault(row_of(entry)["shape"], []).append((row_of(entry), *entry))
    return shapes.items()


def spread(measured):
    if measured.rounds == 1:
        return "one round"
    return f"{digits(measured.least_ms)}–{digits(measured.most_ms)}, {measured.rounds} rounds"


def steps(card):
    if not card.of("step"):
        return ["### Steps", "No time was measured."]
    parts = [
        "### Steps",
        prose("Medians over the rounds, which all take in turns on one card. *Ceiling*: the same reads and writes without arithmetic, "
        "timed in turns with the step. GB/s and share are of the bytes that fadam's step needs; what a peer moves beyond them is "
        "its loss. *Time*: the peer's over fadam's, its graph over ours. With clipping fadam also checks that gradients are "
        "finite."),
    ]
    heads = ["step", "library", "ms", "least–most", "bytes a parameter", "GB/s", "of the ceiling", "time / fadam's"]
    for shape, entries in by_shape(card):
        rows = []
        for row, streams, peers in entries:
            name = cell(names.step(row))
            if streams:
                stream, ours = usual(streams)
                numbers = [str(row["bytes_per_param"]), f"{ours.gb_per_s:.0f}", percent(ours.share), "1"]
                rows.append([name, names.library(row, stream), digits(ours.ms), spread(ours), *numbers])
            for peer in peers:
                numbers = ["", f"{peer.gb_per_s:.0f}", "", ""]
                if streams:
                    gb_per_s, share = beside(ours, peer)
                    same = streams.get("graph") if peer.row["how"] == "graph" else ours
                    numbers = ["", f"{gb_per_s:.0f}", percent(share), f"{peer.ms / same.ms:.2f}" if same else ""]
                rows.append([name, cell(names.library(peer.row)), digits(peer.ms), spread(peer), *numbers])
        parts += [f"#### {cell(title(shape, entries[0][0]))}", table(heads, rows)]
    return parts


def title(shape, row):
    if not shape.isdecimal() and "tensors" in row:
        return f"{names.shape(shape)}: {names.grouped(row['params'])} parameters in {plural(row['tensors'], 'tensor')}"
    return names.shape(shape)


def streams(card):
    """What the host takes, and a stream of one's own or a graph gives."""
    rows = []
    for _, entries in by_shape(card):
        for row, found, _ in entries:
            if found:
                of = lambda number: [digits(number(found[stream])) if stream in found else "" for stream in STREAMS]
                name = [cell(names.shape(row["shape"])), cell(names.step(row))]
                rows.append(name + of(lambda measured: measured.ms) + of(lambda measured: measured.host_us))
    if not rows:
        return []
    heads = ["shape", "step", "default stream, ms", "own stream, ms", "graph, ms"]
    heads += ["host: default stream, µs", "own stream, µs", "graph, µs"]
    note = "*Host*: what the call takes on the CPU. Where that is longer than the step, the GPU waits for it."
    return ["### Streams, graph and host", prose(note), table(heads, rows)]


def kernels(card):
    rows = []
    for _, entries in by_shape(card):
        for row, found, _ in entries:
            with_times = {stream: measured for stream, measured in found.items() if measured.kernels}
            if with_times:
                times = usual(with_times)[1].kernels
                whole = sum(times.values())
                for name, us in times.items():
                    share = percent(us / whole, 1) if whole else ""
                    rows.append([cell(names.shape(row["shape"])), cell(names.step(row)), code(name), digits(us), share])
    if not rows:
        return []
    return ["### Kernels", table(["shape", "step", "kernel", "µs", "of the kernels' time"], rows)]


def ceilings(card):
    found = card.ceilings()
    if not found:
        return []
    rows = []
    for (name, params, bytes_per_param), measured in sorted(found.items(), key=lambda item: (-item[0][1], item[0])):
        numbers = [str(bytes_per_param), digits(measured.ms), f"{measured.gb_per_s:.0f}"]
        rows.append([cell(name), names.grouped(params), *numbers])
    return ["### Ceilings", table(["traffic", "elements", "bytes an element", "ms", "GB/s"], rows)]


def ncu(card):
    found = card.of("ncu")
    if not found:
        return []
    metrics = list(dict.fromkeys(metric for row in found for metric in row["metrics"]))
    row = lambda row: [code(row["kernel"]), cell(row["case"]), *(cell(row["metrics"].get(name, "")) for name in metrics)]
    return ["### Nsight Compute", table(["kernel", "case", *map(cell, metrics)], map(row, found))]


# ---------------------------------------------------------------- predictions


def measured_and_verdict(answer, expected, cards):
    """What the cards say to a prediction, and the verdict, in text."""
    found = [(card, answer(card)) for card in cards]
    found = [(card, *result) for card, result in found if result]
    if not found:
        return "not measured", ""
    several = len(cards) > 1
    values, verdicts = [], []
    for card, stream, value in found:
        where = [f"{stream} stream"] * (stream == "own") + ["graph"] * (stream == "graph")
        where += [f"{card.commit}, driver {card.driver}"] * several
        values.append(digits(value) + (f" ({cell(listed(where))})" if where else ""))
        verdicts.append(expected.verdict(value))
    return "; ".join(values), "; ".join(verdicts)


def expected_text(expected):
    if expected.most is None:
        return f"at least {digits(expected.least, 3)}"
    return f"{digits(expected.least, 3)}–{digits(expected.most, 3)}"


def stated_table(cards):
    rows = []
    for stated in predictions.STATED:
        measured, verdict = measured_and_verdict(stated.answer, stated.expected, predictions.of_card(stated.card, cards))
        rows.append([stated.card, stated.what, expected_text(stated.expected), stated.basis, measured, verdict])
    return table(["card", "what", "predicted, ms", "from", "measured, ms", "verdict"], rows)


def modelled_table(cards):
    rows = []
    for modelled in predictions.MODELLED:
        row = [modelled.what]
        for name in predictions.CARDS:
            expected = modelled.expected(name)
            measured, verdict = measured_and_verdict(modelled.answer, expected, predictions.of_card(name, cards))
            row.append(f"{expected_text(expected)}: {measured}" + (f", {verdict}" if verdict else ""))
        rows.append(row)
    return table(["GPT-2, predicted ms: measured", *predictions.CARDS], rows)


def predictions_section(cards):
    bandwidth = listed(f"{name} {value}" for name, value in predictions.BANDWIDTH.items())
    tolerance = percent(predictions.TOLERANCE)
    stated = (
        "Written down before any GPU had run this code, to find out whether it is understood: by a cycle model of one "
        "multiprocessor, fed with the machine code, and by the memory's bandwidth. They are of the kernels at commit "
        f"`{predictions.KERNELS_OF}`; an *if* is what was predicted of a change, and the commit of a measurement decides which of the "
        "two rows concerns it. *Within* and *outside* the range are computed. What was stated as a number, or follows from the "
        f"model's, has a range of ± {tolerance}, its own uncertainty."
    )
    modelled = (
        f"The same model for GPT-2's {names.grouped(predictions.GPT2)} parameters on four cards: each kernel takes the longer of "
        "the time to issue its instructions and the time to move its bytes, and a step is the sum of its kernels, without "
        f"launches and without the small kernels between the sweeps; ± {tolerance}. Steps of bf16 take at least that, less "
        f"{tolerance}: their loads wait for one another, which this leaves out. Bandwidths in TB/s, of the SXM cards: {bandwidth}."
    )
    return "\n\n".join(["## Predictions", prose(stated), stated_table(cards), prose(modelled), modelled_table(cards)])


# ---------------------------------------------------------------- page and paragraph

HOW = """## Run it on yours

    bash .ci/gpu                   # checks (`right`), times (`fast`) and profiles (`deep`); or name stages
    bash .ci/gpu pack              # for a machine without cargo: packs target/gpu-kit, at most 30 MB; carry it there, and:
    bash run.sh right              # then fast, then deep; each within nine minutes, results in gpu-results

It needs a driver and NVRTC 12.4 or later (`pip install nvidia-cuda-nvrtc`); for the peers, Python with PyTorch and CuPy. Please
send the `.jsonl` files, in an issue or as a pull request that adds them to `docs/gpu/`: those of a success, and those of a
failure. `python3 docs/gpu/page.py` makes this page of them."""


def page(cards):
    parts = ["# On GPUs", "<!-- Written by docs/gpu/page.py from docs/gpu/*.jsonl: change those. -->"]
    if not cards:
        emulated = (
            "**No GPU has run this code yet, only the emulated driver of `tests/emulator`, and nothing is claimed about its time "
            "on a GPU.** The emulator executes the kernels that NVRTC compiles, and CI compares their results with the CPU's, to "
            "the bit; it tells nothing about time. What is known without a GPU is in [the kernels, as compiled](kernels.md)."
        )
        parts.append(prose(emulated))
    else:
        ran = (f"* {cell(card.name)}, driver {cell(card.driver)}, commit `{cell(card.commit)}`: {tally(card)}" for card in cards)
        parts += ["What has run on GPUs, each time by `bash .ci/gpu`:", "\n".join(ran)]
    if drawn := figure.draw(cards):
        parts.append("![share of the memory's bandwidth that a step reaches, fadam and its peers](gpu/figure.svg)")
    parts += [HOW, *map(card_section, cards), predictions_section(cards)]
    return "\n\n".join(parts) + "\n", drawn


def headline(card):
    """AdamW over GPT-2, if it was timed."""
    ours = predictions.ours("gpt2", **predictions.F32)(card)
    peer = predictions.torch_milliseconds("gpt2")(card)
    if not ours:
        return ""
    text = f"; AdamW over GPT-2 in {digits(ours[1].ms)} ms, {percent(ours[1].share)} of the memory's bandwidth"
    return text + (f"; PyTorch's, fused, in {digits(peer[1])} ms" if peer else "")


def paragraph(cards):
    """For the README: two sentences."""
    if not cards:
        return prose(
            "**No GPU has run this code yet, only an emulated one, and nothing is claimed about its time on a GPU.** Please run "
            "`bash .ci/gpu` on yours and send what it writes, successful runs included: [how, and what is predicted](docs/gpu.md)."
        )
    latest = {card.name: card for card in sorted(cards, key=lambda card: card.date())}
    ran = "; ".join(f"{cell(card.name)} ({tally(card)}{headline(card)})" for card in latest.values())
    return prose(
        f"**Run by real GPUs: {ran}.** [What was measured there, and what was predicted](docs/gpu.md): please run `bash .ci/gpu` on your "
        "GPU, too, and send what it writes, a success or not."
    )


def with_paragraph(readme, text):
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Wrong(f"README.md: no `{BEGIN}` with `{END}` after it")
    return f"{before}{begin}\n{text}\n{end}{after}"


def made(data, out):
    """{path: what it should hold, or None for no file}"""
    cards = read(data)
    text, drawn = page(cards)
    readme = out / "README.md"
    return {
        out / "docs" / "gpu.md": text,
        out / "docs" / "gpu" / "figure.svg": drawn,
        readme: with_paragraph(readme.read_text(encoding="utf-8"), paragraph(cards)),
    }


def write(files):
    for path, text in files.items():
        if text is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")


def differences(files):
    """What to say of each file that is not what it should be."""
    for path, text in files.items():
        kept = path.read_bytes().decode() if path.exists() else None
        if kept == text:
            continue
        if text is None:
            yield f"{path}: nothing was measured that it could show"
        elif kept is None:
            yield f"{path}: missing"
        else:
            diff = difflib.unified_diff(kept.splitlines(), text.splitlines(), "kept", "made from the data", lineterm="", n=0)
            lines = [line[:200] for line in diff]
            more = [f"... and {plural(len(lines) - DIFF_LINES, 'line')} more"] * (len(lines) > DIFF_LINES)
            yield "\n".join([f"{path}: not what the data say", *lines[:DIFF_LINES], *more])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--data", type=Path, default=HERE, help="folder of the results [default: docs/gpu]")
    parser.add_argument("--out", type=Path, default=ROOT, help="folder of README.md and docs [default: the repository]")
    options = parser.parse_args()
    try:
        files = made(options.data, options.out)
    except Wrong as wrong:
        sys.exit(str(wrong))
    if not options.check:
        return write(files)
    found = list(differences(files))
    if found:
        sys.exit("\n\n".join([*found, "`python3 docs/gpu/page.py` writes them anew"]))


if __name__ == "__main__":
    main()
