#!/usr/bin/env python3
"""What the compiler makes of the kernels, without a GPU: compiles every variant that the library may ask for to machine
code, with the library's own options, and looks at it.

    python3 kernels/report.py --nvidia DIR            checks the machine code, and that docs/kernels.md says the same
    python3 kernels/report.py --nvidia DIR --write    writes the tables of docs/kernels.md

DIR (or $NVIDIA_WHEELS) is the folder site-packages/nvidia of an environment with the wheels nvidia-cuda-nvrtc,
nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm. Exits with 1 where a check fails:

spills       No stack, no local memory, no LDL or STL. Whatever is kept in bf16 and averaged: on sm_90 by every kernel, on
             the other architectures by AdamW and FAdam with κ.
accesses     Whatever is read or written is named global, shared or constant memory: a generic access is slower. The loop
             of a sweep has a 128-bit load and store for each array, and a 64-bit load for bf16.
parallelism  No arithmetic stands between the first load of a row and the last: all arrays are on their way together. The
             gradient is the last of them: bf16 is widened at once.
rounding     What the source does not fuse is not fused. NVRTC fuses nothing under --fmad=false and says so in PTX by
             `.rn`; the assembler may fuse what lacks it, so each f32 and f64 operation must have it. That the assembler
             keeps to this is counted: there are no more FFMA than fma.rn.f32, and five for each division of f32, two
             for each square root and one for each division of f64 (the fast paths that it makes of these); there may be
             less, where it finds two the same. And there are as many FMUL as mul.rn.f32.
"""

import argparse
import concurrent.futures
import ctypes
import difflib
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"
DOCUMENT = ROOT / "docs" / "kernels.md"
SHOWN = [80, 90, 100]
OTHERS = [75, 86, 89, 120]

# Source::ALL of src/cuda/module.rs: its name there, a name to read, the file, and its definitions.
VARIANTS = [("Norm", "", "norm.cu", ["FADAM_NORMS=0"])]
for norms in (0, 1):
    on = ["false", "true"][norms]
    VARIANTS.append((f"Adam {{ norms: {on} }}", ["", "norms"][norms], "adam.cu", [f"FADAM_NORMS={norms}"]))
for kappa in (0, 1):
    for norms in (0, 1):
        name = f"FAdam {{ norms: {['false', 'true'][norms]}, kappa: {['false', 'true'][kappa]} }}"
        words = ", ".join(["κ"] * kappa + ["norms"] * norms)
        VARIANTS.append((name, words, "fadam.cu", [f"FADAM_NORMS={norms}", f"FADAM_KAPPA={kappa}"]))
for power in (0, 1):
    for norms in (0, 1):
        name = f"FisherAdam {{ norms: {['false', 'true'][norms]}, power: {['false', 'true'][power]} }}"
        words = ", ".join(["ρ ≠ ½"] * power + ["norms"] * norms)
        definitions = [f"FADAM_NORMS={norms}"] + ["FADAM_SQRT_ONLY"] * (not power)
        VARIANTS.append((name, words, "fisher_adam.cu", definitions))
VARIANTS.append(("Fisher", "", "fisher.cu", ["FADAM_NORMS=0"]))
VARIANTS.append(("Accumulate", "", "accumulate.cu", ["FADAM_NORMS=0"]))



def is_optimizer(variant):
    """Whether it is compiled for what is kept in bf16 and averaged, too."""
    return variant[2] in ("adam.cu", "fadam.cu", "fisher_adam.cu")


# Kept of src/cuda/module.rs: what parameters and moments are kept as, each word a definition that is 0 or 1. The variants
# above are of f32 alone; what is no sweep of an optimizer is compiled for nothing else.
KEPT = ["FADAM_BF16_PARAMETERS", "FADAM_BF16_MOMENTS", "FADAM_STOCHASTIC", "FADAM_EMA"]


def kept_ways():
    """All but f32 alone. Nothing is rounded by chance where nothing is bf16."""
    for parameters, moments, stochastic, ema in itertools.product((0, 1), repeat=4):
        if parameters + moments + ema and stochastic <= parameters + moments:
            yield parameters, moments, stochastic, ema


def kept_definitions(way):
    return [f"{name}={value}" for name, value in zip(KEPT, way)]


F32 = (0, 0, 0, 0)
# On every architecture; the others on this one.
EVERYWHERE, ONE = {"Adam { norms: false }", "FAdam { norms: false, kappa: true }"}, 90

# Warps that a multiprocessor holds: "Maximum number of resident warps per SM" in the CUDA C++ Programming Guide, chapter
# Compute Capabilities, as are its 64 K registers. That a warp gets them in units of 256 is from cuda_occupancy.h of the
# CUDA toolkit. Blocks (at least 16 of them) and shared memory are no limit to a sweep.
WARPS = {75: 32, 80: 64, 86: 48, 89: 48, 90: 64, 100: 64, 120: 48}
REGISTERS, REGISTER_UNIT, WARP = 65536, 256, 32

# The same figures of other people's fused AdamW on sm_90, four elements a thread: registers, loads and stores.
PEERS = [
    ("PyTorch 2.15, fused AdamW", 60, "4 × 128 bits", "6 × 128 bits"),
    ("llm.c, adamw.cuh", 24, "32 bits", "32 bits"),
]


def number(name):
    """A number out of args.h or a kernel's file."""
    texts = "\n".join(path.read_text() for path in sorted(KERNELS.glob("*.[hc]*")))
    return int(re.search(rf"#define {name} (\d+)", texts)[1])


SWEEP_THREADS, NORM_ROWS = number("FADAM_SWEEP_THREADS"), number("NORM_ROWS")


def occupancy(registers, architecture):
    """Percent of the warps that fit, in whole blocks of a sweep."""
    per_warp = -(-registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
    per_block = SWEEP_THREADS // WARP
    warps = min(WARPS[architecture], REGISTERS // per_warp) // per_block * per_block
    return 100 * warps / WARPS[architecture]


# ---- what the library says ----


def section(text, start, end):
    return re.search(re.escape(start) + r"(.*?)" + end, text, re.S)[1]


class Library:
    """The parts of src/cuda that this file must agree with."""

    def __init__(self):
        module, nvrtc = ((ROOT / "src/cuda" / name).read_text() for name in ("module.rs", "nvrtc.rs"))
        self.options = re.findall(r'c"(.*?)"', section(nvrtc, "const OPTIONS", ";\n"))
        self.variants = re.findall(r"Self::(\w+(?: \{.*?\})?),", section(module, "const ALL", r"\];"))
        self.kept = set(re.findall(r'"(FADAM_.*?)"', section(module, "impl Kept {", r"\n\}")))
        self.definitions = set(re.findall(r'"(FADAM_.*?)"', section(module, "impl Source {", "/// Its entries")))
        self.headers = set(re.findall(r'include_str!\("../../kernels/(\w+\.(?:h|cuh))"\)', module))
        arms = re.findall(r"Self::(.*?) => (?:\{\s*)?&\[(.*?)\]", section(module, "fn entries", r"\n    \}"), re.S)
        self.arms = [(pattern, re.findall(r'"(\w+)"', names)) for pattern, names in arms]

    def entries(self, variant):
        words = lambda text: set(re.findall(r"\w+(?:: \w+)?", text))
        return next(names for pattern, names in self.arms if words(pattern) <= words(variant))

    def disagreements(self):
        ours = [variant[0] for variant in VARIANTS]
        if self.variants != ours:
            yield f"Source::ALL is {self.variants}, VARIANTS is {ours}"
        ours = {definition for variant in VARIANTS for definition in variant[3]}
        if self.definitions != ours:
            yield f"Source::definitions has {sorted(self.definitions)}, VARIANTS {sorted(ours)}"
        ours = {definition for way in (F32, (1, 1, 1, 1)) for definition in kept_definitions(way)}
        if self.kept != ours:
            yield f"Kept::definitions has {sorted(self.kept)}, KEPT {sorted(ours)}"
        files = {path.name for path in KERNELS.glob("*.*h")}
        if self.headers != files:
            yield f"module.rs includes {sorted(self.headers)}, kernels has {sorted(files)}"


class Kernel:
    """A kernel as its source has it: what one row of its loop should load and store, of f32 alone."""

    ALL = {}

    def __init__(self, text):
        self.name = re.search(r"(\w+)\(\w+ args\)", text)[1]
        text = re.sub(r"#if FADAM_EMA\n.*?#endif\n", "", text, flags=re.S)
        self.sweep = "FADAM_SWEEP_" in text
        self.rows = NORM_ROWS if "take_gradients(" in text else 1
        self.gradients = self.rows * len(re.findall(r"\.(?:load|take)_gradients?\(", text))
        self.loads = self.gradients + len(re.findall(r"\.load(?:_parameter|_moment)?\(", text))
        self.stores = len(re.findall(r"\.store(?:_parameter|_moment)?\(", text))

    @classmethod
    def read(cls):
        for path in sorted(KERNELS.glob("*.cu*")):
            for text in re.findall(r'extern "C" __global__ .*?\n\}', path.read_text(), re.S):
                kernel = cls(text)
                cls.ALL[kernel.name] = kernel


# ---- the compiler and the disassembler ----


class Tools:
    """NVRTC out of one folder of wheels, and what reads its machine code, perhaps out of another."""

    def __init__(self, nvidia, compiler=None):
        find = lambda folder, pattern: next(iter(sorted(Path(folder).glob(pattern))), None)
        library, builtins = (find(compiler or nvidia, f"*/lib/{name}.so.1*") for name in ("libnvrtc", "libnvrtc-builtins"))
        self.cuobjdump, self.nvdisasm = find(nvidia, "*/bin/cuobjdump"), find(nvidia, "*/bin/nvdisasm")
        if not (library and builtins and self.cuobjdump and self.nvdisasm):
            sys.exit(f"{compiler or nvidia} lacks NVRTC, or {nvidia} cuobjdump or nvdisasm")
        ctypes.CDLL(str(builtins))  # by its name alone some versions of NVRTC do not find it
        self.nvrtc = ctypes.CDLL(str(library))
        major, minor, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"
        self.call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        self.architectures = (ctypes.c_int * count.value)()
        self.call("nvrtcGetSupportedArchs", self.architectures)
        self.headers = sorted(KERNELS.glob("*.*h"))

    def call(self, name, *arguments):
        code = getattr(self.nvrtc, name)(*arguments)
        if code:
            raise RuntimeError(f"{name}: error {code}")

    def compile(self, file, options):
        """PTX and machine code."""
        strings = lambda items: (ctypes.c_char_p * len(items))(*items)
        program = ctypes.c_void_p()

        def get(what):
            size = ctypes.c_size_t()
            self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
            buffer = ctypes.create_string_buffer(size.value)
            self.call(f"nvrtcGet{what}", program, buffer)
            return buffer.raw

        texts = strings([path.read_bytes() for path in self.headers])
        names = strings([path.name.encode() for path in self.headers])
        source, name = (KERNELS / file).read_bytes(), file.encode()
        self.call("nvrtcCreateProgram", ctypes.byref(program), source, name, len(self.headers), texts, names)
        try:
            self.call("nvrtcCompileProgram", program, len(options), strings([option.encode() for option in options]))
            return get("PTX").rstrip(b"\0").decode(), get("CUBIN")
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{get('ProgramLog').decode()}")
        finally:
            self.call("nvrtcDestroyProgram", ctypes.byref(program))

    def disassemble(self, cubin, *commands):
        """What these say of it: by default resource usage and SASS."""
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(cubin)
            file.flush()
            commands = commands or (self.usage, (self.nvdisasm, "-c"))
            return [subprocess.check_output([*command, file.name], text=True) for command in commands]

    @property
    def usage(self):
        return self.cuobjdump, "-res-usage"


# ---- one kernel's machine code ----


def resources(usage):
    """Registers, stack, shared and local memory by kernel."""
    pattern = r"Function (\w+):\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)"
    return {name: tuple(map(int, numbers)) for name, *numbers in re.findall(pattern, usage)}


def not_rounded_by_name(ptx, power):
    plain = re.findall(r"\b(?:(?:add|sub|mul|mad)\.f(?:32|64)|\w+(?:\.\w+)*\.(?:ftz|approx)(?:\.\w+)*)\b", ptx)
    plain = [p for p in plain if not (power and p.startswith("rcp.approx.ftz"))]  # CUDA's pow and powf have these
    if plain:
        yield f"not rounded by name: {', '.join(sorted(set(plain)))}"


class Entry:
    """What came out for one entry, one variant and one architecture."""

    def __init__(self, name, ptx, usage, sass):
        self.kernel = Kernel.ALL[name]
        self.registers, self.stack, self.shared, self.local = resources(usage)[name]
        self.ptx = re.search(rf"\.entry {name}\(.*?\n\}}", ptx, re.S)[0]
        self.read(re.search(rf"\n\.text\.{name}:\n(.*?)(?=\n\s*\.section|\Z)", sass, re.S)[1])

    def read(self, text):
        """Instructions in order, without the slow paths of division and root, which follow as functions; and the main
        loop: the innermost one that has 128-bit loads."""
        self.everything = re.findall(r"/\*[0-9a-f]+\*/ +(.*?) *;", text)
        self.code, labels, loops = [], {}, []
        for line in re.split(r"\n\s*\.type\s", text)[0].splitlines():
            if label := re.match(r"(\.L\w+):", line.strip()):
                labels[label[1]] = len(self.code)
            elif instruction := re.search(r"/\*[0-9a-f]+\*/ +(?:@!?U?P\w+ +)?(.*?) *;", line):
                self.code.append(instruction[1])
        for at, instruction in enumerate(self.code):
            target = re.match(r"BRA.*`\((\.L\w+)\)", instruction)
            if target and labels.get(target[1], at + 1) <= at:
                loops.append(range(labels[target[1]], at + 1))
        loops = [loop for loop in loops if any(self.code[at].startswith("LDG.E.128") for at in loop)]
        self.loop = min(loops, key=len, default=range(0))

    def accesses(self, operation, inside):
        """How many accesses of 128, 64, 32 and 16 bits the main loop has, or the rest has."""
        places = self.loop if inside else [at for at in range(len(self.code)) if at not in self.loop]
        widths = Counter()
        for at in places:
            if access := re.match(rf"{operation}\.E\.?(128|64|U16|)(?=[. ])", self.code[at]):
                widths[{"": 32, "U16": 16}.get(access[1]) or int(access[1])] += 1
        return tuple(widths[width] for width in (128, 64, 32, 16))

    def count(self, pattern):
        return sum(bool(re.match(pattern + r"\b", instruction)) for instruction in self.code)

    def failures(self, power):
        spills = [i for i in self.everything if re.search(r"\b(LDL|STL)\b", i)]
        if self.stack or self.local or spills:
            yield f"{self.stack} bytes of stack, {self.local} of local memory, {len(spills)} spills"
        generic = [i for i in self.everything if re.match(r"(@!?U?P\w+ +)?(LD|ST|ATOM|RED)(\.|\s)", i)]
        if generic:
            yield f"{len(generic)} generic accesses: {generic[0]}"
        yield from self.fusions(power)
        if self.kernel.loads:
            yield from self.loop_failures()

    def loop_failures(self):
        wide, double, _, _ = self.accesses("LDG", True)
        stores, _, _, _ = self.accesses("STG", True)
        if wide < self.kernel.loads or double < self.kernel.gradients or stores < self.kernel.stores:
            yield (f"main loop has {wide} 128-bit and {double} 64-bit loads and {stores} 128-bit stores, not "
                   f"{self.kernel.loads}, {self.kernel.gradients} and {self.kernel.stores}")
        loads = [at for at in self.loop if self.code[at].startswith("LDG")]
        early = [self.code[at] for at in range(min(loads, default=0), max(loads, default=0))
                 if re.match(r"F(ADD|MUL|FMA)|MUFU", self.code[at])]
        if early:
            yield f"{len(early)} operations before the last load of a row: {early[0]}"
        bf16 = [at for at in loads if self.code[at].startswith("LDG.E.64")]
        late = [at for at in loads if bf16 and at > bf16[0] and self.code[at].startswith("LDG.E.128")]
        if self.kernel.rows == 1 and len(late) > self.kernel.gradients:  # the gradient in f32 may come after that in bf16
            yield f"{len(late)} 128-bit loads after bf16's"

    def fusions(self, power):
        yield from not_rounded_by_name(self.ptx, power)
        ptx = lambda operation, bits=32: len(re.findall(rf"\b{operation}\.rn\.f{bits}\b", self.ptx))
        accounted = ptx("fma") + 5 * ptx("div") + 2 * ptx("sqrt") + ptx("div", 64)
        if self.count("FFMA") > accounted:
            yield f"{self.count('FFMA')} FFMA, of which PTX accounts for {accounted}"
        if self.count(r"FMUL(?!\.FTZ)") != ptx("mul"):
            yield f"{self.count(r'FMUL(?!.FTZ)')} FMUL for {ptx('mul')} mul.rn.f32"


# ---- the tables ----


def alike(values):
    """One value where all agree, else all."""
    values = list(map(str, values))
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def span(values, form="{:.0f}"):
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low}–{high}"


def widths(counts):
    return "/".join(map(str, counts))


def registers(entries):
    return " / ".join(str(entry.registers) for entry in entries)


def cells(entries, architectures):
    """What the table says of a sweep."""
    yield registers(entries)
    yield " / ".join(f"{occupancy(entry.registers, a):.0f}" for entry, a in zip(entries, architectures))
    for operation in ("LDG", "STG"):
        for inside in (True, False):
            yield alike(widths(entry.accesses(operation, inside)) for entry in entries)


def rows(lines):
    """(kernel, variant, cells) each; one row for the variants that agree."""
    merged = {}
    for name, variant, cells in lines:
        merged.setdefault((name, *cells), []).append(variant or "plain")
    for (name, *cells), variants in merged.items():
        variants = "; ".join(dict.fromkeys(variants))
        yield f"| `{name}` | {variants} | {' | '.join(map(str, cells))} |"


def ways(kept, known):
    """What keeping bf16 and averages takes: registers by way."""
    yield "\n### bf16 and averages\n"
    yield (f"Registers on sm_{ONE}, without and with norms; `fadam` with κ. A master is in f32 or a remainder, by what a "
           "step finds: the kernel is the same, and that without a master too.\n")
    columns = ["adam", "fadam", "fadam_correct", "fadam_moments", "fadam_apply", "fisher_adam_sums", "fisher_adam_apply"]
    yield f"| parameters | moments | rounding | average | {' | '.join(f'`{name}`' for name in columns)} |"
    yield "|---" * (4 + len(columns)) + "|"
    for way in dict.fromkeys(key[1] for key in kept):
        words = [["f32", "bf16"][way[0]], ["f32", "bf16"][way[1]], ["nearest", "by chance"][way[2]], ["no", "yes"][way[3]]]
        if way[0] + way[1] == 0:
            words[2] = "none"
        figures = {}
        for (variant, key_way, architecture), kernels in kept.items():
            if key_way == way and architecture == ONE and "kappa: false" not in variant and "power: true" not in variant:
                for name, (registers, *_) in kernels.items():
                    figures.setdefault(name, []).append(registers)
        cells = [span_of_norms(figures[name]) for name in columns]
        yield f"| {' | '.join(words + cells)} |"
    rest = [kernels[name][0] for (variant, way, architecture), kernels in kept.items() if variant in EVERYWHERE
            and architecture != ONE for name in kernels if Kernel.ALL[name].sweep]
    others = ", ".join(str(a) for a in known if a != ONE)
    yield f"\n`adam`, and FAdam's sweeps with κ, on sm_{others}: {span(rest)} registers."


def span_of_norms(registers):
    return " / ".join(map(str, registers))


def tables(results, kept, tools, shown, others, missing):
    yield f"NVRTC {tools.version}, `{' '.join(Library().options)}`."
    if missing:
        yield f"Left out, as this NVRTC does not know them: {', '.join(f'sm_{a}' for a in missing)}."
    titles = {"norm.cu": "Norms", "adam.cu": "Adam and AdamW", "fadam.cu": "FAdam", "fisher_adam.cu": "Fisher Adam",
              "fisher.cu": "The Fisher diagonal alone", "accumulate.cu": "Gradient accumulation"}
    order = " / ".join(map(str, shown))
    for file, title in titles.items():
        keys = [key for key in results if key[0] == file and results[key][shown[0]].kernel.sweep]
        yield f"\n### {title}\n"
        yield (f"| kernel | variant | registers, sm_{order} | occupancy, % | LDG, loop | LDG, rest | STG, loop | "
               "STG, rest |")
        yield "|---|---|---|---|---|---|---|---|"
        yield from rows((key[1], key[2], cells([results[key][a] for a in shown], shown)) for key in keys)
        rest = [(results[key][a], a) for key in keys for a in others]
        yield (f"\nsm_{', '.join(map(str, others))}: {span([e.registers for e, _ in rest])} registers, occupancy "
               f"{span([occupancy(e.registers, a) for e, a in rest])} %.")
        if file == "adam.cu":
            yield from beside(results["adam.cu", "adam", ""])
    yield from ways(kept, sorted(shown + others))
    yield "\n### Between the sweeps\n"
    yield f"| kernel | variant | registers, sm_{order} | shared memory, bytes |"
    yield "|---|---|---|---|"
    keys = [key for key in results if not results[key][shown[0]].kernel.sweep]
    entries = {key: [results[key][a] for a in shown] for key in keys}
    yield from rows((key[1], key[2], (registers(entries[key]), alike(e.shared for e in entries[key]))) for key in keys)
    rest = [results[key][a] for key in keys for a in others]
    yield f"\nsm_{', '.join(map(str, others))}: {span([entry.registers for entry in rest])} registers."


def beside(results):
    """AdamW beside other people's."""
    ours = results[90]
    bits = lambda operation: f"{ours.accesses(operation, True)[0] - 1} × 128 bits"  # less amsgrad's
    yield ("\nBeside others' fused AdamW on sm_90, with four elements a thread; ours without the fifth array, "
           "amsgrad's:\n")
    yield "| | registers | occupancy by registers, % | loads | stores |"
    yield "|---|---|---|---|---|"
    for name, registers, loads, stores in [("`adam`", ours.registers, bits("LDG"), bits("STG")), *PEERS]:
        yield f"| {name} | {registers} | {occupancy(registers, 90):.0f} | {loads} | {stores} |"


def document(lines, name):
    """docs/kernels.md with these lines where it has this name."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, rest = DOCUMENT.read_text().split(begin)
    return before + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1]


def main():
    parser = argparse.ArgumentParser(description="Checks the kernels' machine code, and docs/kernels.md.")
    parser.add_argument("--nvidia", default=os.environ.get("NVIDIA_WHEELS"), help="site-packages/nvidia of the wheels")
    parser.add_argument("--write", action="store_true", help="write docs/kernels.md")
    arguments = parser.parse_args()
    if not arguments.nvidia:
        parser.error("no folder of wheels: --nvidia or $NVIDIA_WHEELS")
    library, tools = Library(), Tools(arguments.nvidia)
    Kernel.read()
    failures = list(library.disagreements())
    known = [a for a in sorted(SHOWN + OTHERS) if a in list(tools.architectures)]
    missing = sorted(set(SHOWN + OTHERS) - set(known))
    results = {}

    def work(job):
        (variant, words, file, definitions), architecture = job
        definitions = definitions + kept_definitions(F32)
        options = [f"--gpu-architecture=sm_{architecture}", *(f"-D{d}" for d in definitions), *library.options]
        ptx, cubin = tools.compile(file, options)
        usage, sass = tools.disassemble(cubin)
        names = re.findall(r"Function (\w+):", usage)
        if sorted(names) != sorted(library.entries(variant)):
            failures.append(f"{variant} has {names}, Source::entries {library.entries(variant)}")
        return [(name, Entry(name, ptx, usage, sass)) for name in names]

    jobs = [(variant, architecture) for variant in VARIANTS for architecture in known]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for ((variant, words, file, _), architecture), entries in zip(jobs, pool.map(work, jobs)):
            for name, entry in sorted(entries):
                results.setdefault((file, name, words), {})[architecture] = entry
                where = f"{name} ({words or 'plain'}), sm_{architecture}: "
                failures += [where + failure for failure in entry.failures("power: true" in variant)]
    def compile_kept(job):
        (variant, words, file, definitions), way, architecture = job
        definitions = definitions + kept_definitions(way)
        options = [f"--gpu-architecture=sm_{architecture}", *(f"-D{d}" for d in definitions), *library.options]
        ptx, cubin = tools.compile(file, options)
        return ptx, resources(tools.disassemble(cubin, tools.usage)[0])

    kept = {}
    optimizers = [variant for variant in VARIANTS if is_optimizer(variant)]
    jobs = [(variant, way, architecture) for way in kept_ways() for variant in optimizers for architecture in known
            if architecture == ONE or variant[0] in EVERYWHERE]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for (variant, way, architecture), (ptx, kernels) in zip(jobs, pool.map(compile_kept, jobs)):
            kept[variant[0], way, architecture] = kernels
            where = f"{variant[0]} with {', '.join(kept_definitions(way))}, sm_{architecture}: "
            failures += [f"{where}{name}: {stack} bytes of stack, {local} of local memory"
                         for name, (_, stack, _, local) in kernels.items() if stack or local]
            failures += [where + failure for failure in not_rounded_by_name(ptx, "power: true" in variant[0])]
    order = {name: at for at, name in enumerate(name for variant in VARIANTS for name in library.entries(variant[0]))}
    results = dict(sorted(results.items(), key=lambda item: order[item[0][1]]))
    for failure in failures:
        print(failure)
    print(f"NVRTC {tools.version}: {len(VARIANTS)} variants for sm_{', '.join(map(str, known))}: "
          f"{sum(map(len, results.values()))} kernels, and {len(kept)} ways to keep bf16 and averages, "
          f"{len(failures)} failures"
          + "".join(f"; sm_{a} not known to it" for a in missing))
    if failures:
        sys.exit(1)
    shown, others = ([a for a in some if a in known] for some in (SHOWN, OTHERS))
    text = document(tables(results, kept, tools, shown, others, missing), "report")
    if arguments.write:
        DOCUMENT.write_text(text)
    elif text != DOCUMENT.read_text():
        sys.stdout.writelines(difflib.unified_diff(
            DOCUMENT.read_text().splitlines(True), text.splitlines(True), "docs/kernels.md", "what the compiler says"))
        sys.exit(1)


if __name__ == "__main__":
    main()
