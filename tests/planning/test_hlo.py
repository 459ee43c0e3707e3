"""Programs read from their text: what runs how often, and what one run of them costs. Texts as XLA writes them."""

import numpy as np
import pytest

from colar_jax.planning import hlo
from colar_jax.planning.costs import costs, sent_bytes

LOOP = """HloModule loop

%region_add (a.1: f32[], b.1: f32[]) -> f32[] {
  %a.1 = f32[] parameter(0)
  %b.1 = f32[] parameter(1)
  ROOT %sum = f32[] add(%a.1, %b.1)
}

%body (in.1: (s32[], f32[8,16], /*index=2*/f32[5,16,16])) -> (s32[], f32[8,16], f32[5,16,16]) {
  %in.1 = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)S(1)}, /*index=2*/f32[5,16,16]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %step.1 = s32[]{:T(128)} get-tuple-element(%in.1), index=0
  %x.1 = f32[8,16]{1,0} get-tuple-element(%in.1), index=1
  %stack.1 = f32[5,16,16]{2,1,0} get-tuple-element(%in.1), index=2
  %zero.1 = s32[] constant(0)
  %layer.1 = f32[1,16,16]{2,1,0} dynamic-slice(%stack.1, %step.1, %zero.1, %zero.1), dynamic_slice_sizes={1,16,16}
  %weights.1 = f32[16,16]{1,0} bitcast(%layer.1)
  %y.1 = f32[8,16]{1,0} dot(%x.1, %weights.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %z.1 = f32[8,16]{1,0} all-reduce(%y.1), channel_id=1, replica_groups={{0,2},{1,3}}, to_apply=%region_add
  %one.1 = s32[] constant(1)
  %next.1 = s32[] add(%step.1, %one.1)
  ROOT %out.1 = (s32[], f32[8,16], f32[5,16,16]) tuple(%next.1, %z.1, %stack.1)
}

%condition (in.2: (s32[], f32[8,16], f32[5,16,16])) -> pred[] {
  %in.2 = (s32[], f32[8,16]{1,0}, f32[5,16,16]{2,1,0}) parameter(0)
  %step.2 = s32[] get-tuple-element(%in.2), index=0
  %limit.2 = s32[] constant(5)
  ROOT %more.2 = pred[] compare(%step.2, %limit.2), direction=LT
}

ENTRY %main (x: f32[8,16], stack: f32[5,16,16]) -> f32[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %stack = f32[5,16,16]{2,1,0} parameter(1)
  %first = s32[] constant(0)
  %state = (s32[], f32[8,16], f32[5,16,16]) tuple(%first, %x, %stack)
  %loop = (s32[], f32[8,16]{1,0}, f32[5,16,16]{2,1,0}) while(%state), condition=%condition, body=%body
  %result = f32[8,16]{1,0} get-tuple-element(%loop), index=1
  ROOT %all = f32[32,16]{1,0} all-gather(%result), replica_groups=[1,4]<=[4], dimensions={0}
}
"""


def test_a_loop_counts_as_often_as_it_runs():
    measured = costs(hlo.parse(LOOP))
    assert measured.flops == 5 * 2 * 8 * 16 * 16
    reduced, gathered = measured.collectives
    assert (reduced.kind, reduced.group, reduced.count) == ("all-reduce", (0, 2), 5)
    assert reduced.payload == 5 * 8 * 16 * 4 and reduced.sent == reduced.payload  # 2 * (2 - 1) / 2
    assert (gathered.kind, gathered.group, gathered.payload) == ("all-gather", (0, 1, 2, 3), 4 * 8 * 16 * 4)
    assert gathered.sent == 0.75 * gathered.payload


def test_a_slice_of_a_stack_is_not_the_stack():
    # Each round: the slice out and in; both operands of the product (the first lies on the chip) and its result; the
    # all-reduce; the counter. And the all-gather at the end.
    layer, x, scalar = 16 * 16 * 4, 8 * 16 * 4, 4
    product = layer + x + x
    expected = 5 * (2 * layer + product + 2 * x + 3 * scalar) + 5 * x
    assert costs(hlo.parse(LOOP)).hbm_bytes == expected


def test_what_xla_knows_of_a_loop_comes_first():
    known = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}')
    assert costs(hlo.parse(known)).flops == 3 * 2 * 8 * 16 * 16


def convolution(lhs: str, rhs: str, out: str, attributes: str) -> float:
    text = f"""HloModule one

ENTRY %main (a: {lhs}, b: {rhs}) -> {out} {{
  %a = {lhs} parameter(0)
  %b = {rhs} parameter(1)
  ROOT %c = {out} convolution(%a, %b), {attributes}
}}
"""
    return costs(hlo.parse(text)).flops


@pytest.mark.parametrize(
    ("lhs", "rhs", "out", "attributes", "flops"),
    [
        # A plain product, its second operand transposed; a batch of four; one summed over four.
        ("bf16[8,16]", "bf16[32,16]", "f32[8,32]", "dim_labels=bf_oi->bf", 2 * 8 * 16 * 32),
        ("bf16[4,8,6]", "bf16[6,32,1]", "bf16[4,8,32]", "window={size=1}, dim_labels=0bf_io0->0bf", 2 * 4 * 8 * 6 * 32),
        ("bf16[4,8,6]", "bf16[4,8,32]", "f32[6,32,1]", "window={size=4}, dim_labels=0fb_0io->bf0", 2 * 4 * 8 * 6 * 32),
        # Batched products of attention, as a TPU's compiler writes them: heads are spatial, with holes between.
        (
            "bf16[4,8,32,16]", "bf16[4,8,24,16]", "f32[4,8,32,24]",
            "window={size=4x8 stride=3x7 lhs_dilate=4x8}, dim_labels=01bf_01oi->01bf", 2 * 4 * 8 * 32 * 24 * 16,
        ),
        (
            "bf16[4,8,32,24]", "bf16[4,8,24,16]", "bf16[4,8,32,16]",
            "window={size=4x8 stride=4x8 pad=3_3x7_7 lhs_dilate=3x7 rhs_reversal=1x1}, dim_labels=01bf_01io->01bf",
            2 * 4 * 8 * 32 * 24 * 16,
        ),
        # The output's heads one by one, by a window that slides over the kernel's.
        (
            "bf16[4,10,24,1]", "bf16[8,24,16,1]", "bf16[4,10,8,16]",
            "window={size=1x8 pad=0_0x7_7 rhs_reversal=0x1}, dim_labels=0bf1_1io0->0b1f", 2 * 4 * 10 * 8 * 16 * 24,
        ),
    ],
)  # fmt: skip
def test_products_that_are_convolutions(lhs, rhs, out, attributes, flops):
    assert convolution(lhs, rhs, out, attributes) == flops


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("all-reduce", 1.5), ("all-gather", 0.75), ("reduce-scatter", 0.75), ("collective-permute", 1.0)],
)
def test_what_a_chip_of_a_ring_sends(kind, expected):
    assert sent_bytes(kind, 100.0, 4) == 100 * expected


@pytest.mark.parametrize(
    ("groups", "first"),
    [
        ("{{0,1,2,3}}", (0, 1, 2, 3)),
        ("[2,2]<=[4]", (0, 1)),
        ("[2,2]<=[2,2]T(1,0)", (0, 2)),
        ("[4,2]<=[2,2,2]T(2,1,0)", (0, 4)),
        ("mesh['x'=2,'y'=2] {'x'}", (0, 2)),
        ("mesh['x'=2,'y'=2] {'y'}", (0, 1)),
        ("mesh['x'=2,'y'=2] {'x','y'}", (0, 1, 2, 3)),
        ("mesh['a'=6,'b'=6] {'a':(1)2}", (0, 18)),
        ("mesh['a'=6,'b'=6] {'a':(3)2}", (0, 6)),
        ("mesh['a'=6,'b'=6] {'b':(1)3,'a':(1)3}", (0, 12, 24, 2, 14, 26, 4, 16, 28)),
        ("mesh['x'=2,'y'=2], device_ids=(3,1,0,2) {'x'}", (3, 0)),
        ("mesh['x'=2,'y'=4], device_ids=([2,4]T(1,0)) {'x'}", (0, 2)),
    ],
)
def test_groups_in_every_way_of_writing_them(groups, first):
    """Those along axes of a mesh as XLA's own tests of them have it (xla/hlo/ir/replica_group_test.cc)."""
    text = LOOP.replace("replica_groups={{0,2},{1,3}}", f"replica_groups={groups}")
    kinds = {one.kind: one.group for one in costs(hlo.parse(text)).collectives}
    assert kinds["all-reduce"] == first


def test_groups_in_a_way_that_is_not_known_are_no_plan_without_communication():
    text = LOOP.replace("replica_groups={{0,2},{1,3}}", "replica_groups=ring[4]")
    with pytest.raises(ValueError, match=r"groups are written in a way that is not known: .*ring\[4\]"):
        costs(hlo.parse(text))


def test_an_update_in_place_writes_the_update_alone():
    text = """HloModule update

%fused (into: f32[100,8], row: f32[1,8], place: s32[]) -> f32[100,8] {
  %into = f32[100,8]{1,0} parameter(0)
  %row = f32[1,8]{1,0} parameter(1)
  %place = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %updated = f32[100,8]{1,0} dynamic-update-slice(%into, %row, %place, %zero)
}

ENTRY %main (a: f32[100,8], b: f32[1,8], c: s32[]) -> f32[100,8] {
  %a = f32[100,8]{1,0} parameter(0)
  %b = f32[1,8]{1,0} parameter(1)
  %c = s32[] parameter(2)
  ROOT %out = f32[100,8]{1,0} fusion(%a, %b, %c), kind=kLoop, calls=%fused
}
"""
    assert costs(hlo.parse(text)).hbm_bytes == 2 * 8 * 4 + 4  # read, written, and where


def test_a_slice_within_a_fusion_within_a_fusion():
    """As a TPU's compiler slices a stack of layers: in the fusion that multiplies, behind a bitcast."""
    text = """HloModule nested

%slicing (stack.1: f32[16,64], place.1: s32[]) -> f32[8,8] {
  %stack.1 = f32[16,64]{1,0} parameter(0)
  %place.1 = s32[] parameter(1)
  %zero.1 = s32[] constant(0)
  %own.1 = f32[16,8,8]{2,1,0} bitcast(%stack.1)
  %layer.1 = f32[1,8,8]{2,1,0} dynamic-slice(%own.1, %place.1, %zero.1, %zero.1), dynamic_slice_sizes={1,8,8}
  ROOT %flat.1 = f32[8,8]{1,0} bitcast(%layer.1)
}

%fused (x: f32[4,8], stack: f32[16,64], place: s32[]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %stack = f32[16,64]{1,0} parameter(1)
  %place = s32[] parameter(2)
  %layer = f32[8,8]{1,0} fusion(%stack, %place), kind=kLoop, calls=%slicing
  ROOT %y = f32[4,8]{1,0} dot(%x, %layer), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[4,8], b: f32[16,64], c: s32[]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[16,64]{1,0} parameter(1)
  %c = s32[] parameter(2)
  ROOT %out = f32[4,8]{1,0} fusion(%a, %b, %c), kind=kOutput, calls=%fused
}
"""
    x, layer, place = 4 * 8 * 4, 8 * 8 * 4, 4
    assert costs(hlo.parse(text)).hbm_bytes == x + layer + place + x


def test_a_weight_in_another_form_is_read():
    """As a TPU's compiler hands a weight to a product: through a fusion that is a bitcast and nothing else."""
    text = """HloModule form

%form (w.1: f32[8,16]) -> f32[16,8] {
  %w.1 = f32[8,16]{1,0} parameter(0)
  ROOT %turned.1 = f32[16,8]{1,0} bitcast(%w.1)
}

%fused (x: f32[4,16], w: f32[8,16]) -> f32[4,8] {
  %x = f32[4,16]{1,0} parameter(0)
  %w = f32[8,16]{1,0} parameter(1)
  %turned = f32[16,8]{1,0} fusion(%w), kind=kLoop, calls=%form
  ROOT %y = f32[4,8]{1,0} dot(%x, %turned), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[4,16], b: f32[8,16]) -> f32[4,8] {
  %a = f32[4,16]{1,0} parameter(0)
  %b = f32[8,16]{1,0} parameter(1)
  ROOT %out = f32[4,8]{1,0} fusion(%a, %b), kind=kOutput, calls=%fused
}
"""
    assert costs(hlo.parse(text)).hbm_bytes == 4 * (4 * 16 + 8 * 16 + 4 * 8)


def test_a_collective_hidden_behind_a_product_is_one():
    """As a TPU's compiler overlaps them: in the fusion that starts it, one that computes, and one that waits for it."""
    text = """HloModule hidden

%starting (shard.1: f32[2,8]) -> (f32[2,8], f32[8,8]) {
  %shard.1 = f32[2,8]{1,0} parameter(0)
  %gathered.1 = f32[8,8]{1,0} all-gather(%shard.1), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %state.1 = (f32[2,8]{1,0}, f32[8,8]{1,0}) tuple(%shard.1, %gathered.1)
}

%computing (shard.2: f32[2,8], whole.2: f32[8,8], x.2: f32[4,8], w.2: f32[8,8]) -> (f32[4,8], f32[8,8]) {
  %shard.2 = f32[2,8]{1,0} parameter(0)
  %whole.2 = f32[8,8]{1,0} parameter(1)
  %x.2 = f32[4,8]{1,0} parameter(2)
  %w.2 = f32[8,8]{1,0} parameter(3)
  %gathered.2 = f32[8,8]{1,0} all-gather(%shard.2), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}
  %y.2 = f32[4,8]{1,0} dot(%x.2, %w.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %state.2 = (f32[4,8]{1,0}, f32[8,8]{1,0}) tuple(%y.2, %whole.2)
}

ENTRY %main (shard: f32[2,8], x: f32[4,8], w: f32[8,8]) -> f32[4,8] {
  %shard = f32[2,8]{1,0} parameter(0)
  %x = f32[4,8]{1,0} parameter(1)
  %w = f32[8,8]{1,0} parameter(2)
  %start = (f32[2,8]{1,0}, f32[8,8]{1,0}) fusion(%shard), kind=kCustom, calls=%starting
  %held = f32[2,8]{1,0} get-tuple-element(%start), index=0
  %whole = f32[8,8]{1,0} get-tuple-element(%start), index=1
  %both = (f32[4,8]{1,0}, f32[8,8]{1,0}) fusion(%held, %whole, %x, %w), kind=kCustom, calls=%computing
  ROOT %out = f32[4,8]{1,0} get-tuple-element(%both), index=0
}
"""
    measured = costs(hlo.parse(text))
    shard, whole, x = 2 * 8 * 4, 8 * 8 * 4, 4 * 8 * 4
    (gathered,) = measured.collectives
    assert (gathered.count, gathered.payload, gathered.sent) == (1, whole, 0.75 * whole)
    assert measured.hbm_bytes == (shard + whole) + (x + whole + x)  # the gather; the product


SCATTER = """HloModule scattered

%all-reduce-scatter (input.8: f32[14,16]) -> f32[4,16] {
  %input.8 = f32[14,16]{1,0:T(8,128)} parameter(0)
  %zero.1 = f32[] constant(0)
  %pad.1 = f32[16,16]{1,0} pad(%input.8, %zero.1), padding=0_2x0_0
  %all-reduce.1 = f32[16,16]{1,0} all-reduce(%pad.1), channel_id=25, replica_groups={{0,1,2,3}}, to_apply=%region_add
  %shards.1 = u32[4]{0} constant({0, 1, 2, 3})
  %self.1 = u32[] partition-id()
  %own.1 = u32[1]{0} dynamic-slice(%shards.1, %self.1), dynamic_slice_sizes={1}
  %number.1 = u32[] bitcast(%own.1)
  %size.1 = u32[] constant(4)
  %first.1 = u32[] multiply(%number.1, %size.1)
  %column.1 = u32[] constant(0)
  ROOT %part.1 = f32[4,16]{1,0} dynamic-slice(%all-reduce.1, %first.1, %column.1), dynamic_slice_sizes={4,16}
}

ENTRY %main (x: f32[14,16]) -> f32[4,16] {
  %x = f32[14,16]{1,0} parameter(0)
  ROOT %scattered = f32[4,16]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter
}
"""


def test_an_all_reduce_of_which_a_slice_is_kept_is_a_reduce_scatter():
    (scattered,) = costs(hlo.parse(SCATTER)).collectives
    assert scattered.kind == "reduce-scatter" and scattered.payload == 16 * 16 * 4  # the padding is sent too
    assert scattered.sent == 0.75 * scattered.payload
    kept = SCATTER.replace("ROOT %part.1", "%part.1").replace("%all-reduce.1 =", "ROOT %all-reduce.1 =")
    assert costs(hlo.parse(kept)).collectives[0].kind == "all-reduce"


def test_arrays_of_a_shape():
    one, other, number = hlo.arrays_of("(bf16[4,512]{1,0:T(8,128)(2,1)S(1)}, f32[<=3]{0}, pred[])")
    assert (one.dtype, one.dims, one.in_hbm, one.num_bytes) == ("bf16", (4, 512), False, 4096)
    assert (other.dims, other.in_hbm) == ((3,), True)
    assert number.num_bytes == 1 and np.prod(number.dims) == 1
