#!/usr/bin/env python3
"""Which compilers the kernels are for, without a GPU: compiles every variant by several versions of NVRTC, for f32 alone
and with all that is kept in bf16 and averaged, and looks for spills.

    python3 kernels/matrix.py --nvidia DIR NVRTC ...            checks, and that docs/kernels.md says the same
    python3 kernels/matrix.py --nvidia DIR NVRTC ... --write    writes the table of docs/kernels.md

DIR is as for report.py; each NVRTC is the folder site-packages/nvidia of an environment that has another one. Exits with 1
where a kernel has stack or local memory that is not in SPILLS, or no longer has what is.
"""

import argparse
import collections
import concurrent.futures
import difflib
import functools
import sys

import report

# Bytes of stack, which no loop of a sweep touches.
SPILLS = {("12.8", 100, "adam_finalize"): 8, ("13.0", 100, "adam_finalize"): 8}
PROCESSES = 2
KEPT = (1, 1, 1, 1)


@functools.cache
def tools(nvidia, compiler):
    return report.Tools(nvidia, compiler)


@functools.cache
def library():
    return report.Library()


def compile(job):
    """Registers, stack, shared and local memory by kernel."""
    nvidia, compiler, architecture, (variant, _, file, definitions), way = job
    definitions = definitions + report.kept_definitions(way)
    options = [f"--gpu-architecture=sm_{architecture}", *(f"-D{d}" for d in definitions), *library().options]
    made = tools(nvidia, compiler)
    kernels = report.resources(made.disassemble(made.compile(file, options)[1], made.usage)[0])
    if sorted(kernels) != sorted(library().entries(variant)):
        raise RuntimeError(f"{variant} has {sorted(kernels)}")
    return kernels


def jobs(nvidia, compilers):
    for compiler in compilers:
        for architecture in report.SHOWN:
            if architecture in list(tools(nvidia, compiler).architectures):
                for variant in report.VARIANTS:
                    for way in (report.F32, KEPT) if report.is_optimizer(variant) else (report.F32,):
                        yield nvidia, compiler, architecture, variant, way


def most(kernels):
    registers, name = max((numbers[0], name) for name, numbers in kernels)
    return f"{registers} (`{name}`)"


def table(results):
    yield "| NVRTC | architecture | most registers, f32 | with bf16 and averages | stack, bytes |"
    yield "|---|---|---|---|---|"
    for (version, architecture), ways in results.items():
        both = [kernel for way in ways.values() for kernel in way]
        stacks = sorted({f"{numbers[1]} (`{name}`)" for name, numbers in both if numbers[1]})
        cells = [version, f"sm_{architecture}", most(ways[report.F32]), most(ways[KEPT]), ", ".join(stacks) or "none"]
        yield f"| {' | '.join(cells)} |"


def failures(results):
    found = {}
    for (version, architecture), ways in results.items():
        for name, (_, stack, _, local) in (kernel for way in ways.values() for kernel in way):
            if local:
                yield f"NVRTC {version}, sm_{architecture}: {name} has {local} bytes of local memory"
            if stack:
                key = version, architecture, name
                found[key] = max(stack, found.get(key, 0))
    for version, architecture, name in sorted(found.keys() | SPILLS.keys()):
        key = version, architecture, name
        if found.get(key, 0) != SPILLS.get(key, 0):
            yield (f"NVRTC {version}, sm_{architecture}: {name} has {found.get(key, 0)} bytes of stack, SPILLS says "
                   f"{SPILLS.get(key, 0)}")


def main():
    parser = argparse.ArgumentParser(description="Compiles the kernels by several versions of NVRTC.")
    parser.add_argument("--nvidia", required=True, help="site-packages/nvidia of the wheels of report.py")
    parser.add_argument("--write", action="store_true", help="write the table of docs/kernels.md")
    parser.add_argument("compilers", nargs="+", metavar="NVRTC", help="site-packages/nvidia of the wheel of another NVRTC")
    arguments = parser.parse_args()
    work = list(jobs(arguments.nvidia, [*arguments.compilers, arguments.nvidia]))
    results = collections.defaultdict(lambda: collections.defaultdict(list))
    with concurrent.futures.ProcessPoolExecutor(PROCESSES) as pool:
        for (nvidia, compiler, architecture, _, way), kernels in zip(work, pool.map(compile, work)):
            results[tools(nvidia, compiler).version, architecture][way] += kernels.items()
    wrong = list(failures(results))
    for failure in wrong:
        print(failure)
    for (version, architecture), ways in results.items():
        print(f"NVRTC {version}, sm_{architecture}: {sum(map(len, ways.values()))} kernels")
    if wrong:
        sys.exit(1)
    text = report.document(table(results), "compilers")
    if arguments.write:
        report.DOCUMENT.write_text(text)
    elif text != report.DOCUMENT.read_text():
        sys.stdout.writelines(difflib.unified_diff(
            report.DOCUMENT.read_text().splitlines(True), text.splitlines(True), "docs/kernels.md", "what the compilers say"))
        sys.exit(1)


if __name__ == "__main__":
    main()
