"""The page that `gpu.py` writes: a table of targets, then one a section, in Markdown."""

import dataclasses
from collections.abc import Callable

from cards import Card, card_of

TARGET_MFU, TARGET_COMPILED, TARGET_TRANSFORMERS, TARGET_BANDWIDTH = 0.5, 1.5, 10.0, 0.6
BLANK = "-"


FORMS: dict[str, Callable[[float], str]] = {
    "share": lambda value: f"{100 * value:.0f} %",
    "times": lambda value: f"{value:.2f} x",
    "verdict": lambda value: "PASS" if value else "FAIL",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """Something to reach; `value` is None where it was not measured."""

    section: str
    what: str
    value: float | None
    least: float
    form: str = "times"

    @property
    def is_missed(self) -> bool:
        """Whether it was measured, and is less."""
        return self.value is not None and self.value < self.least

    @property
    def row(self) -> str:
        """Of the table."""
        text = FORMS[self.form]
        reached = "not measured" if self.value is None else text(self.value)
        verdict = "" if self.value is None else "**missed**" if self.is_missed else "reached"
        return f"| {self.section} | {self.what} | {text(self.least)} | {reached} | {verdict} |"


def markdown(results: dict, *, profiles: str = "missed") -> str:
    """The whole page; `profiles` says which traces are shown: of sections that missed a target, all or none."""
    device, sections = results["device"], results["sections"]
    card = card_of(device["kind"], device["measured_flops"], device["measured_bandwidth"])
    parts = [_heading(results, card)]
    targets = list_of_targets(sections, card)
    parts.append(_table(("section", "target", "at least", "measured", ""), [target.row for target in targets]))
    missed = {target.section for target in targets if target.is_missed}
    for name, found in sections.items():
        shown = profiles == "all" or (profiles == "missed" and name in missed)
        parts.append(
            f"## {name}\n\n" + WRITERS[name](found, card) + _notes(found) + (_profiles(found) if shown else "")
        )
    return "\n\n".join(parts) + "\n"


def list_of_targets(sections: dict, card: Card) -> list[Target]:
    """All, measured or not."""
    full, lora, rollouts = (sections.get(name, {}) for name in ("train_full", "train_lora", "rollouts"))
    attention = sections.get("attention", {}).get("ours", {})
    best = _faster(full.get("ours", {}), full.get("ours_unrolled", {}))
    bound = share_of_bound(rollouts.get("ours"), card)
    agrees = float(attention["agrees"]) if "agrees" in attention else None
    return [
        Target("train_full", "MFU", mfu(best, card), TARGET_MFU, "share"),
        Target("train_full", "beside compiled PyTorch", ratio(best, full.get("torch_compiled")), TARGET_COMPILED),
        Target("train_lora", "beside compiled PyTorch", _ours(lora, "torch_compiled"), TARGET_COMPILED),
        Target("rollouts", "beside transformers", _ours(rollouts, "transformers"), TARGET_TRANSFORMERS),
        Target("rollouts", "of the bandwidth bound", bound, TARGET_BANDWIDTH, "share"),
        Target("attention", "the platform's beside the reference", agrees, 1.0, "verdict"),
    ]


def mfu(found: dict | None, card: Card) -> float | None:
    """Useful FLOPs over what the card could do meanwhile."""
    if not found or "flops" not in found.get("work", {}):
        return None
    return found["work"]["flops"] / found["seconds"] / card.peak_flops


def ratio(ours: dict | None, theirs: dict | None) -> float | None:
    """Of examples a second."""
    if not ours or not theirs or "seconds" not in ours or "seconds" not in theirs:
        return None
    return ours["examples_per_second"] / theirs["examples_per_second"]


def _ours(found: dict, opponent: str) -> float | None:
    return ratio(found.get("ours"), found.get(opponent))


def _faster(*found: dict) -> dict:
    return max(found, key=lambda one: one.get("examples_per_second", 0.0))


def bounds(work: dict, card: Card) -> dict[str, float]:
    """Seconds of a decode at least: reading in the loops, computing in them, and the prefill before them."""
    return {
        "reading": work["bytes"] / card.bandwidth,
        "computing": work["flops"] / card.peak_flops,
        "prefill": work["prefill_flops"] / card.peak_flops,
    }


def share_of_bound(found: dict | None, card: Card) -> float | None:
    """How much of the time is what prefill and reading weights and cache take at least: the bandwidth bound."""
    if not found or "bytes" not in found.get("work", {}):
        return None
    least = bounds(found["work"], card)
    return (least["prefill"] + least["reading"]) / found["seconds"]


def _heading(results: dict, card: Card) -> str:
    device = results["device"]
    lines = [
        f"# {device['kind']}",
        f"{results['date']}, `{results['command']}`",
        f"jax {device['jax']} ({device['runtime']}), Python {results['python']}, "
        f"{'PyTorch ' + device['torch'] if device['torch'] else 'no PyTorch'}; "
        f"XLA_FLAGS {device['xla_flags'] or 'empty'}.",
        f"Peak {card.peak_flops / 1e12:.4g} TFLOP/s in bfloat16, {card.bandwidth / 1e12:.4g} TB/s ({card.source}). A "
        f"large product here reaches {device['measured_flops'] / 1e12:.4g} TFLOP/s, a large copy "
        f"{device['measured_bandwidth'] / 1e12:.4g} TB/s.",
    ]
    if results["size"] == "tiny":
        lines.append("**A trial of the script with a tiny model: no number here means anything.**")
    return "\n\n".join(lines)


def _training(found: dict, card: Card) -> str:
    """Positions a second: real ones, and with padding."""
    here = {name: one for name, one in found.items() if "seconds" in one}
    # Both sides have the same examples: what a part does not say of its real positions, another's examples say.
    per_example = next(
        (
            one["work"]["positions"] * one["work"]["real_share"] / one["examples"]
            for one in here.values()
            if "real_share" in one["work"]
        ),
        None,
    )
    rows = []
    for name, one in here.items():
        rate = one["examples_per_second"]
        real = BLANK if per_example is None else f"{rate * per_example:,.0f}"
        padded = f"{one['work']['positions'] / one['seconds']:,.0f}" if "positions" in one["work"] else BLANK
        share = mfu(one, card)
        rows.append(
            [name, f"{rate:.1f}", real, padded, BLANK if share is None else f"{100 * share:.1f} %", *_common(one)]
        )
    columns = ("", "examples/s", "real positions/s", "all positions/s", "MFU", *COMMON)
    return _table(columns, map(_row, rows))


def _decoding(found: dict, card: Card) -> str:
    here = {name: one for name, one in found.items() if "seconds" in one}
    rows = [
        [name, f"{one['examples_per_second']:.1f}", f"{one['seconds']:.3f}", *_common(one)]
        for name, one in here.items()
    ]
    text = _table(("", "rollouts/s", "seconds", *COMMON), map(_row, rows))
    for name, one in here.items():
        text += _of_bounds(name, one, card) if "bytes" in one["work"] else ""
    return text


def _of_bounds(name: str, one: dict, card: Card) -> str:
    """A decode beside what it takes at least."""
    least, ms = bounds(one["work"], card), 1e3 / one["work"]["steps"]
    reading, computing, measured = (ms * x for x in (least["reading"], least["computing"], one["seconds"]))
    roofline = (least["prefill"] + max(least["reading"], least["computing"])) / one["seconds"]
    reached = share_of_bound(one, card)
    return (
        f"\n\n{name}: at least {1e3 * least['prefill']:.3g} ms for the prefill and, at each step after it, "
        f"{reading:.3g} ms to read weights and cache, or {computing:.3g} ms to compute at the card's peak, whichever "
        f"is more. Measured: {measured:.3g} ms a step, prefill included: {100 * reached:.0f} % of the bandwidth bound, "
        f"{100 * roofline:.0f} % of the slower of the two. As computing takes its time too, no decode can have more "
        f"than {100 * _most(least):.0f} % of the bandwidth bound here."
    )


def _most(least: dict[str, float]) -> float:
    return (least["prefill"] + least["reading"]) / (least["prefill"] + max(least["reading"], least["computing"]))


def _examples(found: dict, card: Card) -> str:
    here = {name: one for name, one in found.items() if "seconds" in one}
    rows = [
        [name, f"{one['examples_per_second']:.2f}", f"{one['seconds']:.3f}", *_common(one)]
        for name, one in here.items()
    ]
    return _table(("", "examples/s", "seconds", *COMMON), map(_row, rows))


def _attention(found: dict, card: Card) -> str:
    one = found.get("ours", {})
    if "agrees" not in one:
        return ""
    rows = [[part, f"{error:.2e}", f"{one['reference_errors'][part]:.2e}"] for part, error in one["errors"].items()]
    verdict = "PASS" if one["agrees"] else "FAIL"
    return (
        f"**{verdict}**: `{one['implementation']}`, [B, T, N, H] = {one['shape']}, packed, bfloat16; relative errors "
        f"beside float32, at most {one['tolerance']:g} allowed. Forward and backward: {1e3 * one['seconds']:.2f} ms; "
        f"the reference in bfloat16: {1e3 * one['reference_seconds']:.2f} ms.\n\n"
        + _table(("", one["implementation"], "reference in bfloat16"), map(_row, rows))
    )


def _flags(found: dict, card: Card) -> str:
    base = found.get("as they are", {}).get("seconds")
    rows = []
    for label, one in found.items():
        seconds = one.get("seconds")
        beside = f"{base / seconds:.3f}" if base and seconds else BLANK
        rows.append(
            [
                label,
                f"{seconds:.4f}" if seconds else BLANK,
                beside,
                f"{one['compile_seconds']:.1f}" if seconds else BLANK,
            ]
        )
    return _table(("rollouts", "seconds", "speed beside the first", "compile s"), map(_row, rows))


def _compile(found: dict, card: Card) -> str:
    rows = [[name, f"{one['cold']:.1f}", f"{one['warm']:.1f}"] for name, one in found.items() if "cold" in one]
    return _table(("program", "first time, s", "from the cache, s"), map(_row, rows))


COMMON = ("compile s", "peak GiB")
WRITERS: dict[str, Callable[[dict, Card], str]] = {
    "train_full": _training,
    "train_lora": _training,
    "rollouts": _decoding,
    "rl_iteration": _examples,
    "thoughts": _examples,
    "attention": _attention,
    "command_buffers": _flags,
    "compile": _compile,
}


def _common(one: dict) -> list[str]:
    return [f"{one['compile_seconds']:.1f}", f"{one['peak_gib']:.1f}"]


def _notes(found: dict) -> str:
    """What failed, was left out, or had to be done in smaller parts."""
    lines = []
    for name, one in found.items():
        if "left_out" in one:
            lines.append(f"- {name}: left out, {one['left_out']}")
        if "error" in one:
            lines.append(
                f"- {name}: failed\n\n  ```\n"
                + "\n".join(f"  {line}" for line in one["error"].splitlines())
                + "\n  ```"
            )
        if one.get("halvings"):
            lines.append(f"- {name}: with a part of 1/{2 ** one['halvings']} at a time, for want of memory")
        if "trace_error" in one:
            lines.append(f"- {name}: no trace, {one['trace_error'].splitlines()[-1]}")
    return "\n\n" + "\n".join(lines) if lines else ""


def _profiles(found: dict) -> str:
    text = ""
    for name, one in found.items():
        if one.get("profile"):
            rows = [
                [
                    f"`{op['operation'][:80]}`",
                    f"{1e3 * op['seconds']:.2f}",
                    f"{100 * op['share']:.1f} %",
                    str(op["times"]),
                ]
                for op in one["profile"]
            ]
            text += f"\n\nWhere the time of {name} goes (one call, traced):\n\n"
            text += _table(("operation", "ms", "share", "times"), map(_row, rows))
    return text


def _table(columns, rows) -> str:
    aligned = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join([f"| {' | '.join(columns)} |", f"| {' | '.join(aligned)} |", *rows])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
