"""What a user reads of a growth plan."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from plans import CONSTANT, ENDLESS, MANY, PROCESSES, STEPS, STREAM, STREAM_WITHOUT_END, multi_step, planned
from rich.console import Console

from bstuner.core.growth.phases import Phase
from bstuner.core.growth.run_plan import RunPlan
from bstuner.core.growth.spans import schedule_spans, steps_saved
from bstuner.core.layout import BatchLayout
from bstuner.report.terminal.schedule_summary import render_schedule


def lines(plan: RunPlan, width: int = 80) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render_schedule(plan))
    return [line.rstrip() for line in console.export_text().splitlines()]


def facts(plan: RunPlan) -> list[str]:
    return [" ".join(line.split()) for line in lines(plan, width=200)]


def test_the_plan_line_by_line() -> None:
    assert lines(STEPS) == [
        "Yours    batch 16, lr 0.1 at its peak: 12,600 optimizer steps on 200,000 samples",
        "         (200 epochs)",
        "Planned  batch 16 to 64: 6,020 optimizer steps, 52% fewer",
        "Rule     linear: LR / batch size stays that of your own schedule",
        "Capped   at 100 by a tenth of the 1,000 samples of an epoch",
        "   from                   per device        your           your",
        " sample  epoch  batch  x accumulated    lr    lr  steps   steps",
        "      0      0     16         16 x 1   0.1   0.1  3,780   3,780",
        " 60,000     60     64         64 x 1  0.08  0.02  2,240   8,820",
        "200,000    200    end                             6,020  12,600",
    ]


def test_several_processes_and_accumulation() -> None:
    shown = lines(PROCESSES)
    assert "Yours    batch 64 (8 x 2 x 4), lr 4e-4 at its peak: 1,440 optimizer steps on" in shown
    assert "Rule     sqrt: LR / sqrt(batch size) stays that of your own schedule" in shown
    assert "Capped   at 256 by memory: 8 samples fit at a time, 8 times per step" in shown
    assert [" ".join(line.split()) for line in shown[-7:]] == [
        "per device",
        "from x accumulated your your",
        "sample epoch batch x processes lr lr steps steps",
        "0 0 64 8 x 2 x 4 4e-4 4e-4 720 720",
        "46,080 45 128 8 x 4 x 4 2.83e-4 2e-4 120 240",
        "61,440 60 256 8 x 8 x 4 2e-4 1e-4 120 480",
        "92,160 90 end 960 1,440",
    ]
    assert any(line.startswith("Note     ModelCheckpoint(every_n_train_steps=1000)") for line in shown)


@pytest.mark.parametrize("plan", [STEPS, PROCESSES, MANY, ENDLESS, CONSTANT, STREAM, STREAM_WITHOUT_END])
def test_it_fits_into_80_columns(plan: RunPlan) -> None:
    shown = lines(plan)
    assert max(map(len, shown)) <= 80
    assert not any("…" in line for line in shown), "nothing is cut off"


@pytest.mark.parametrize("plan", [STEPS, PROCESSES, MANY, CONSTANT])
def test_the_spans_hold_every_step_once(plan: RunPlan) -> None:
    spans = schedule_spans(plan)
    assert sum(span.steps or 0 for span in spans) == plan.planned_steps == sum(1 for _ in plan.steps())
    assert sum(span.own_steps or 0 for span in spans) == plan.nominal_steps
    starts = [step.start_sample for step in plan.steps()]
    assert all(span.start_sample in starts for span in spans)
    assert spans[0].start_sample == 0


def test_the_learning_rate_of_a_span_is_the_one_that_is_used() -> None:
    used = {step.start_sample: plan_lr(PROCESSES, step) for step in PROCESSES.steps()}
    for span in schedule_spans(PROCESSES):
        assert span.lr == used[span.start_sample]


def plan_lr(plan: RunPlan, step: object) -> float:
    return plan.nominal_lr(step.start_sample) * step.lr_factor  # type: ignore[attr-defined]


def test_many_batch_sizes_are_drawn_together_and_none_is_lost() -> None:
    table = facts(MANY)[6:]
    heading = next(place for place, line in enumerate(table) if line.startswith("sample"))
    rows = [line.split() for line in table[heading + 1 :]]
    assert len(schedule_spans(MANY)) > 60
    assert len(rows) == 13, "and the totals"
    assert rows[0][:5] == ["0", "0", "8", "to", "14"]
    assert rows[-2][4] == "900"
    steps = [int(row[-2].replace(",", "")) for row in rows]
    assert sum(steps[:-1]) == steps[-1] == MANY.planned_steps


def test_what_is_left_for_the_last_step_is_no_batch_size_of_its_own() -> None:
    plan = MANY.ended()
    *_, last = plan.steps()
    assert last.batch_size < 900
    assert last.start_sample + last.batch_size == plan.samples, "the fit ends within an epoch"
    assert schedule_spans(plan)[-1].batch_size == 900


def test_steps_that_wait_for_the_accumulation_are_told() -> None:
    # 3 steps of one micro-batch, then 2 of them at a time: step 4 is still of one.
    lrs = multi_step(20, 0.1, 0.5, 3)
    plan = planned(lrs, samples_per_epoch=160, layout=BatchLayout(8), fits=8, max_batch_size=16)
    assert [step.batch_size for step in plan.steps()][:5] == [8, 8, 8, 8, 16]
    assert [span.aligning for span in schedule_spans(plan)] == [0, 1]
    assert any(line.startswith("Note 1 step is smaller than the table says") for line in facts(plan))
    # The last step of the epoch is smaller as well, but waits for nothing.
    odd = planned(lrs[:19], samples_per_epoch=152, layout=BatchLayout(8), fits=16, max_batch_size=16)
    assert not any(line.startswith("Note") for line in facts(odd))


@pytest.mark.parametrize(
    ("plan", "line"),
    [
        (CONSTANT, "Planned batch 8 throughout: 100 optimizer steps, as many"),
        (CONSTANT, "Capped by nothing: your learning rate does not fall far enough for a larger batch"),
        (CONSTANT, "Yours batch 8, lr 0.1 at its peak: 100 optimizer steps on 800 samples (1 epoch)"),
        (
            replace(CONSTANT, waits_for=("ReduceLROnPlateau",)),
            "Capped by nothing: what a metric will have the learning rate do is not known yet",
        ),
        (replace(STEPS, capped_by=""), "Capped by nothing: the batch grows by all that your learning rate falls"),
        (ENDLESS, "Yours batch 16: a fit without end"),
        (ENDLESS, "Planned batch 16 to 1,000"),
        (ENDLESS, "Rule none: the learning rate stays that of your own schedule"),
        (ENDLESS, "2,158 1.5 48 48 x 1 - - 45 135"),
        (ENDLESS, "4,314 3 1,000 50 x 20 - - - -"),
    ],
)
def test_other_plans(plan: RunPlan, line: str) -> None:
    assert line in facts(plan)


def test_smaller_batches_take_more_steps() -> None:
    shrinking = [Phase(0, 8), Phase(400, 4)]
    plan = planned([0.1] * 100, 800, BatchLayout(8), fits=8, phases=shrinking, rule="none")
    assert steps_saved(plan) == -0.5
    assert "Planned batch 4 to 8: 150 optimizer steps, 50% more" in facts(plan)
    assert not any(line.startswith("Capped") for line in facts(plan)), "the user's own words are no cap"


def test_a_stream_has_no_epochs_and_no_exact_number_of_steps() -> None:
    shown = facts(STREAM)
    assert "Yours batch 8, lr 0.1 at its peak: 1,000 optimizer steps on 8,000 samples" in shown
    (planned_line,) = [line for line in shown if line.startswith("Planned")]
    assert planned_line.startswith("Planned batch 8 to 64: about ")
    assert any(line.startswith("Note The data is a stream: the micro-batch grows only") for line in shown)
    assert "0 - 8 8 x 1 0.1 0.1 500 500" in shown
    assert "5,000 - 64 16 x 4 - - - -" in facts(STREAM_WITHOUT_END)
