"""The collectives of a compiled program."""

import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def collectives(compiled) -> dict[str, list[tuple[int, ...]]]:
    """By kind, the shape of each array that it makes: one collective may carry several, as XLA combines them."""
    found = {kind: [] for kind in KINDS}
    for line in compiled.as_text().splitlines():
        match = re.search(rf" = (.*?) ({'|'.join(KINDS)})(?:-start)?\(", line)
        if match:
            shapes = re.findall(r"[a-z]+[0-9]+\[([0-9,]*)\]", match[1])
            found[match[2]] += [tuple(map(int, filter(None, shape.split(",")))) for shape in shapes]
    return found
