#!/usr/bin/env python3
"""Do imports go down? Every file of src/ stands on a floor, and imports from floors below it, or from its own.

    python3 tests/imports.py            exits with 1 and names each import that goes up, and each circle on one floor
    python3 tests/imports.py --list     all imports

Imports are `use crate::`, `use super::` and paths that begin so, outside of tests and comments; a name that lib.rs re-exports
counts for the file that defines it.
"""

import re
import sys
from pathlib import Path

SRC = Path(__file__).resolve().parent.parent / "src"

# From below. A file that is not named stands with its folder.
FLOORS = [
    ["args", "error", "environment", "numerics"],
    ["allocation", "tensor", "storage"],
    ["algorithm", "schedule", "loss_scale", "report"],
    ["settings", "update", "slot", "job", "loss_scaler"],
    ["alias"],
    # Within a device: arithmetic and memory, then what runs over them, then the optimizer's part there.
    ["cpu/simd", "cpu/memory", "cpu/team", "cuda/library", "cuda/probe", "cuda/nvrtc"],
    ["cpu/random", "cuda/context"],
    ["cpu/chunk", "cuda/load", "cuda/buffer", "cuda/tensor"],
    ["cpu/kernel", "cpu/sweep", "cuda/module"],
    ["cpu/stage", "cpu/moments", "cuda/step", "cuda/table", "cuda/device"],
    ["cpu/walk"],
    ["cpu/norm", "cpu/fisher_adam"],
    ["cpu/task"],
    ["cpu", "cuda"],
    ["backend"],
    ["optimizer"],
    ["norm", "fisher", "accumulate", "state"],
    ["candle"],
    ["lib"],
]


def module(path):
    name = path.relative_to(SRC).with_suffix("").as_posix()
    return name.removesuffix("/mod")


MODULES = {module(path): path for path in sorted(SRC.rglob("*.rs"))}


def floor(name):
    while True:
        for number, names in enumerate(FLOORS):
            if name in names:
                return number
        if "/" not in name:
            sys.exit(f"src/{name}.rs stands on no floor: see FLOORS")
        name = name.rsplit("/", 1)[0]


def code(path):
    """Without comments, texts and tests."""
    text = re.sub(r"//[^\n]*", "", path.read_text())
    text = re.sub(r'"(?:\\.|[^"\\])*"', '""', text)
    return text.split("#[cfg(test)]\nmod tests")[0]


def leaves(path, tree):
    """`a::{b, c::d}` as [a, b], [a, c, d]."""
    tree = tree.strip()
    if not tree.startswith("{"):
        head, rest = re.match(r"(\w+|\*)(.*)", tree, re.S).groups()
        rest = rest.strip()
        return leaves([*path, head], rest[2:]) if rest.startswith("::") else [[*path, head]]
    depth, start, parts = 0, 1, []
    for at, char in enumerate(tree):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 1 or depth == 0 and char == "}":
            parts.append(tree[start:at])
            start = at + 1
            if depth == 0:
                break
    return [leaf for part in parts if part.strip() for leaf in leaves(path, part)]


def resolve(base, names, exported):
    """The module that a path names something of."""
    here = base
    for name in names:
        inner = f"{here}/{name}" if here else name
        if inner not in MODULES:
            return exported.get((here, name), here) or exported.get(("", name), "lib")
        here = inner
    return here


def exports():
    """(module, name) that another module defines: `pub use` and `pub(crate) use` of folders' first files."""
    found = {}
    for name, path in MODULES.items():
        base = "" if name == "lib" else name
        if path.name not in ("mod.rs", "lib.rs"):
            continue
        for tree in re.findall(r"pub(?:\([a-z: ]+\))? use ([^;]+);", code(path)):
            for leaf in leaves([], tree):
                inner = f"{base}/{leaf[0]}" if base else leaf[0]
                if inner in MODULES:
                    found[base, leaf[-1]] = inner
    return found


def imports():
    exported = exports()
    found = set()
    for name, path in MODULES.items():
        if name == "lib":
            continue
        text = code(path)
        above = name.rpartition("/")[0]
        for root, tree in re.findall(r"\b(crate|super|self)::((?:\w+::)*(?:\{[^;]*?\}(?=;)|\w+|\*))", text):
            base = {"crate": "", "super": above, "self": name}[root]
            for leaf in leaves([], tree):
                there = resolve(base, leaf, exported)
                # Through folders that only pass the name on.
                while (there, leaf[-1]) in exported:
                    there = exported[there, leaf[-1]]
                if there not in ("", name) and there != "lib":
                    found.add((name, there))
    return sorted(found)


def main():
    edges = imports()
    if "--list" in sys.argv[1:]:
        for here, there in edges:
            print(f"{here} -> {there}")
    up = [(here, there) for here, there in edges if floor(there) > floor(here)]
    for here, there in up:
        print(f"src/{here} imports from {there}, which stands above it")
    # On one floor, circles.
    level = {}
    for here, there in edges:
        if floor(here) == floor(there):
            level.setdefault(here, set()).add(there)
    circles = [start for start in level if start in reach(level, start)]
    for start in circles:
        print(f"src/{start} stands in a circle of imports")
    print(f"{len(edges)} imports between {len(MODULES)} files, {len(up)} of them up, {len(circles)} files in circles")
    sys.exit(bool(up or circles))


def reach(edges, start):
    seen, left = set(), [start]
    while left:
        for there in edges.get(left.pop(), ()):
            if there not in seen:
                seen.add(there)
                left.append(there)
    return seen


if __name__ == "__main__":
    main()
