"""A fit that was frozen, disturbed and restored goes on as if nothing had happened."""

from __future__ import annotations

import random
from collections import Counter, UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torchmetrics
import zoo
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bstuner import BatchSizeFinder
from bstuner.training._lightning import before_optimizers_exist
from bstuner.training.freezing.frozen_fit import FrozenFit, FrozenStart


class Disturber(L.Callback):
    """Freezes the run at one batch, disturbs it, and restores it, twice."""

    def __init__(self, disturb: Callable[[L.Trainer, Any], Any] | None, at: int = 3) -> None:
        self.disturb, self.at, self.frozen = disturb, at, None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.at and self.disturb:
            frozen = FrozenFit(trainer)
            for _ in range(2):
                self.disturb(trainer, pl_module)
                frozen.restore()
            self.at = -1


def _step(trainer: L.Trainer, module: Any) -> None:
    for optimizer in trainer.optimizers:
        optimizer.zero_grad()
    module.loss((torch.randn(4, 64), torch.arange(4))).backward()
    for optimizer in trainer.optimizers:
        optimizer.step()
    for config in trainer.lr_scheduler_configs:
        config.scheduler.step()


def _log_and_count(trainer: L.Trainer, module: Any) -> None:
    module.losses.append(0.0)
    module.seen["sizes"].append(1)
    module.extra = 1


def _settings(trainer: L.Trainer, module: Any) -> None:
    trainer.should_stop = True
    trainer.accumulate_grad_batches = 7
    trainer.callbacks = []
    trainer.limit_train_batches = 0
    trainer.state.status = None
    trainer.strategy.precision_plugin = None


DISTURBANCES: dict[str, Callable[[L.Trainer, Any], Any]] = {
    "a step": _step,
    "what the module notes": _log_and_count,
    "settings of the Trainer": _settings,
    "generators": lambda *_: (torch.rand(1), np.random.rand(1), random.random()),
    "the learning rate": lambda t, _: t.optimizers[0].param_groups[0].update(lr=9.0),
    "other optimizers": lambda t, m: setattr(t.strategy, "optimizers", [torch.optim.SGD(m.parameters(), 9.0)]),
    "another scheduler": lambda t, _: setattr(t.lr_scheduler_configs[0], "scheduler", None),
    "a scheduler's interval": lambda t, _: setattr(t.lr_scheduler_configs[0], "interval", "epoch"),
    "a parameter group": lambda t, _: t.optimizers[0].add_param_group({"params": [nn.Parameter(torch.ones(1))]}),
    "other precision": lambda _, m: m.double(),
    "frozen weights": lambda _, m: m.requires_grad_(False),
    "evaluation mode": lambda _, m: m.eval(),
    "a gradient hook": lambda _, m: m.net[0].weight.register_hook(torch.zeros_like),
    "a forward hook": lambda _, m: m.net[0].register_forward_hook(lambda *args: args[-1] * 0),
    "an optimizer hook": lambda t, _: t.optimizers[0].register_step_post_hook(lambda o, *_: o.state.clear()),
    "loops": lambda t, _: t.fit_loop.epoch_loop.reset(),
    "logged metrics": lambda t, _: t.callback_metrics.clear() or t.fit_loop.epoch_loop._results.clear(),
}


def trained(callback: L.Callback, **kwargs: Any) -> dict[str, Any]:
    L.seed_everything(3, verbose=False)
    module = zoo.Regularised(batch_size=32, length=256)
    trainer = zoo.trainer(callback, **kwargs)
    trainer.fit(module)
    return {
        **{name: value.tolist() for name, value in module.state_dict().items()},
        "losses": module.losses,
        "seen": module.seen,
        "attributes": sorted(vars(module)),
        "metrics": {name: value.item() for name, value in trainer.callback_metrics.items()},
        "lr": trainer.optimizers[0].param_groups[0]["lr"],
        "next random numbers": (torch.rand(1).item(), float(np.random.rand()), random.random()),
    }


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    return trained(Disturber(None))


@pytest.mark.parametrize("name", DISTURBANCES)
def test_a_fit_goes_on_as_if_it_had_not_been_disturbed(name: str, undisturbed: dict[str, Any]) -> None:
    callback = Disturber(DISTURBANCES[name])
    assert trained(callback) == undisturbed
    assert callback.at == -1, "the disturbance took place"


def in_a_fit(module: L.LightningModule, look: Callable[[L.Trainer], Any], **fit: Any) -> L.Trainer:
    """Call `look` in the middle of a fit."""
    done = []

    class Looker(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if not done:
                done.append(look(trainer))

    trainer = zoo.trainer(Looker(), max_epochs=1, limit_train_batches=2, limit_val_batches=0)
    trainer.fit(module, **fit)
    assert done
    return trainer


def test_the_state_of_an_optimizer_over_very_many_parameters_is_restored() -> None:
    class Many(zoo.Mlp):
        def build(self) -> nn.Module:
            self.many = nn.ParameterList([torch.ones(1) for _ in range(10_001)])
            return super().build()

        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch) + torch.cat(list(self.many)).square().sum()

    def look(trainer: L.Trainer) -> None:
        (optimizer,) = trainer.optimizers
        frozen, weights = FrozenFit(trainer), list(trainer.lightning_module.many)
        before = [(w.item(), optimizer.state[w]["exp_avg"].item(), optimizer.state[w]["step"].item()) for w in weights]
        with torch.no_grad():
            torch._foreach_zero_([*weights, *(value for w in weights for value in optimizer.state[w].values())])
        frozen.restore()
        after = [(w.item(), optimizer.state[w]["exp_avg"].item(), optimizer.state[w]["step"].item()) for w in weights]
        assert after == before
        assert after[0][2] == 1

    in_a_fit(Many(), look)


def test_weights_buffers_gradients_and_optimizer_state_are_what_the_frozen_run_holds() -> None:
    def look(trainer: L.Trainer) -> None:
        module, (optimizer,) = trainer.lightning_module, trainer.optimizers
        held = {id(tensor) for tensor in FrozenFit(trainer).tensors}
        expected = [
            *module.parameters(),
            *module.buffers(),
            *(p.grad for p in module.parameters()),
            *(value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)),
        ]
        assert len(expected) > len(list(module.parameters()))
        assert {id(tensor) for tensor in expected} <= held

    in_a_fit(zoo.Regularised(), look)


def test_a_datamodules_state_is_restored_and_what_is_too_large_is_named() -> None:
    data = zoo.Data()
    data.images, data.kept, data.cache = torch.zeros(100_000), torch.zeros(1 << 25), torch.zeros(1 << 25)

    def look(trainer: L.Trainer) -> None:
        frozen = FrozenFit(trainer)
        served, drawn = data.dataset.served, data.dataset.own.bit_generator.state
        data.dataset[0]
        data.hparams.batch_size = 999
        data.images.fill_(1)
        data.cache[1 << 20] = 1
        assert frozen.changed() == [
            "Your code changes Data.cache while it is searched with, and that is too large to be put back: training "
            "finds it as the search left it. Where that matters, do not write to it while bstuner.searching() is true."
        ]
        frozen.restore()
        assert data.dataset.served == served
        assert data.dataset.own.bit_generator.state == drawn
        assert data.hparams.batch_size == 16
        assert not data.images.any()
        assert data.cache[1 << 20] == 1
        assert not any(tensor is data.images for tensor in frozen.tensors)

    in_a_fit(zoo.Bare(), look, datamodule=data)


def test_an_error_while_restoring_is_raised_once_all_else_is_back() -> None:
    def look(trainer: L.Trainer) -> None:
        module = trainer.lightning_module
        module.table = np.zeros(3)
        frozen, weights = FrozenFit(trainer), module.net[0].weight.tolist()
        first = torch.rand(1)
        frozen.restore()
        module.net[0].weight.data.zero_()
        module.table.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            frozen.restore()
        assert module.net[0].weight.tolist() == weights
        assert torch.rand(1) == first

    in_a_fit(zoo.Mlp(), look)


def test_a_start_brings_back_generators_and_attributes_but_not_what_tensors_hold() -> None:
    loader = DataLoader(zoo.Augmented(64), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(1))
    module = zoo.Mlp()

    class Looker(L.Callback):
        def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
            start = FrozenStart(trainer, [loader])
            first = (torch.rand(1), np.random.rand(), random.random(), next(iter(loader))[0].tolist())
            module.extra, loader.extra = 1, 1
            module.losses.append(1.0)
            module.net[0].weight.data.zero_()
            start.restore()
            assert not hasattr(module, "extra")
            assert not hasattr(loader, "extra")
            assert module.losses == []
            assert not module.net[0].weight.any(), "a large tensor is left as it is"
            assert (torch.rand(1), np.random.rand(), random.random(), next(iter(loader))[0].tolist()) == first
            self.looked = True

    looker = Looker()
    zoo.trainer(looker, max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(module, loader)
    assert looker.looked


# ----------------------------------------------------------------------------------- before optimizers exist

STAGES = ["fit", "validate", "test", "predict"]


class Arranger(L.Callback):
    """Arranges an action in `setup`, as the finder does."""

    def __init__(self, cancelled: bool = False, error: Exception | None = None) -> None:
        self.cancelled, self.error, self.calls, self.optimizers = cancelled, error, 0, []

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        def action() -> None:
            self.calls += 1
            self.optimizers.append(len(trainer.optimizers))
            if self.error:
                raise self.error

        self.cancel = before_optimizers_exist(trainer, action)
        if self.cancelled:
            self.cancel()

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        assert trainer.optimizers

    def on_exception(self, *_: Any) -> None:
        self.cancel()


def start(trainer: L.Trainer, stage: str) -> None:
    trainer.strategy.optimizers = []
    getattr(trainer, stage)(zoo.Mlp(), **({"verbose": False} if stage in ("validate", "test") else {}))


def short(*callbacks: L.Callback) -> L.Trainer:
    one = {f"limit_{name}_batches": 1 for name in ("train", "val", "test", "predict")}
    return zoo.trainer(*callbacks, max_epochs=1, **one)


def unharmed(trainer: L.Trainer) -> bool:
    return not {"setup", "setup_optimizers"} & set(vars(trainer.strategy))


@pytest.mark.parametrize("stage", STAGES)
def test_the_action_runs_once_in_each_run_before_there_are_optimizers(stage: str) -> None:
    arranger = Arranger()
    trainer = short(arranger)
    for runs in (1, 2):
        start(trainer, stage)
        assert arranger.calls == runs
        assert unharmed(trainer)
    assert arranger.optimizers == [0, 0]


@pytest.mark.parametrize("stage", STAGES)
def test_a_cancelled_action_never_runs(stage: str) -> None:
    arranger = Arranger(cancelled=True)
    trainer = short(arranger)
    start(trainer, stage)
    assert arranger.calls == 0
    assert unharmed(trainer)


@pytest.mark.parametrize("stage", STAGES)
def test_an_error_in_the_action_leaves_a_trainer_that_can_run_again(stage: str) -> None:
    arranger = Arranger(error=ValueError("mine"))
    trainer = short(arranger)
    with pytest.raises(ValueError, match="mine"):
        start(trainer, stage)
    assert unharmed(trainer)
    arranger.error = None
    start(trainer, stage)
    assert arranger.calls == 2


@pytest.mark.parametrize("stage", STAGES)
def test_an_error_before_the_moment_comes_leaves_a_trainer_that_can_run_again(stage: str) -> None:
    class Failing(L.Callback):
        fails = True

        def setup(self, *_: Any, **__: Any) -> None:
            if self.fails:
                raise ValueError("theirs")

    arranger, failing = Arranger(), Failing()
    trainer = short(arranger, failing)
    with pytest.raises(ValueError, match="theirs"):
        start(trainer, stage)
    assert arranger.calls == 0
    assert unharmed(trainer)
    failing.fails = False
    start(trainer, stage)
    assert arranger.calls == 1


@pytest.mark.parametrize("cancelled", [(), (0,), (1,), (0, 1), (1, 0)])
def test_arrangements_on_top_of_each_other_and_of_someone_elses_do_not_disturb_each_other(
    cancelled: tuple[int, ...],
) -> None:
    trainer, called = short(), []
    trainer.state.fn = "fit"
    strategy = trainer.strategy
    theirs = lambda _: called.append("theirs")  # noqa: E731
    strategy.setup_optimizers = theirs
    cancels = [before_optimizers_exist(trainer, lambda n=n: called.append(n)) for n in (0, 1)]
    for index in cancelled:
        cancels[index]()
    strategy.setup_optimizers(trainer)
    assert sorted(called[:-1]) == [n for n in (0, 1) if n not in cancelled]
    assert called[-1] == "theirs"
    called.clear()
    strategy.setup_optimizers(trainer)
    assert called == ["theirs"]


# --------------------------------------------------------------------------------------------- the whole search


class Untidy(zoo.Mlp):
    """State in every corner where a user may keep it."""

    steps = 0
    history: list[float] = []  # noqa: RUF012  (shared by all instances, as in many a user's model)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        type(self).steps, type(self).history = 0, []
        self.labels, self.plain, self.notes = Counter(), UserDict(n=0), SimpleNamespace(last=None, means=np.zeros(2))
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(10)
        self.register_buffer("total", torch.zeros(()))
        self.factor = torch.ones(1).expand(10)
        self.scale = self.make_scale()

    def make_scale(self) -> Callable[[], float]:
        calls = 0

        def scale() -> float:
            nonlocal calls
            calls += 1
            return 1.0 + 1.0 / calls

        return scale

    def on_fit_start(self) -> None:
        self.net[0].weight.register_hook(lambda grad: grad * 0.5)
        self.net[2].register_forward_hook(lambda module, inputs, output: output * 0.9)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx) * self.scale()
        type(self).steps += 1
        self.history.append(loss.item())
        self.labels.update(batch[1].tolist())
        self.plain["n"] += 1
        self.notes.last, self.notes.means[0] = loss, self.notes.means[0] + 1
        self.total += loss.detach()
        self.accuracy(self.net(batch[0]), batch[1])
        self.log("accuracy", self.accuracy)
        return loss * (1 + 1 / self.steps) + self.total * 0


def test_a_model_with_state_in_every_corner_trains_as_if_there_had_been_no_search() -> None:
    def train(*callbacks: L.Callback, batch_size: int) -> dict[str, Any]:
        L.seed_everything(5, verbose=False)
        module = Untidy(batch_size=batch_size, length=256)
        trainer = zoo.trainer(*callbacks)
        trainer.fit(module)
        return {
            "weights": {name: value.tolist() for name, value in module.state_dict().items()},
            "metrics": {name: value.item() for name, value in trainer.callback_metrics.items()},
            "class": (Untidy.steps, Untidy.history),
            "instance": (module.losses, module.labels, module.plain["n"], module.notes.means.tolist()),
        }

    finder = BatchSizeFinder(max_val=64)
    found = train(finder, batch_size=7)
    assert finder.optimal_batch_size == 64
    assert found == train(batch_size=64)


def test_layers_that_a_callback_thaws_in_a_search_are_frozen_again() -> None:
    class Split(zoo.Regularised):
        def build(self) -> nn.Module:
            self.backbone = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.1))
            return nn.Linear(64, 10)

        def loss(self, batch: Any) -> Tensor:
            return nn.functional.cross_entropy(self.net(self.backbone(batch[0])), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=1e-2)

    def train(*callbacks: L.Callback, batch_size: int) -> dict[str, Any]:
        L.seed_everything(5, verbose=False)
        module = Split(batch_size=batch_size, length=256)
        trainer = zoo.trainer(
            *callbacks, BackboneFinetuning(1, lambda _: 1.0, backbone_initial_ratio_lr=0.1), max_epochs=3
        )
        trainer.fit(module)
        groups = [(group["lr"], len(group["params"])) for group in trainer.optimizers[0].param_groups]
        return {"groups": groups, **{name: value.tolist() for name, value in module.state_dict().items()}}

    found = train(BatchSizeFinder(max_val=64), batch_size=7)
    assert len(found["groups"]) == 2
    assert found == train(batch_size=64)
