"""What is planned before a step is taken is what is trained, and tells what it saves and what capped it."""

from __future__ import annotations

import pickle
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from growing import Grower, halves, steps
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau

from bstuner.core.growth.phases import Phase
from bstuner.core.growth.run_plan import RunPlan
from bstuner.core.growth.settings import GrowthSettings
from bstuner.core.layout import BatchLayout
from bstuner.errors import InvalidSetting, SettingRefused
from bstuner.training.growing.planner import GrowthPlanner


def planned(
    settings: GrowthSettings | None = None, fits: int | None = 10**6, model: Grower | None = None, **trainer: Any
) -> RunPlan:
    """The plan of a fit, made where a callback makes it."""
    found: list[RunPlan] = []

    class Plans(L.Callback):
        def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            before = torch.get_rng_state(), trainer.accumulate_grad_batches, module.trainer.optimizers[0].state_dict()
            found.append(GrowthPlanner(trainer, settings or GrowthSettings()).plan(fits))
            after = torch.get_rng_state(), trainer.accumulate_grad_batches, module.trainer.optimizers[0].state_dict()
            assert torch.equal(before[0], after[0])
            assert before[1:] == after[1:]
            trainer.limit_train_batches = 0

    model = model or Grower(halves(60, 100), length=160, batch_size=4)
    zoo.trainer(Plans(), *trainer.pop("callbacks", []), **{"max_epochs": 4, **trainer}).fit(model)
    return found[0]


def test_a_plan_tells_the_users_run_and_its_own() -> None:
    plan = planned()
    assert plan.phases == (Phase(0, 4), Phase(240, 8, 2.0), Phase(400, 16, 4.0))
    assert (plan.nominal_steps, plan.planned_steps, plan.samples) == (160, 60 + 20 + 15, 640)
    assert plan.layout == BatchLayout(4)
    assert plan.rule == "linear"
    assert plan.samples_per_epoch == 160
    assert plan.capped_by == ""
    taken = list(plan.steps())
    assert len(taken) == plan.planned_steps == plan.steps_before(640)
    assert sum(step.batch_size for step in taken) == 640
    assert [plan.nominal_lr(step.start_sample) * step.lr_factor for step in taken] == [0.1] * len(taken)
    assert plan.steps_before(241) == 61
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_the_rule_is_that_of_the_optimizer() -> None:
    model = Grower(halves(60, 100), length=160, batch_size=4, optimizer=torch.optim.AdamW)
    assert planned(model=model).rule == "sqrt"
    assert planned(GrowthSettings(rule="linear"), model=model).rule == "linear"
    assert planned(GrowthSettings("0:4 80:8"), model=model).rule == "none"


def test_what_capped_the_growth_is_told() -> None:
    cosine = Grower(steps(lambda it: CosineAnnealingLR(it, 160)), length=160, batch_size=4)
    assert planned(model=cosine).capped_by == "a tenth of the 160 samples of an epoch"
    assert planned(GrowthSettings(max_batch_size=8), model=cosine).capped_by == "max_batch_size=8"
    plan = planned(GrowthSettings(max_accumulate=3), fits=4, model=cosine)
    assert plan.capped_by == "memory: 4 samples fit at a time, 3 times per step"
    assert plan.max_batch_size == 12
    assert max(phase.batch_size for phase in plan.phases) == 8


def test_nothing_larger_is_tried_than_a_plan_could_use() -> None:
    found: list[int] = []

    class Looks(L.Callback):
        def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            for text in (None, "0:4 80:24"):
                found.append(GrowthPlanner(trainer, GrowthSettings(text)).most)
            trainer.limit_train_batches = 0

    zoo.trainer(Looks(), max_epochs=4).fit(Grower(halves(60), length=160, batch_size=4))
    assert found == [8, 24], "the learning rate is halved once"


def test_the_users_own_batch_is_never_refused() -> None:
    plan = planned(fits=1)
    assert plan.batches.fits == 4
    assert planned(fits=None) == plan


def test_accumulation_of_the_users_own_is_part_of_the_batch() -> None:
    model = Grower(halves(20, 30), length=160, batch_size=2)
    plan = planned(model=model, accumulate_grad_batches=4)
    assert plan.layout == BatchLayout(2, 4)
    assert plan.nominal_steps == 80
    assert [phase.batch_size for phase in plan.phases] == [8, 16]
    assert {step.micros for step in plan.batches.epoch(3).steps()} == {(16,)}


@pytest.mark.parametrize("max_steps", [61, 99, 101, 103])
def test_the_last_step_ends_where_the_users_last_one_ends(max_steps: int) -> None:
    plan = planned(max_steps=max_steps, max_epochs=-1)
    taken = list(plan.steps())
    assert taken[-1].start_sample + taken[-1].batch_size == 4 * max_steps == plan.samples
    assert len(taken) == plan.planned_steps
    for step in taken:
        assert step.lr_factor == pytest.approx(step.batch_size / 4)


def test_without_a_schedule_nothing_grows() -> None:
    plan = planned(model=Grower(length=160, batch_size=4))
    assert plan.phases == (Phase(0, 4),)
    assert plan.planned_steps == plan.nominal_steps == 160


def test_a_written_plan_needs_no_end() -> None:
    plan = planned(GrowthSettings("0:4 1ep:16"), max_epochs=-1)
    assert (plan.nominal_steps, plan.planned_steps, plan.samples, plan.lrs) == (None, None, None, ())
    steps_of_it = plan.steps()
    assert [next(steps_of_it).batch_size for _ in range(60)] == [4] * 40 + [16] * 20


def test_a_written_plan_too_small_for_the_processes_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="rule"):
        planned(GrowthSettings(rule="none"))
    with pytest.raises(InvalidSetting, match="cannot be read"):
        planned(GrowthSettings("0:4 1ep:16 100:32"))


def test_schedulers_that_wait_and_checkpoints_by_step_are_remarked_upon() -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> Any:
        return {"scheduler": ReduceLROnPlateau(optimizer), "interval": "epoch", "monitor": "val_loss"}

    plan = planned(
        model=Grower(plateau, length=160, batch_size=4),
        callbacks=[ModelCheckpoint(every_n_train_steps=5)],
        enable_checkpointing=True,
    )
    assert plan.waits_for == ("ReduceLROnPlateau",)
    assert "ReduceLROnPlateau waits for a metric" in plan.remarks[0]
    assert "every_n_train_steps=5" in plan.remarks[1]


def test_cuts_make_the_plan_that_a_schedule_of_them_would() -> None:
    plan = planned(model=Grower(length=160, batch_size=4))
    assert plan.with_cuts([]) == plan
    cut = plan.with_cuts([(40, 0.5), (120, 0.1)])
    assert cut.phases == (Phase(0, 4), Phase(160, 8, 2.0), Phase(480, 16, 4.0))
    assert cut.planned_steps == 40 + 40 + 10
    assert plan.with_cuts([(40, 0.5)]).phases == cut.phases[:2]  # later epochs change nothing before them


def test_a_learning_rate_of_nothing_at_all_is_explained() -> None:
    model = Grower(steps(lambda it: LambdaLR(it, lambda step: 0.0)), length=160, batch_size=4)
    with pytest.raises(InvalidSetting, match="above 0 somewhere"):
        planned(model=model)


def test_a_fit_without_end_is_refused() -> None:
    with pytest.raises(SettingRefused, match="neither max_epochs nor max_steps"):
        planned(max_epochs=-1)
