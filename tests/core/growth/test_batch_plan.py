"""Planned batches hold every sample once, fit, and keep to what Lightning's counters allow."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from bstuner.core.growth.batch_plan import BatchPlan, layout_within
from bstuner.core.growth.phases import Phase, phase_at, plan_growth
from bstuner.core.scaling import scale_lr
from bstuner.errors import InvalidSetting

repeatable = settings(max_examples=150, derandomize=True, deadline=None)


@st.composite
def plans(draw: st.DrawFn) -> BatchPlan:
    world, unit = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 1, 2, 5]))
    rule = draw(st.sampled_from(["linear", "sqrt", "none"]))
    first = world * unit * draw(st.integers(1, 12))
    sizes = [first, *draw(st.lists(st.integers(world * unit, 40 * world * unit), max_size=4))]
    spans = draw(st.lists(st.integers(1, 400), min_size=len(sizes) - 1, max_size=len(sizes) - 1))
    phases = [
        Phase(sum(spans[:index]), size, scale_lr(1.0, size, first, rule))  # one per size
        for index, size in enumerate(sizes)
    ]
    fits = draw(st.integers(unit, 14 * unit))
    samples = draw(st.integers(1, 150)) * draw(st.sampled_from([1, unit]))
    return BatchPlan(phases, samples, fits, world, rule, unit)


def grain(plan: BatchPlan) -> int:
    """What the micro-batches of a last step are multiples of."""
    return 1 if plan.samples % plan.unit else plan.unit


def steps_as_lightning_takes_them(plan: BatchPlan, epoch: int) -> list[tuple[dict[int, float], int]]:
    """The gradient of each optimizer step, as the weight of each micro-batch in it, and the micro-batches before it.

    What Lightning 2.6 does: clear where the count before divides by the accumulation, divide the loss by it, step where
    the count after divides, and at the end of the epoch.
    """
    batches = plan.epoch(epoch)
    gradient: dict[int, float] = {}
    taken = []
    for number in range(len(batches)):
        step = batches.step_of(number)
        assert step.first_batch <= number < step.first_batch + len(step.micros)
        accumulation = step.accumulate
        if number % accumulation == 0:
            gradient = {}
        gradient[number] = 1 / accumulation
        if (number + 1) % accumulation == 0 or number + 1 == len(batches):
            taken.append((dict(gradient), number + 1))
    return taken


@repeatable
@given(plan=plans(), epoch=st.integers(0, 4))
def test_every_sample_is_in_one_batch_of_its_epoch(plan: BatchPlan, epoch: int) -> None:
    batches = plan.epoch(epoch)
    sizes = batches.sizes()
    assert sum(sizes) == plan.samples
    assert len(sizes) == len(batches)
    assert all(0 < size <= plan.fits and size % grain(plan) == 0 for size in sizes)

    seen, done = epoch * plan.samples_per_epoch, 0
    for step in batches.steps():
        assert (step.start_sample, step.first_batch) == (seen, done)
        assert step.batch_size == plan.world * sum(step.micros)
        assert list(step.micros) == sizes[done : done + len(step.micros)]
        seen, done = seen + step.batch_size, done + len(step.micros)
    assert (seen, done) == ((epoch + 1) * plan.samples_per_epoch, len(batches))


@repeatable
@given(plan=plans(), epoch=st.integers(0, 4))
def test_lightning_takes_the_planned_steps_and_no_gradient_is_stale_or_lost(plan: BatchPlan, epoch: int) -> None:
    taken = steps_as_lightning_takes_them(plan, epoch)
    planned = list(plan.epoch(epoch).steps())
    assert len(taken) == len(planned) == plan.epoch(epoch).step_count
    for (gradient, end), step in zip(taken, planned, strict=True):
        assert list(gradient) == list(range(step.first_batch, step.first_batch + len(step.micros)))
        assert end == step.first_batch + len(step.micros)
        assert set(gradient.values()) == {1 / step.accumulate}


@repeatable
@given(plan=plans(), epoch=st.integers(0, 4))
def test_all_steps_but_the_last_have_equal_micro_batches(plan: BatchPlan, epoch: int) -> None:
    *full, last = plan.epoch(epoch).steps()
    for step in full:
        assert len(step.micros) == step.accumulate, "the mean of the micro-batches is the mean of the batch"
        assert len(set(step.micros)) == 1
        assert step.micros[0] % plan.unit == 0
    assert max(last.micros) - min(last.micros) <= grain(plan)
    assert len(last.micros) == last.accumulate or set(last.micros) == {grain(plan)}


@repeatable
@given(plan=plans(), epoch=st.integers(0, 4))
def test_a_step_is_what_its_phase_asks_or_waits_for_its_accumulation(plan: BatchPlan, epoch: int) -> None:
    *full, last = plan.epoch(epoch).steps()
    for step in full:
        asked = phase_at(plan.phases, step.start_sample).batch_size // plan.world // plan.unit
        layout = layout_within(asked, plan.fits // plan.unit)
        assert step.micros[0] == layout.micro * plan.unit
        if step.first_batch % layout.accumulate == 0:
            assert step.accumulate == layout.accumulate
        else:
            assert step.accumulate < layout.accumulate
            waiting = -step.first_batch % layout.accumulate
            assert waiting % step.accumulate == 0, "no step passes over the place that is waited for"
    assert last.batch_size <= phase_at(plan.phases, last.start_sample).batch_size


@repeatable
@given(plan=plans(), epoch=st.integers(0, 3), data=st.data())
def test_a_step_ends_where_the_fit_does_and_the_epoch_stays_whole(
    plan: BatchPlan, epoch: int, data: st.DataObject
) -> None:
    end = epoch * plan.samples_per_epoch + plan.world * data.draw(st.integers(1, plan.samples))
    plan = replace(plan, end=end)
    batches = plan.epoch(epoch)
    assert sum(batches.sizes()) == plan.samples
    assert end in {step.start_sample + step.batch_size for step in batches.steps()}
    assert max(batches.sizes()) <= plan.fits
    *full, _ = batches.steps()
    assert all(len(step.micros) == step.accumulate for step in full)
    taken = steps_as_lightning_takes_them(plan, epoch)
    assert [list(gradient) for gradient, _ in taken] == [
        list(range(step.first_batch, step.first_batch + len(step.micros))) for step in batches.steps()
    ]
    assert all(step.batch_size <= phase_at(plan.phases, step.start_sample).batch_size for step in full)
    by_hand = sum(step.start_sample < end for step in batches.steps())
    assert batches.steps_before(end) == by_hand
    assert plan.step_count(6) == sum(plan.epoch(number).step_count for number in range(6))


def test_a_far_end_is_counted_at_once() -> None:
    plan = BatchPlan([Phase(0, 4), Phase(100, 8), Phase(10**15, 16)], samples=40, fits=8)
    assert plan.step_count(10**12) == 10 + 10 + (5 + 3) + 5 * (10**12 - 3)


@repeatable
@given(samples=st.integers(2, 300), size=st.integers(5, 60), fits=st.sampled_from([10, 60]))
def test_a_last_step_that_would_be_too_small_shares_with_the_one_before(samples: int, size: int, fits: int) -> None:
    plan = BatchPlan([Phase(0, size)], samples, fits, least=min(2, samples))
    sizes = plan.epoch(0).sizes()
    assert sum(sizes) == samples
    assert min(sizes) >= 2
    assert plan.epoch(0).step_count == BatchPlan([Phase(0, size)], samples, fits).epoch(0).step_count


@repeatable
@given(
    own=st.integers(1, 8),
    accumulate=st.sampled_from([1, 2, 4]),
    fits=st.integers(1, 20),
    spans=st.lists(st.integers(1, 300), min_size=1, max_size=5),
    samples=st.integers(50, 800),
)
def test_doublings_never_shrink_but_at_the_end_of_an_epoch(
    own: int, accumulate: int, fits: int, spans: list[int], samples: int
) -> None:
    starts = [0, *(sum(spans[: index + 1]) for index in range(len(spans)))]
    phases = [Phase(start, own * accumulate * 2**k, 2.0**k) for k, start in enumerate(starts)]
    plan = BatchPlan(phases, samples, fits * own, unit=own)
    for epoch in range(3):
        *full, _ = plan.epoch(epoch).steps()
        assert [step.batch_size for step in full] == sorted(step.batch_size for step in full)
        assert all(step.batch_size % own == 0 for step in full)


@repeatable
@given(plan=plans(), epoch=st.integers(0, 4))
def test_the_learning_rate_follows_the_size_a_step_really_has(plan: BatchPlan, epoch: int) -> None:
    own = plan.phases[0].batch_size
    for step in plan.epoch(epoch).steps():
        counted = step.batch_size * step.accumulate / len(step.micros)
        phase = phase_at(plan.phases, step.start_sample)
        if plan.rule == "none":
            assert step.lr_factor == 1
        elif counted >= own and phase.batch_size >= own:
            power = {"linear": 1.0, "sqrt": 0.5}[plan.rule]
            assert step.lr_factor == pytest.approx((counted / own) ** power, rel=1e-14)
        else:
            assert step.lr_factor <= 1
        if step.batch_size == phase.batch_size:
            assert step.lr_factor == phase.lr_factor, "to the bit, where it is the planned size"


@repeatable
@given(plan=plans(), epochs=st.integers(0, 5))
def test_the_steps_of_a_run_are_those_of_its_epochs(plan: BatchPlan, epochs: int) -> None:
    assert plan.step_count(epochs) == sum(len(list(plan.epoch(number).steps())) for number in range(epochs))


def test_each_phase_begins_at_the_first_step_at_or_after_its_start() -> None:
    plan = BatchPlan([Phase(0, 32), Phase(100, 64, 2.0), Phase(256, 128, 4.0)], samples=640, fits=128)
    assert [(step.start_sample, step.batch_size) for step in plan.epoch(0).steps()] == [
        *((start, 32) for start in (0, 32, 64, 96)),
        *((start, 64) for start in (128, 192)),
        *((start, 128) for start in (256, 384, 512)),
    ]


def test_the_micro_batch_grows_to_what_fits_and_then_accumulation_takes_over() -> None:
    phases = [Phase(0, 32), Phase(96, 64), Phase(224, 128), Phase(480, 256)]
    plan = BatchPlan(phases, samples=1200, fits=64, rule="none", unit=32)
    assert [(step.start_sample, step.micros) for step in plan.epoch(0).steps()] == [
        *[(start, (32,)) for start in (0, 32, 64)],
        *[(start, (64,)) for start in (96, 160)],
        (224, (64,)),  # after 5 micro-batches no step of 2 can begin
        *[(start, (64, 64)) for start in (288, 416)],
        (544, (64, 64)),  # after 10 none of 4 can
        *[(start, (64, 64, 64, 64)) for start in (672, 928)],
        (1184, (16,)),
    ]


@pytest.mark.parametrize("done", range(1, 40))
def test_a_step_that_must_wait_for_its_accumulation_is_no_larger_than_asked(done: int) -> None:
    """A restart of the learning rate asks for a small batch at once; the step before had another accumulation."""
    plan = BatchPlan([Phase(0, done), Phase(1, 3)], samples=1000, fits=1, rule="none")
    first, *rest = plan.epoch(0).steps()
    assert len(first.micros) == done
    sizes = [step.batch_size for step in rest]
    assert max(sizes) == 3
    assert all(size <= 3 for size in sizes[:3])
    assert sizes[3:-1] == [3] * len(sizes[3:-1])


def test_a_last_step_that_is_a_full_one_is_laid_out_like_all_others() -> None:
    assert BatchPlan([Phase(0, 256)], samples=256, fits=100).epoch(0).sizes() == [64] * 4


def test_a_batch_beyond_the_epoch_is_one_step_of_all_of_it() -> None:
    plan = BatchPlan([Phase(0, 8), Phase(1009, 10**15, 1.25e14)], samples=1009, fits=100)
    (step,) = plan.epoch(1).steps()
    assert (step.batch_size, step.accumulate, set(step.micros)) == (1009, 11, {91, 92})
    assert step.lr_factor == pytest.approx(1009 / 8)


def test_the_last_step_of_an_epoch_takes_what_is_left_whole_in_every_rank() -> None:
    plan = BatchPlan([Phase(0, 1024, 8.0)], samples=1339, fits=256, world=2)
    *_, before, last = plan.epoch(0).steps()
    assert (before.batch_size, before.micros) == (1024, (256, 256))
    assert (last.batch_size, last.micros, last.accumulate) == (630, (158, 157), 2)
    assert last.lr_factor == 8 * 630 / 1024


def test_where_the_end_cannot_have_the_micro_batches_it_needs_each_counts_as_in_a_full_step() -> None:
    """Micro-batches of 5 that fit but once: 3 are left after 4, and no step of 3 can begin there."""
    plan = BatchPlan([Phase(0, 20, 4.0)], samples=35, fits=5, unit=5)
    *_, last = plan.epoch(0).steps()
    assert (last.micros, last.accumulate, last.batch_size) == ((5, 5, 5), 4, 15)
    assert last.lr_factor == 4.0


@repeatable
@given(
    samples=st.integers(30, 3000),
    own=st.integers(1, 30),
    world=st.integers(1, 4),
    rounding=st.sampled_from(["power", "nearest", "integer"]),
    fits=st.integers(1, 8),
)
def test_with_drop_last_an_epoch_leaves_out_what_it_does_without_a_plan(
    samples: int, own: int, world: int, rounding: str, fits: int
) -> None:
    kept = samples - samples % own
    lrs = [1 / (1 + step / 10) for step in range(60)]
    phases = plan_growth(lrs, own * world, max_batch_size=64 * own * world, rounding=rounding)
    plan = BatchPlan(phases, kept, fits * own, world, unit=own)
    for number in range(3):
        assert next(plan.epoch(number).steps()).start_sample == number * kept * world
        sizes = plan.epoch(number).sizes()
        assert sum(sizes) == kept
        assert all(size % own == 0 for size in sizes)


@repeatable
@given(share=st.integers(1, 3000), fits=st.integers(1, 300))
def test_a_share_is_met_exactly_where_a_reasonable_number_of_micro_batches_can(share: int, fits: int) -> None:
    layout = layout_within(share, fits)
    least = math.ceil(share / fits)
    exact = [count for count in range(least, 2 * least + 1) if share % count == 0]
    if exact:
        assert (layout.global_batch_size, layout.accumulate) == (share, exact[0])
    else:
        assert share - least < layout.global_batch_size < share
    assert layout.micro <= fits
    assert layout.micro >= share // (2 * least), "no small micro-batches on a device that holds larger ones"


def test_doublings_of_the_users_own_batch_are_met_exactly() -> None:
    for own in range(1, 129):
        for fits in {own, own + 1, 3 * own // 2, 2 * own - 1, 3 * own, 7 * own // 2}:
            for doublings in range(7):
                assert layout_within(own << doublings, fits).global_batch_size == own << doublings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 0}, "samples: expected a whole number of at least 1, found 0"),
        ({"world": 0}, "world: expected a whole number of at least 1, found 0"),
        ({"fits": 0}, "fits: expected a whole number of at least 1, found 0"),
        ({"unit": 10}, "fits: expected at least unit=10, found 8"),
        ({"unit": 5, "world": 3}, "phases: expected batch sizes of at least 15, 5 for each of 3 processes, found 8"),
        ({"phases": []}, "phases: expected at least one"),
        ({"phases": [Phase(1, 8)]}, "phases: expected a first one that starts at sample 0, found 1"),
        ({"phases": [Phase(0, 8), Phase(0, 9)]}, "phases: expected a start after that of the phase before, 0"),
        ({"phases": [Phase(0, 0)]}, "phases: expected batch sizes that are whole numbers of at least 1"),
        ({"phases": [Phase(0, 8, 0.0)]}, "phases: expected a positive, finite lr_factor"),
    ],
)
def test_refuses_what_makes_no_batch(wrong: dict[str, object], message: str) -> None:
    settings = {"phases": [Phase(0, 8)], "samples": 100, "fits": 8, **wrong}
    with pytest.raises(InvalidSetting) as caught:
        BatchPlan(**settings)
    assert str(caught.value).startswith(message)


def test_a_plan_may_be_revised_at_the_end_of_an_epoch() -> None:
    plan = BatchPlan([Phase(0, 8)], samples=100, fits=64)
    revised = replace(plan, phases=[Phase(0, 8), Phase(200, 16, 2.0)])
    assert revised.epoch(1) == plan.epoch(1)
    assert revised.epoch(2).step_count == math.ceil(100 / 16)
