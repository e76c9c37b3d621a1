"""Canaries: each private attribute of Lightning that we touch still is what we take it for.

A failure here after an upgrade says which line of `bstuner/training/_lightning/` to read again.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities import CombinedLoader
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from bstuner.data.loaders import set_batch_size
from bstuner.training import _lightning


def inside(method: str, look: Any, *args: Any, model: L.LightningModule | None = None, **kwargs: Any) -> L.Trainer:
    """Run a method of a Trainer and look at it when its first batch starts."""

    class Look(L.Callback):
        def __init__(self) -> None:
            prefix = {"fit": "train", "validate": "validation"}.get(method, method)
            setattr(self, f"on_{prefix}_batch_start", lambda trainer, *_: look(trainer))

    trainer = zoo.trainer(Look(), max_epochs=1, num_sanity_val_steps=0, **kwargs)
    getattr(trainer, method)(model or zoo.Mlp(length=32), *args)
    return trainer


def test_data_source_tells_hooks_from_passed_loaders_and_returns_them() -> None:
    loader = DataLoader(zoo.Vectors(32), batch_size=8)
    seen: list[Any] = []

    def look(trainer: L.Trainer) -> None:
        seen.append(_lightning.loaders_come_from_hooks(trainer, "train"))
        seen.append(_lightning.request_loaders(trainer, "train"))
        seen.append(_lightning.request_loaders(trainer, "val").batch_size)

    inside("fit", look, limit_train_batches=1)
    assert (seen[0], seen[1].batch_size, seen[2]) == (True, 16, 16)
    seen.clear()
    inside("fit", look, loader, DataLoader(zoo.Vectors(8), batch_size=4), model=zoo.Bare(), limit_train_batches=1)
    assert seen == [False, loader, 4]


@pytest.mark.parametrize("stage", list(_lightning.EVALUATION_LOOPS))
def test_evaluation_loops_have_a_data_source_too(stage: str) -> None:
    seen: list[Any] = []
    inside(stage, lambda trainer: seen.append(_lightning.request_loaders(trainer, stage).batch_size))
    assert seen[0] == 16


def test_a_fresh_fit_loop_trains_and_validates_on_our_batches_while_the_users_stays_aside() -> None:
    model = zoo.Mlp(length=32)
    trainer = inside("fit", lambda _: None, model=model)
    users, connector, steps = trainer.fit_loop, trainer._logger_connector, trainer.global_step
    batches = DataLoader(zoo.Vectors(12), batch_size=3)
    trainer.strategy.setup_optimizers(trainer)
    trainer.state.fn, trainer.training = "fit", True  # type: ignore[assignment]
    model.losses.clear()
    _lightning.install_fit_loop(trainer, batches, [batches], epoch=5, length=9)
    assert trainer.fit_loop is not users
    assert trainer._logger_connector is not connector
    assert isinstance(trainer.profiler, PassThroughProfiler)
    assert trainer._val_check_time_interval is None
    assert trainer.current_epoch == 5
    trainer.fit_loop.run()
    assert len(model.losses) == 4
    assert (users.epoch_loop.global_step, trainer.global_step) == (steps, 4)


def test_a_trial_loop_trains_and_validates_on_the_users_loaders_while_the_users_loop_stays_aside() -> None:
    train, val = DataLoader(zoo.Vectors(24), batch_size=8), DataLoader(zoo.Vectors(8), batch_size=4)
    model = zoo.Bare()
    trainer = zoo.trainer(max_epochs=2, min_epochs=1, num_sanity_val_steps=0)
    trainer.fit(model, train, val)
    users, connector, steps = trainer.fit_loop, trainer._logger_connector, trainer.global_step
    trainer.strategy.setup_optimizers(trainer)
    trainer.state.fn, trainer.training = "fit", True  # type: ignore[assignment]
    model.losses.clear()
    _lightning.install_trial_loop(trainer)
    assert trainer.fit_loop is not users
    assert trainer._logger_connector is not connector
    assert isinstance(trainer.profiler, PassThroughProfiler)
    limits = ("max_epochs", "min_epochs", "max_steps", "min_steps")
    assert [getattr(trainer, limit) for limit in limits] == [getattr(users, limit) for limit in limits]
    assert _lightning.request_loaders(trainer, "train") is train
    assert _lightning.request_loaders(trainer, "val") is val
    trainer.fit_loop.run()
    assert len(model.losses) == 2 * 3
    assert (steps, users.epoch_loop.global_step, trainer.global_step) == (6, 6, 6)


def test_step_limits_are_those_of_the_trainer() -> None:
    trainer = zoo.trainer(max_steps=9, min_steps=3, max_epochs=-1)
    _lightning.set_step_limits(trainer, 5, None)
    assert (trainer.max_steps, trainer.min_steps, trainer.fit_loop.max_steps) == (5, None, 5)
    trainer.fit(zoo.Mlp(length=32))
    assert trainer.global_step == 5


def test_forgotten_loaders_are_requested_again() -> None:
    requested: list[int] = []

    class Watched(zoo.Mlp):
        def train_dataloader(self) -> DataLoader:
            requested.append(self.batch_size)
            return super().train_dataloader()

    def look(trainer: L.Trainer) -> None:
        trainer.lightning_module.batch_size = 8
        trainer.fit_loop.setup_data()
        assert len(requested) == 1, "set up once, Lightning keeps its loaders"
        _lightning.forget_loaders(trainer)
        assert trainer.fit_loop.epoch_loop.val_loop._combined_loader is None
        trainer.fit_loop.setup_data()

    inside("fit", look, model=Watched(length=16))
    assert requested == [16, 8]


@pytest.mark.parametrize("stage", list(_lightning.EVALUATION_LOOPS))
def test_a_restarted_evaluation_runs_on_the_new_loaders(stage: str) -> None:
    sizes: list[int] = []

    class Watched(zoo.Mlp):
        def loss(self, batch: Any) -> Any:
            sizes.append(len(batch[0]))
            return super().loss(batch)

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(batch)

    class Restart(L.Callback):
        def restart(self, trainer: L.Trainer, module: Any) -> None:
            module.batch_size = 32
            _lightning.restart_evaluation(trainer, stage)

        on_validation_start = on_test_start = on_predict_start = restart

    trainer = zoo.trainer(Restart())
    getattr(trainer, stage)(Watched())
    assert sizes == [32, 32]


def test_a_fresh_evaluation_loop_is_of_the_same_stage_and_mode() -> None:
    for stage, name in _lightning.EVALUATION_LOOPS.items():
        trainer = zoo.trainer(inference_mode=False)
        users = getattr(trainer, name)
        loop = _lightning.install_evaluation_loop(trainer, stage, [[1]])
        assert getattr(trainer, name) is loop is not users
        assert type(loop) is type(users)
        assert loop.inference_mode is False
        assert getattr(loop, "_stage", None) == getattr(users, "_stage", None)


def test_a_run_that_ends_early_ends_cleanly() -> None:
    class End(L.Callback):
        def on_fit_start(self, trainer: L.Trainer, *_: Any) -> None:
            _lightning.end_run_early(trainer)

    model = zoo.Mlp()
    trainer = zoo.trainer(End())
    trainer.fit(model)
    assert (model.losses, trainer.state.status) == ([], "finished")


@pytest.mark.parametrize(("role", "name"), [("train", "train_dataloader"), ("val", "val_dataloader")])
def test_the_hook_of_a_role_is_told_with_its_owner(role: str, name: str) -> None:
    model, seen = zoo.Mlp(length=32), []
    inside("fit", lambda trainer: seen.append(_lightning.hook_of(trainer, role)), model=model, limit_train_batches=1)
    assert seen == [(model, name)]


def test_an_error_in_a_hook_leaves_the_classes_of_torch_as_they_are() -> None:
    class Broken(zoo.Mlp):
        def test_dataloader(self) -> Any:
            raise KeyError("mine")

    trainer, before = zoo.trainer(), DataLoader.__init__
    trainer.test_loop._data_source.instance = Broken()
    trainer.test_loop._data_source.instance.trainer = trainer
    trainer.test_loop._data_source.name = "test_dataloader"
    with pytest.raises(KeyError, match="mine"):
        _lightning.request_loaders(trainer, "test")
    assert DataLoader.__init__ is before


def test_a_loader_that_is_rebuilt_around_another_sampler_keeps_the_size_set_in_place() -> None:
    sizes = []

    def look(trainer: L.Trainer) -> None:
        loader = _lightning.request_loaders(trainer, "predict")
        sizes.append(_lightning.prepared_loader(trainer, "predict", loader).batch_sampler.batch_size)
        set_batch_size(loader, 5)
        _lightning.resize_when_rebuilt(loader, 4)
        _lightning.resize_when_rebuilt(loader, 5)
        rebuilt = _lightning.prepared_loader(trainer, "predict", loader)
        assert rebuilt is not loader
        sizes.extend(len(batch[0]) for batch in rebuilt)

    inside("predict", look, limit_predict_batches=1)
    assert sizes == [16, *(12 * [5]), 4], "the last one is what is left of 64"


def test_a_combined_loader_tells_how_it_combines() -> None:
    for mode in ("min_size", "max_size", "max_size_cycle", "sequential"):
        assert _lightning.combination_mode(CombinedLoader([[1]], mode)) == mode


def test_a_communication_hook_counts_where_lightning_registers_it() -> None:
    def strategy(device: str, **kwargs: Any) -> DDPStrategy:
        made = DDPStrategy(parallel_devices=[torch.device(device, 0)], **kwargs)
        made.cluster_environment = LightningEnvironment()
        return made

    assert _lightning.has_communication_hook(strategy("cuda", ddp_comm_hook=print))
    assert not _lightning.has_communication_hook(strategy("cuda"))
    assert not _lightning.has_communication_hook(strategy("cpu", ddp_comm_hook=print))


def test_an_epoch_that_begins_anew_tells_the_epoch_to_samplers() -> None:
    told: list[int] = []

    class Sampler(torch.utils.data.SequentialSampler):
        def set_epoch(self, epoch: int) -> None:
            told.append(epoch)

    class Model(zoo.Mlp):
        def train_dataloader(self) -> DataLoader:
            data = zoo.Vectors(32)
            return DataLoader(data, batch_size=self.batch_size, sampler=Sampler(data))

        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                told.clear()
                self.batch_size = 8
                _lightning.begin_epoch_anew(self.trainer)
                assert told == [1]

    model = Model(batch_size=16)
    zoo.trainer(max_epochs=2).fit(model)
    assert len(model.losses) == 2 + 4


def test_processes_that_lightning_spawns_are_told_from_others() -> None:
    assert not _lightning.spawns_processes(zoo.trainer())
    assert not _lightning.spawns_processes(zoo.trainer(strategy="ddp", devices=2))
    assert _lightning.spawns_processes(zoo.trainer(strategy="ddp_spawn", devices=2))


def test_a_shadowed_scheduler_stays_where_it_is() -> None:
    module = zoo.Regularised()
    trainer = zoo.trainer(max_epochs=1)
    _lightning.shadow_scheduler_step(module)
    trainer.fit(module)
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 0
    del vars(module)["lr_scheduler_step"]
    zoo.trainer(max_epochs=1).fit(module)
    assert module.trainer.lr_scheduler_configs[0].scheduler.last_epoch == 32


def test_checkpoints_tell_their_steps() -> None:
    trainer = zoo.trainer(
        ModelCheckpoint(every_n_train_steps=7), ModelCheckpoint(monitor="x"), enable_checkpointing=True
    )
    assert _lightning.checkpoint_steps(trainer) == [7]
    _lightning.set_checkpoint_steps(trainer, [3])
    assert _lightning.checkpoint_steps(trainer) == [3]
    trainer.callbacks.clear()
    _lightning.set_checkpoint_steps(trainer, [4])


def test_a_checkpoint_is_written_after_the_steps_that_were_set(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=7, save_top_k=-1, filename="{step}")
    trainer = zoo.trainer(saver, max_steps=6, max_epochs=-1, enable_checkpointing=True)
    _lightning.set_checkpoint_steps(trainer, [3])
    trainer.fit(zoo.Mlp(length=64))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step=3.ckpt", "step=6.ckpt"]


def test_a_trainer_that_spawns_can_run_in_the_process_it_is_in() -> None:
    model, trainer = zoo.Mlp(), zoo.trainer(strategy="ddp_spawn", devices=1, max_epochs=1)
    assert _lightning.spawns_processes(trainer)
    assert trainer.strategy.launcher._already_fit is False
    _lightning.leave_launcher(trainer)
    assert not _lightning.spawns_processes(trainer)
    assert trainer.strategy.launcher is None
    assert model.losses == []


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A launcher that starts processes by running the script again, and what it would start."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "argv", ["train.py", "--epochs", "3"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # as in a script that runs by its path
    commands: list[Any] = []
    monkeypatch.setattr(subprocess_script.subprocess, "Popen", lambda command, **kwargs: commands.append(command))
    launcher = subprocess_script._SubprocessScriptLauncher(LightningEnvironment(), num_processes=2, num_nodes=1)
    return SimpleNamespace(it=launcher, commands=commands)


def test_processes_of_other_ranks_are_started_by_our_command(launcher: Any) -> None:
    with _lightning.processes_started_with(["python", "-m", "bstuner", "find", "/here/train.py"]):
        launcher.it._call_children_scripts()
    assert launcher.commands == [["python", "-m", "bstuner", "find", "/here/train.py", "--epochs", "3"]]
    assert subprocess_script._basic_subprocess_cmd()[-2:] == ["--epochs", "3"]
    assert "bstuner" not in subprocess_script._basic_subprocess_cmd()


def test_and_so_are_those_of_a_hydra_application(monkeypatch: pytest.MonkeyPatch) -> None:
    def hydra(local_rank: int) -> tuple[list[str], str]:
        return [sys.executable, "/here/train.py", "size=3", f"hydra.job.name=train_ddp_process_{local_rank}"], "/there"

    monkeypatch.setattr(subprocess_script, "_hydra_subprocess_cmd", hydra)
    with _lightning.processes_started_with(["bstuner", "find", "/here/train.py"]):
        command, folder = subprocess_script._hydra_subprocess_cmd(local_rank=1)
    assert command == ["bstuner", "find", "/here/train.py", "size=3", "hydra.job.name=train_ddp_process_1"]
    assert folder == "/there"


def test_lightnings_observer_lets_go_of_processes_that_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = subprocess_script._SubprocessScriptLauncher(LightningEnvironment(), num_processes=2, num_nodes=1)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    monkeypatch.setattr(launcher, "_call_children_scripts", lambda: launcher.procs.append(process))
    observed: list[Any] = []
    monkeypatch.setattr(subprocess_script, "_launch_process_observer", observed.append)
    monkeypatch.setattr(subprocess_script, "_set_num_threads_if_needed", lambda **_: None)
    launcher.launch(lambda: None)
    assert observed[0] is launcher.procs, "the observer reads the launcher's own list"
    _lightning.end_processes(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher)), patience=0)
    assert process.returncode is not None
    assert observed[0] == []


def test_no_other_module_touches_private_attributes_of_lightning() -> None:
    private = re.compile(
        r"(trainer|fit_loop|epoch_loop|val_loop|strategy|loop|callback|connector)\._[a-z]|import _[A-Z]\w*"
    )
    package = Path(_lightning.__file__).parents[2]
    found = [
        f"{path.relative_to(package)}:{number}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        if path.parent.name != "_lightning"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if private.search(line) and "torch" not in line and "self._trainer." not in line
    ]
    assert found == []


def test_a_substituted_source_is_what_the_fit_trains_on() -> None:
    other = DataLoader(zoo.Vectors(24), batch_size=8)
    seen: list[Any] = []

    class Substitutes(L.Callback):
        def on_fit_start(self, trainer: L.Trainer, *_: Any) -> None:
            self.take_back = _lightning.substitute_train_loaders(
                trainer, lambda loaders: seen.append(loaders()) or other
            )

        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            assert trainer.train_dataloader is other
            assert _lightning.loaders_come_from_hooks(trainer, "train")

    callback = Substitutes()
    trainer = zoo.trainer(callback, max_epochs=1)
    trainer.fit(zoo.Mlp(length=32))
    assert trainer.global_step == 3
    assert seen[0] is not other
    callback.take_back()
    trainer.callbacks = []
    trainer.fit_loop.max_epochs = 2
    trainer.fit(zoo.Mlp(length=32))
    assert trainer.global_step == 3 + 2


def test_the_length_of_an_epoch_is_what_ends_it_and_what_is_told() -> None:
    class Shortens(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.current_epoch == 1:
                _lightning.set_epoch_length(trainer, 3)
                assert trainer.num_training_batches == 3

    trainer = zoo.trainer(Shortens(), max_epochs=2)
    trainer.fit(zoo.Mlp(batch_size=8, length=64))
    assert trainer.global_step == 8 + 3


def test_when_loaders_were_last_made_decides_when_they_are_made_anew() -> None:
    class Made(zoo.Mlp):
        def train_dataloader(self) -> DataLoader:
            zoo.NOTES.append(self.trainer.current_epoch)
            return super().train_dataloader()

        def on_train_start(self) -> None:
            assert _lightning.last_reload(self.trainer) == 0
            _lightning.set_last_reload(self.trainer, -1)

    zoo.trainer(max_epochs=4, reload_dataloaders_every_n_epochs=2).fit(Made(length=32))
    assert zoo.NOTES == [0, 1, 3]


def test_validation_by_the_clock_is_told_from_that_by_batches() -> None:
    assert _lightning.validates_by_time(zoo.trainer(val_check_interval="00:00:10:00"))
    assert not _lightning.validates_by_time(zoo.trainer(val_check_interval=0.5))


def test_the_step_of_the_loggers_counts_optimizer_steps() -> None:
    seen: list[int] = []
    inside("fit", lambda trainer: seen.append(_lightning.log_step(trainer)), accumulate_grad_batches=2)
    assert seen == [0, 0]
    seen.clear()
    inside("fit", lambda trainer: seen.append(_lightning.log_step(trainer)), model=zoo.Mlp(batch_size=8, length=32))
    assert seen == [0, 1, 2, 3]


def test_a_hidden_scheduler_step_is_called_in_the_place_of_the_modules() -> None:
    model, calls = zoo.Mlp(length=32), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    configuration = {"scheduler": scheduler, "interval": "step"}
    model.configure_optimizers = lambda: {"optimizer": optimizer, "lr_scheduler": configuration}
    take_back = _lightning.hide_scheduler_step(model, lambda *given: calls.append(given))
    zoo.trainer(max_epochs=1).fit(model)
    assert calls == [(scheduler, None)] * 2
    assert scheduler.last_epoch == 0
    take_back()
    assert "lr_scheduler_step" not in vars(model)


def test_restored_metrics_are_those_of_the_trainer() -> None:
    def look(trainer: L.Trainer) -> None:
        _lightning.restore_metrics(trainer, {"kept": torch.tensor(3.0)})
        assert trainer.callback_metrics["kept"] == 3.0

    inside("fit", look)


def test_a_resumed_fit_has_the_restart_attributes_that_are_set() -> None:
    """What they do is asserted where fits are resumed from every step; here, that they are there at all."""
    seen: list[bool] = []

    def look(trainer: L.Trainer) -> None:
        loop, inner = trainer.fit_loop, trainer.fit_loop.epoch_loop
        for each in (loop, inner, inner.val_loop):
            assert isinstance(each._restarting, bool)
            each.reset_restart_stage()
        assert isinstance(loop._resuming_from_checkpoint, bool)
        assert hasattr(inner.val_loop, "_restart_stage")
        assert inner.restarted_on_train_batch_end is False
        assert callable(inner.update_lr_schedulers)
        seen.append(True)

    inside("fit", look)
    assert seen


def test_the_checkpoint_of_a_fit_is_known_before_lightning_restores_it(tmp_path: Path) -> None:
    """With a strategy that restores after `on_fit_start`, in a folder as it saves them."""

    class Late(SingleDeviceStrategy):
        @property
        def restore_checkpoint_after_setup(self) -> bool:
            return True

        def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
            return super().load_checkpoint(Path(checkpoint_path) / "meta.pt", weights_only)

    class Look(L.Callback):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.seen.append(_lightning.checkpoint_to_resume(trainer))
            self.seen.append(_lightning.state_to_come(trainer, self))

        def state_dict(self) -> dict[str, Any]:
            return {"kept": torch.ones(1)}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.seen.append("restored")

    (tmp_path / "one").mkdir()
    saved, looks = tmp_path / "one" / "meta.pt", [Look(), Look(), Look()]
    trainer = zoo.trainer(looks[0], max_epochs=1)
    trainer.fit(zoo.Mlp(length=32))
    trainer.save_checkpoint(saved)
    assert looks[0].seen == [None, {}], "a fit from its beginning"
    late = zoo.trainer(looks[1], max_epochs=2, strategy=Late("cpu"))
    late.fit(zoo.Mlp(length=32), ckpt_path=str(saved.parent))
    assert looks[1].seen == [str(saved.parent), {"kept": torch.ones(1)}, "restored"]
    late.fit_loop.max_epochs = 3
    late.fit(zoo.Mlp(length=32))
    assert looks[1].seen[3:] == [None, {}], "not that of the fit before"
    zoo.trainer(looks[2], max_epochs=2).fit(zoo.Mlp(length=32), ckpt_path=str(saved))
    assert looks[2].seen == ["restored", str(saved), {}], "in time, by Lightning itself"


def test_whether_a_run_validates_is_told_as_lightning_tells_it() -> None:
    seen: list[bool] = []
    inside("fit", lambda trainer: seen.append(_lightning.validates(trainer)), limit_train_batches=1)
    inside(
        "fit", lambda trainer: seen.append(_lightning.validates(trainer)), limit_train_batches=1, limit_val_batches=0
    )
    assert seen == [True, False]


def test_validation_comes_after_the_batches_that_were_set_and_not_before() -> None:
    validated: list[int] = []

    class Sets(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
            assert _lightning.batch_of_fit(trainer) == trainer.current_epoch * 4 + index
            _lightning.validate_every(trainer, index + 1 if index == 1 else None)

        def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
            validated.append(trainer.global_step)

    zoo.trainer(Sets(), max_epochs=2, num_sanity_val_steps=0).fit(zoo.Mlp(length=64))
    assert validated == [2, 6]


def test_a_validation_out_of_turn_runs_on_the_validation_data_of_the_fit() -> None:
    model = zoo.Mlp(length=32)
    counted: list[int] = []

    class Counts(L.Callback):
        def on_validation_batch_end(self, *_: Any) -> None:
            counted.append(1)

        def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
            before = len(counted)
            _lightning.run_validation(trainer)
            assert len(counted) == 2 * before
            trainer.training = True

    zoo.trainer(Counts(), max_epochs=1, num_sanity_val_steps=0).fit(model)
    assert counted


def test_muted_loggers_swallow_whatever_is_asked_of_them(tmp_path: Path) -> None:
    trainer = zoo.trainer(logger=CSVLogger(tmp_path))
    users = trainer.loggers
    _lightning.mute_loggers(trainer)
    assert trainer.loggers != users
    trainer.logger.log_image("a", images=[])  # type: ignore[union-attr]
    bare = zoo.trainer()
    _lightning.mute_loggers(bare)
    assert bare.loggers == []


def test_the_fit_loop_of_a_probe_is_another_one_than_the_users() -> None:
    trainer = inside("fit", lambda _: None)
    users = _lightning.current_fit_loop(trainer)
    trainer.strategy.setup_optimizers(trainer)
    trainer.state.fn = "fit"  # type: ignore[assignment]
    model = trainer.lightning_module
    model.losses.clear()
    batches = DataLoader(zoo.Vectors(12), batch_size=3)
    _lightning.install_fit_loop(trainer, batches, [batches], epoch=0, length=9)
    assert _lightning.current_fit_loop(trainer) is not users
    _lightning.run_fit_loop(trainer)
    assert len(model.losses) == 4


@pytest.mark.parametrize("stage", list(_lightning.EVALUATION_LOOPS))
def test_the_evaluation_loop_that_runs_is_the_one_that_was_installed(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, ran = inside(stage, lambda _: None), []
    loop = _lightning.install_evaluation_loop(trainer, stage, CombinedLoader([DataLoader(zoo.Vectors(12))]))
    monkeypatch.setattr(type(loop), "run", lambda loop: ran.append(loop))
    _lightning.run_evaluation_loop(trainer, stage)
    assert ran == [loop]


def test_attributes_are_found_and_written_wherever_lightning_looks() -> None:
    class Holds(L.LightningModule):
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.lr = lr

    module = Holds()
    assert _lightning.lightning_hasattr(module, "lr")
    assert not _lightning.lightning_hasattr(module, "rate")
    _lightning.lightning_setattr(module, "lr", 0.2)
    assert (module.lr, module.hparams["lr"], _lightning.lightning_getattr(module, "lr")) == (0.2, 0.2, 0.2)


def test_a_hook_that_the_user_has_written_is_told_from_others() -> None:
    assert _lightning.is_overridden("train_dataloader", zoo.Mlp())
    assert not _lightning.is_overridden("lr_scheduler_step", zoo.Mlp())


def test_the_samples_of_a_batch_are_counted_as_lightning_counts_them() -> None:
    trainer = zoo.trainer()
    assert _lightning.extract_batch_size(trainer, [torch.zeros(5, 2)]) == 5
    assert _lightning.batch_size_or_none(trainer, (torch.zeros(3), torch.zeros(3, 2))) == 3
    assert _lightning.batch_size_or_none(trainer, 7) is None
    with pytest.raises(Exception, match="could not infer"):
        _lightning.extract_batch_size(trainer, 7)


def test_a_module_that_was_passed_compiled_is_known() -> None:
    from lightning.pytorch.utilities.compile import from_compiled

    module = zoo.Mlp()
    assert not _lightning.is_compiled_by_lightning(module)
    assert _lightning.is_compiled_by_lightning(from_compiled(torch.compile(module, backend="eager")))


def test_processes_with_samples_of_their_own_are_counted() -> None:
    assert _lightning.replicas(zoo.trainer()) == 1
    assert _lightning.replicas(zoo.trainer(strategy=DDPStrategy(), devices=2)) == 2


def test_the_wrapper_of_ddp_is_taken_off_and_put_on(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = zoo.trainer(strategy=DDPStrategy(), devices=2)
    assert _lightning.has_known_strategy(trainer)
    module, wrapper = torch.nn.Linear(1, 1), DistributedDataParallel.__new__(DistributedDataParallel)
    torch.nn.Module.__init__(wrapper)
    wrapper.module = module
    trainer.strategy.model = wrapper
    assert _lightning.ddp_wrapper(trainer) is wrapper
    _lightning.unwrap(trainer)
    assert trainer.strategy.model is module
    assert _lightning.ddp_wrapper(trainer) is None
    wrapped: list[Any] = []
    monkeypatch.setattr(DDPStrategy, "configure_ddp", lambda strategy: wrapped.append(strategy))
    _lightning.wrap(trainer)
    assert wrapped == [], "only a fit is wrapped"
    trainer.state.fn = "fit"  # type: ignore[assignment]
    _lightning.wrap(trainer)
    assert wrapped == [trainer.strategy]


def test_optimizers_are_made_anew_by_the_users_code() -> None:
    trainer = inside("fit", lambda _: None)
    before = trainer.optimizers
    _lightning.make_optimizers(trainer)
    assert [type(each) for each in trainer.optimizers] == [type(each) for each in before]
    assert all(one is not other for one, other in zip(trainer.optimizers, before, strict=True))


# Of Lightning's, without an underscore, but in no documentation: they move between releases too.
UNDOCUMENTED = {
    *("fit_loop", "epoch_loop", "val_loop", "validate_loop", "test_loop", "predict_loop", "total_batch_idx"),
    *("val_check_batch", "enable_validation", "setup_optimizers", "configure_ddp", "distributed_sampler_kwargs"),
    *("launcher", "restore_checkpoint_after_setup", "procs", "max_batches", "setup_data", "update_lr_schedulers"),
    *("DummyLogger", "rank_zero_module", "PassThroughProfiler", "RunningStage", "RestartStage", "_compiler_ctx"),
}


def internals_in(source: str) -> list[str]:
    nodes = ast.walk(ast.parse(source))
    return [node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr in UNDOCUMENTED]


def test_no_other_module_touches_what_lightning_does_not_document() -> None:
    package = Path(_lightning.__file__).parents[2]
    found = [
        f"{path.relative_to(package)}: {name}"
        for path in sorted(package.rglob("*.py"))
        if path.parent.name != "_lightning"
        for name in internals_in(path.read_text())
    ]
    assert found == []
    assert internals_in("trainer.fit_loop.run()") == ["fit_loop"]


def test_hooks_see_the_length_and_the_loaders_of_the_fit_in_the_loop_of_a_probe() -> None:
    seen: list[Any] = []

    class Looks(Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            _lightning.show_loaders(trainer, "train", CombinedLoader([users]))
            seen.append((trainer.num_training_batches, trainer.train_dataloader))

    trainer = inside("fit", lambda _: None)
    trainer.strategy.setup_optimizers(trainer)
    trainer.state.fn = "fit"  # type: ignore[assignment]
    users = DataLoader(zoo.Vectors(99), batch_size=3)
    batches = DataLoader(zoo.Vectors(12), batch_size=3)
    _lightning.install_fit_loop(trainer, batches, [batches], epoch=0, length=33)
    trainer.callbacks = [Looks()]
    _lightning.run_fit_loop(trainer)
    assert seen == [(33, [users])]
    assert trainer.fit_loop.max_batches == 4, "outside of hooks, what the loop itself goes by"


def test_a_run_of_lightnings_tuner_is_told_from_one_that_trains() -> None:
    seen: list[bool] = []

    class Asks(Callback):
        def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
            seen.append(_lightning.is_tried_by_tuner(trainer))

    model = zoo.Mlp(batch_size=8)
    model.lr = 0.1
    trainer = zoo.trainer(Asks(), max_epochs=1)
    Tuner(trainer).lr_find(model, num_training=2, update_attr=False)
    trainer.fit(model)
    assert seen == [True, False]


def test_a_logger_set_aside_has_the_version_to_come_and_another_folder(tmp_path: Path) -> None:
    trainer = zoo.trainer(logger=CSVLogger(tmp_path))
    with _lightning.loggers_set_aside(trainer):
        aside = trainer.loggers[0]
        assert isinstance(aside, CSVLogger)
        assert (aside.version, aside.name) == (0, "lightning_logs")
        aside.experiment.log_metrics({"a": 1.0}, step=0)
        folder = Path(aside.log_dir)
        assert folder.is_dir()
        assert folder.parts[-2:] == ("lightning_logs", "version_0")
    assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_hyperparameters_that_change_are_those_that_the_run_began_with() -> None:
    class Model(zoo.Mlp):
        def __init__(self, size: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()

    def change(trainer: L.Trainer) -> None:
        with _lightning.hyperparameters_recorded(trainer):
            trainer.lightning_module.hparams.size = 8

    model = Model()
    zoo.trainer(Does(change), max_epochs=1).fit(model)
    assert model.hparams_initial.size == 8


class Does(Callback):
    def __init__(self, do: Any) -> None:
        self.do = do

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.do(trainer)


def test_a_request_for_loaders_is_noticed() -> None:
    heard: list[str] = []
    with _lightning.loaders_noticed(lambda role, loaders: heard.append(role)):
        inside("fit", lambda trainer: _lightning.request_loaders(trainer, "train"))
    assert "train" in heard
