"""A plan as text."""

from colar_jax.planning.chips import GIB
from colar_jax.planning.compiled import Compiled, Memory
from colar_jax.planning.costs import Costs
from colar_jax.planning.stage_plan import ProgramPlan, StagePlan


def text(plan: StagePlan) -> str:
    """All there is to know about a stage on a slice, a chip's share of it."""
    mesh, decode_mesh = _mesh(plan.mesh), _mesh(plan.decode_mesh)
    mesh += f", to decode {decode_mesh}" * (decode_mesh != mesh)
    lines = [
        f"{plan.stage} on {plan.topology}: {_chips(plan.num_chips)}, mesh {mesh}, compiled for {plan.compiler}",
        f"model {plan.model}, {_count(plan.num_parameters, 0)} parameters, {_count(plan.num_trained, 1)} trained",
    ]
    if plan.data_is_assumed:
        lines.append(f"data not read: lengths are assumed, of {plan.num_examples:,} problems (--examples)")
    for program in plan.programs:
        lines += ["", *_program(program)]
    lines += ["", *_schedule(plan)]
    return "\n".join(lines)


def _mesh(sizes: dict[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items())


def _count(number: int, places: int) -> str:
    """In millions, from one million up."""
    return f"{number:,.0f}" if number < 1e6 else f"{number / 1e6:,.{places if number >= 1e7 else 2}f}M"


def _chips(number: int) -> str:
    return "1 chip" if number == 1 else f"{number} chips"


def _schedule(plan: StagePlan) -> list[str]:
    schedule = plan.schedule
    step = "steps" if schedule.unit == "examples" else "iterations"
    line = f"{schedule.num_steps:,} {step} of {schedule.per_step:.0f} {schedule.unit}"
    if plan.schedule_seconds is None:
        return [line]
    least, most = plan.schedule_seconds
    rate = [schedule.per_step * schedule.num_steps / seconds for seconds in (most, least)]
    return [
        f"{line}: {_hours(least)} to {_hours(most)} h at the roofline "
        f"({rate[0]:,.0f} to {rate[1]:,.0f} {schedule.unit}/s)"
    ]


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}" if seconds < 36000 else f"{seconds / 3600:.0f}"


def _program(program: ProgramPlan) -> list[str]:
    compiled, roofline = program.compiled, program.roofline
    often = f", {program.times} in a step" if program.times > 1 else ""
    what = f"{compiled.name} of {program.number:.0f} {program.unit}{program.how}{often}"
    lines = [f"{what}, a chip's share (compiled in {compiled.seconds:.0f} s)", _memory(compiled.memory)]
    lines += [f"             change: {advice}" for advice in program.advice]
    if compiled.costs is None:
        return lines
    useful = f", {program.useful_flops / 1e12:.2f} of them useful" if program.useful_flops else ""
    computed = f"  compute    {compiled.costs.flops / 1e12:9.2f} TFLOP{useful:<24}"
    sent = f"  ICI        {_sent(compiled.costs) / 1e9:9.3f} GB sent"
    if roofline is None:
        return [*lines, computed.rstrip(), sent, *_collectives(compiled)]
    lines += [
        f"{computed} {1e3 * roofline.compute:9.2f} ms",
        f"  HBM        {compiled.costs.hbm_bytes / 1e9:9.2f} GB{'':<27} {1e3 * roofline.hbm:9.2f} ms",
        f"{sent}{'':<22} {1e3 * roofline.ici:9.2f} ms",
        *_collectives(compiled),
        f"  bound      {roofline.bound}: {1e3 * roofline.overlapped:.2f} ms with perfect overlap, "
        f"{1e3 * roofline.serial:.2f} ms with none",
    ]
    if program.mfu_bound is not None:
        lines.append(f"  MFU        at most {100 * program.mfu_bound:.0f} %")
    return lines


def _sent(costs: Costs) -> float:
    return sum(collective.sent for collective in costs.collectives)


def _memory(memory: Memory) -> str:
    parts = dict(memory.arguments) | ({"temporary": memory.temporary} if memory.temporary >= 0 else {})
    listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
    verdict = "fits" if memory.fits else "DOES NOT FIT"
    return f"  memory     {memory.total / GIB:.2f} of {memory.capacity / GIB:.2f} GiB, {verdict} ({listed})"


def _collectives(compiled: Compiled) -> list[str]:
    return [
        f"             {one.kind} x {one.count:g} over {_chips(len(one.group))}: {one.payload / 1e6:,.1f} MB"
        for one in sorted(compiled.costs.collectives, key=lambda one: -one.sent)
    ]
