"""Where the time of a decode goes: docs/architecture.md's table, from a profiler's trace of one compiled call.

    python benchmarks/decode_profile.py                  # speed.py's task `generation`: 64 questions, 64 latents each

An operation is told by where it stands in the model (the names in the compiled program's metadata): reading the
questions, a latent, or a token of the answer; in each of these, products with weights, attention with its cache, the
language head, the latent head, and what is left (drawing, norms, bookkeeping). On a CPU an operation is one of XLA's
thunks, and they run one after the other; on a GPU there would be about as many launches, or as many nodes of a command
buffer.
"""

import argparse
import collections
import re
import statistics
import time

import jax_side
import profile_summary
import speed

from colar_jax.freed_memory import keep_freed_memory

PHASES = {"prefill": "questions", "think": "a latent", "answer": "an answer token"}
PARTS = {"attend": "attention, cache", "logits": "language head", "latent_head": "latent head"}
LAYERS = ("attention", "mlp")
REST = "the rest"
# Of these only what they hold counts.
AROUND = ("while", "call", "conditional")
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*)")
OPERAND, PLACE = re.compile(r"%([\w.\-]+)"), re.compile(r'op_name="([^"]*)"')


def places_of(hlo: str) -> dict[str, str]:
    """By the name of each instruction its place in the model.

    What XLA rewrote has lost its own: it has that of its first operand that has one.
    """
    places, operands = {}, {}
    for line in hlo.splitlines():
        if found := INSTRUCTION.match(line):
            name, rest = found.groups()
            operands[name] = OPERAND.findall(rest.split("metadata=")[0])
            if place := PLACE.search(rest):
                places[name] = place[1]

    def place_of(name: str, depth: int = 4) -> str:
        if name in places or not depth:
            return places.get(name, "")
        return next(filter(None, (place_of(operand, depth - 1) for operand in operands.get(name, ()))), "")

    return {name: place_of(name) for name in operands}


def part_of(place: str) -> tuple[str, str]:
    """Phase and part of an operation at this place."""
    phase = next((shown for name, shown in PHASES.items() if f"/{name}/" in place), REST)
    names = place.split("/")
    if part := next((shown for name, shown in PARTS.items() if name in names), None):
        return phase, part
    is_product = names[-1] == "dot_general" and set(LAYERS) & set(names)
    return phase, "products with weights" if is_product else REST


def measured(run, rounds: int = 5) -> float:
    """Seconds of a call, the median."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--latents", type=int, default=64)
    parser.add_argument("--answer_tokens", type=int, default=16)
    options = parser.parse_args()
    keep_freed_memory()
    prompts = [question for question, _, _ in speed.problems_of(speed.gsm8k_lengths())[: options.questions]]
    run = jax_side.generation(prompts, options.latents, options.answer_tokens)
    run()
    seconds = measured(run)
    taken, times = profile_summary.operations(profile_summary.traced(run))
    places = places_of(run.lowered().compile().as_text())
    of_parts, count = collections.Counter(), collections.Counter()
    for name, of_name in taken.items():
        if name in places and not name.startswith(AROUND):
            of_parts[part_of(places[name])] += of_name
            count[part_of(places[name])] += times[name]
    steps = {"a latent": options.latents, "an answer token": options.answer_tokens}
    total = sum(of_parts.values())
    print(f"{seconds:.2f} s a call; in the trace {total:.2f} s are of operations\n")
    print("| | | share, % | ms a step | operations a step |\n| --- | --- | --- | --- | --- |")
    for phase in (*PHASES.values(), REST):
        for (of_phase, part), of_part in of_parts.most_common():
            if of_phase == phase:
                each, number = of_part / steps.get(phase, 1), count[phase, part] / steps.get(phase, 1)
                print(f"| {phase} | {part} | {100 * of_part / total:.1f} | {1e3 * each:.2f} | {number:.0f} |")


if __name__ == "__main__":
    main()
