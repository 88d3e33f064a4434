"""What steps, shapes and libraries are called on the page and in the figure."""

ALGORITHMS = {"adamw": "AdamW", "adam": "Adam", "fadam": "FAdam", "fisher_adam": "Fisher Adam"}
DECAYS = {"adamw": 0.01, "adam": 0.0, "fadam": 0.0, "fisher_adam": 0.1}  # each algorithm's own, which is not worth a word
SHAPES = {"gpt2": "GPT-2", "resnet50": "ResNet-50"}


def shape(name):
    if name in SHAPES:
        return SHAPES[name]
    if not name.isdecimal():
        return name
    elements = int(name)
    power = elements.bit_length() - 1
    return f"one tensor of 2^{power}" if elements == 1 << power and power > 9 else f"one tensor of {grouped(elements)}"


def grouped(number):
    return f"{number:,}".replace(",", " ")


def step(row):
    """The step of a row, its shape and library left out."""
    words = [ALGORITHMS.get(row["algorithm"], row["algorithm"])]
    master = row.get("master")
    if (row["param"], row["grad"], row["moments"]) == ("bf16",) * 3 and master in (None, "none"):
        words.append("all bf16")
    elif row["param"] == "bf16":
        kept = {"f32": "with f32 master", "remainder": "with remainder"}.get(master, "without master")
        words.append(f"bf16 {kept}")
        words += ["f32 gradients"] * (row["grad"] == "f32") + ["bf16 moments"] * (row["moments"] == "bf16")
    else:
        words += ["bf16 gradients"] * (row["grad"] == "bf16") + ["bf16 moments"] * (row["moments"] == "bf16")
    if row.get("rounding"):
        words.append({"nearest": "rounding to nearest", "stochastic": "stochastic rounding"}[row["rounding"]])
    if row.get("kappa") is not None:
        words.append(f"κ = {row['kappa']:g}".replace("e+0", "e"))
    if row.get("weight_decay", DECAYS.get(row["algorithm"])) != DECAYS.get(row["algorithm"]):
        words.append(f"weight decay {row['weight_decay']:g}")
    if row["clip"]:
        words.append("clipping")  # with which ours also checks that gradients are finite
    return ", ".join(words)


def library(row, stream=None):
    """Whose step it is, and by which way."""
    if row["library"] == "fadam":
        return {"default": "fadam", "own": "fadam, own stream", "graph": "fadam, graph"}[stream]
    if row["library"] == "torch":
        return f"PyTorch {row['version']}, {row['how']}"
    return f"{row['library']}, {row['how']}"


def peer_place(row):
    """The order of peers at one step."""
    hows = ["fused", "foreach", "graph"]
    how = row["how"]
    return row["library"] != "torch", hows.index(how) if how in hows else len(hows), how, row.get("version") or ""


def place(row):
    """The order of rows on the page: by shape, f32 before bf16, plain before clipped."""
    shapes, algorithms = [*SHAPES], [*ALGORITHMS]
    name = row["shape"]
    size = -int(name) if name.isdecimal() else 0
    return (
        (shapes.index(name) if name in shapes else len(shapes), size, name),
        (row["param"], row["grad"], row["moments"]) != ("f32",) * 3,
        algorithms.index(row["algorithm"]) if row["algorithm"] in algorithms else len(algorithms),
        row["algorithm"],
        row["param"] == "bf16",
        str(row.get("master")),
        row["grad"],
        row["moments"] == "bf16",
        str(row.get("rounding")),
        row["clip"],
        row.get("kappa") or 0,
        row.get("weight_decay") or 0,
    )
