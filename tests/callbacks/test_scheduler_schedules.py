"""The user's schedulers, of whatever kind, are stepped where the user's own steps would have stepped them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from growing import Grower, fit, halves, scheduler, steps
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR, ReduceLROnPlateau

from bstuner.errors import SettingRefused

LENGTH = 160  # 40 steps of 4 in an epoch


def growing(schedule: Any, kind: type[Grower] = Grower) -> Grower:
    return kind(schedule, length=LENGTH, batch_size=4)


def noise_is_kept(make: Callable[[], Grower], **settings: Any) -> None:
    """LR / B is at every step that of the fit without growth, at the same sample."""
    plain, model, callback = make(), make(), scheduler()
    settings = {"epochs": 4, **settings}
    fit(plain, **settings)
    fit(model, callback, **settings)
    planned = list(callback.plan.steps())
    assert len(planned) == len(model.lrs) < len(plain.lrs) == 160
    nominal = [plain.lrs[step.start_sample // 4][0] for step in planned]
    assert [lrs[0] * 4 / step.batch_size for lrs, step in zip(model.lrs, planned, strict=True)] == pytest.approx(
        nominal, rel=1e-12
    )


@pytest.mark.parametrize("intervals", [("step", "step"), ("step", "epoch"), ("epoch", "step")])
def test_schedulers_on_one_optimizer_take_turns_as_they_would(intervals: tuple[str, str]) -> None:
    class Two(Grower):
        """Neither scheduler's steps can be put before the other's: the first goes for a floor."""

        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            first = CosineAnnealingLR(optimizer, 160 if intervals[0] == "step" else 4, eta_min=0.01)
            second = ExponentialLR(optimizer, 0.99 if intervals[1] == "step" else 0.7)
            both = zip((first, second), intervals, strict=True)
            return [optimizer], [{"scheduler": one, "interval": interval} for one, interval in both]

    noise_is_kept(lambda: growing(None, Two))


@pytest.mark.parametrize(
    "length",
    [
        lambda trainer: trainer.max_steps,
        lambda trainer: trainer.estimated_stepping_batches,
        lambda trainer: 4 * min(40, trainer.num_training_batches) * trainer.accumulate_grad_batches,
    ],
)
@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_schedule_that_asks_the_trainer_late_hears_of_the_users_own_steps(
    length: Callable[[L.Trainer], int], interval: str
) -> None:
    class Asks(Grower):
        def configure_optimizers(self) -> Any:
            done = 1 if interval == "step" else 40
            self.schedule = steps(
                lambda optimizer: LambdaLR(optimizer, lambda step: max(0.05, 1 - done * step / length(self.trainer))),
                interval,
            )
            return super().configure_optimizers()

    noise_is_kept(lambda: growing(None, Asks), max_steps=160)


def test_a_scheduler_that_has_to_be_told_the_epoch_grows_the_batch_at_epoch_ends() -> None:
    class Told:
        """Of a kind of its own: the module's hook tells it the epoch."""

        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer, self.first = optimizer, [group["lr"] for group in optimizer.param_groups]

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            pass

        def step(self, epoch: int) -> None:
            for group, lr in zip(self.optimizer.param_groups, self.first, strict=True):
                group["lr"] = lr * 0.5**epoch

    class Tells(Grower):
        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            scheduler.step(epoch=self.current_epoch + 1)

    model, callback = growing(steps(Told, "epoch"), Tells), scheduler()
    fit(model, callback, epochs=4)
    assert [set(model.sizes(epoch)) for epoch in range(4)] == [{4}, {8}, {16}, {16}]
    assert callback.plan.waits_for == ("Told",)
    assert [model.lrs[index][0] for index in (0, 40, 60, 70)] == pytest.approx([0.1, 0.1, 0.1, 0.05])


@pytest.mark.parametrize(("frequency", "monitor"), [(20, "val_loss"), (3, "train_loss")])
def test_a_plateau_that_counts_steps_is_asked_after_the_same_samples(frequency: int, monitor: str) -> None:
    class Asked(Grower):
        def __init__(self) -> None:
            super().__init__(steps(ReduceLROnPlateau, frequency=frequency, monitor=monitor), LENGTH, 4)
            self.asked: list[int] = []

        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            self.asked.append(sum(self.sizes()))

    plain, model, callback = Asked(), Asked(), scheduler("0:4 1ep:8 2ep:16")
    fit(plain, epochs=3, val_check_interval=20)
    trainer = fit(model, callback, epochs=3, val_check_interval=20)
    ends = [step.start_sample + step.batch_size for step in callback.plan.steps()]
    expected = [next(end for end in ends if end >= sample) for sample in plain.asked]
    assert model.asked == list(dict.fromkeys(expected))
    assert trainer.lr_scheduler_configs[0].frequency == frequency


def test_a_callback_that_replaces_the_schedule_is_refused() -> None:
    with pytest.raises(SettingRefused, match="Expected no StochasticWeightAveraging"):
        fit(growing(halves(20)), scheduler(), StochasticWeightAveraging(0.05), epochs=2)
