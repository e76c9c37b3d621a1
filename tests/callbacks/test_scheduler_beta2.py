"""Adam's average of squared gradients keeps its length in samples, where it is asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from growing import Grower, fit, halves, scheduler, steps
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import OneCycleLR

from bstuner.errors import InvalidSetting, SettingRefused

LENGTH = 160  # batches of 4, up to 16


class Betas(Grower):
    """Notes the betas that each optimizer step has used, of each group."""

    betas: list[list[tuple[float, float]]]

    def _note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        super()._note(optimizer)
        self.__dict__.setdefault("betas", []).append(
            [tuple(map(float, each["betas"])) for each in optimizer.param_groups]
        )


def growing(schedule: Any = None, optimizer: Any = torch.optim.AdamW, length: int = LENGTH) -> Betas:
    return Betas(schedule or halves(60, 100), length=length, batch_size=4, optimizer=optimizer)


@pytest.mark.parametrize("rule", ["sqrt", "linear"])
def test_the_average_holds_as_many_samples_at_every_batch_size(rule: Any) -> None:
    model, callback = growing(), scheduler(rule=rule, scale_beta2=True)
    trainer = fit(model, callback, epochs=4)
    sizes = [step.batch_size for step in callback.plan.steps()]
    assert set(sizes) == {4, 8, 16}
    for size, betas in zip(sizes, model.betas, strict=True):
        assert betas == [(0.9, pytest.approx(0.999 ** (size / 4), rel=1e-12))] * 2
    assert [group["betas"] for group in trainer.optimizers[0].param_groups] == [(0.9, 0.999)] * 2


def test_without_being_asked_the_betas_stay() -> None:
    model = growing()
    fit(model, scheduler(), epochs=4)
    assert {pair for betas in model.betas for pair in betas} == {(0.9, 0.999)}


def test_until_the_batch_grows_the_run_is_the_users_own_and_from_there_on_it_is_another() -> None:
    def weights(epochs: int, **settings: Any) -> list[torch.Tensor]:
        # 41 batches of 4 and one of 2 in an epoch: a smaller step is the user's own, too.
        model = growing(halves(42, 100), length=LENGTH + 6)
        fit(model, *([scheduler(**settings)] if settings else []), epochs=epochs)
        return list(model.state_dict().values())

    def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
        return all(map(torch.equal, one, other))

    assert same(weights(1), weights(1, scale_beta2=True))
    assert not same(weights(2, scale_beta2=False), weights(2, scale_beta2=True))


def test_a_first_beta_that_the_users_scheduler_cycles_goes_on_cycling() -> None:
    cycle = steps(lambda optimizer: OneCycleLR(optimizer, max_lr=[0.1, 0.02], total_steps=160))
    model, callback = growing(cycle), scheduler(scale_beta2=True)
    fit(model, callback, epochs=4)
    firsts = [betas[0][0] for betas in model.betas]
    assert max(firsts) > 0.94
    assert min(firsts) < 0.86
    sizes = [step.batch_size for step in callback.plan.steps()]
    assert max(sizes) == 16
    assert [betas[0][1] for betas in model.betas] == pytest.approx([0.999 ** (size / 4) for size in sizes], rel=1e-12)


def test_betas_that_are_tensors_stay_tensors() -> None:
    kinds = set()

    class Kinds(Betas):
        def _note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
            super()._note(optimizer)
            kinds.add(type(optimizer.param_groups[0]["betas"][1]))

    def adam(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, betas=(torch.tensor(0.9), torch.tensor(0.999)), foreach=False)

    model = Kinds(halves(60, 100), length=LENGTH, batch_size=4, optimizer=adam)
    fit(model, scheduler(scale_beta2=True), epochs=4)
    assert kinds == {torch.Tensor}
    assert model.betas[-1][0][1] == pytest.approx(0.999**4)


def test_a_checkpoint_holds_the_users_betas_and_the_resumed_run_is_the_unbroken_one(tmp_path: Path) -> None:
    def run(**resumed: Any) -> Betas:
        model = growing()
        saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        fit(model, scheduler(scale_beta2=True), saves, epochs=4, enable_checkpointing=True, **resumed)
        return model

    unbroken = run()
    last = len(unbroken.betas)
    for step in (last - 1, last - 5):
        checkpoint = tmp_path / f"step={step}.ckpt"
        saved = torch.load(checkpoint, weights_only=False)["optimizer_states"][0]["param_groups"]
        assert [tuple(group["betas"]) for group in saved] == [(0.9, 0.999)] * 2
        resumed = run(ckpt_path=checkpoint)
        assert resumed.betas == unbroken.betas[step:]
        assert all(map(torch.equal, resumed.state_dict().values(), unbroken.state_dict().values()))


def test_a_run_is_not_resumed_with_another_choice(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=50, save_top_k=-1)
    fit(growing(), scheduler(), saves, epochs=2, enable_checkpointing=True)
    with pytest.raises(SettingRefused, match="scale_beta2 True instead of False"):
        fit(
            growing(),
            scheduler(scale_beta2=True),
            saves,
            epochs=2,
            enable_checkpointing=True,
            ckpt_path=tmp_path / "step=50.ckpt",
        )


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.RMSprop])
def test_an_optimizer_without_such_an_average_is_refused(optimizer: Any) -> None:
    with pytest.raises(SettingRefused, match=f"scale_beta2: expected an optimizer .* found {optimizer.__name__}"):
        fit(growing(optimizer=optimizer), scheduler(scale_beta2=True))


def test_no_other_value_is_taken_for_a_yes() -> None:
    with pytest.raises(InvalidSetting, match="scale_beta2: expected True or False, found 1"):
        scheduler(scale_beta2=1)
