"""Precision, loss scaling, checkpointed activations, `configure_model` and `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import pytest
import torch
import zoo
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import bstuner
from bstuner import BatchSizeFinder, FindResult
from bstuner.device.byte_counter import TensorByteCounter
from bstuner.device.memory import DeviceMemory, MemoryReading


def scaler(init_scale: float = 2.0**12, growth_interval: int = 3) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=growth_interval)


def half(**settings: Any) -> dict[str, Any]:
    """What a Trainer needs for float16 with a loss scaler on the CPU."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler(**settings))]}


def everything(module: zoo.Base, trainer: L.Trainer) -> dict[str, Any]:
    """All that a training leaves behind that depends on precision."""
    precision = trainer.precision_plugin
    return {
        "weights": dict(module.state_dict()),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "losses": module.losses,
        "scaler": precision.state_dict(),
        "steps": trainer.global_step,
        "generator": torch.get_rng_state(),
        "default dtype": torch.get_default_dtype(),
    }


def assert_same(found: Any, by_hand: Any, path: str = "") -> None:
    if isinstance(found, dict):
        assert list(found) == list(by_hand), path
        for key in found:
            assert_same(found[key], by_hand[key], f"{path}/{key}")
    elif isinstance(found, (list, tuple)):
        assert len(found) == len(by_hand), path
        for index, pair in enumerate(zip(found, by_hand, strict=True)):
            assert_same(*pair, f"{path}/{index}")
    elif isinstance(found, Tensor):
        assert found.dtype == by_hand.dtype, path
        assert torch.equal(found, by_hand), path
    else:
        assert found == by_hand, path


def trained(
    model: Callable[..., zoo.Base], size: int, *callbacks: L.Callback, **options: Any
) -> tuple[zoo.Base, L.Trainer]:
    L.seed_everything(7, verbose=False)
    module = model(batch_size=size)
    trainer = zoo.trainer(*callbacks, **options)
    trainer.fit(module)
    return module, trainer


def peaks(result: FindResult | None) -> dict[int, int]:
    assert result is not None
    return {probe.batch_size: probe.peak_bytes for probe in result.probes if probe.peak_bytes is not None}


PRECISIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "32-true": lambda: {"precision": "32-true"},
    "64-true": lambda: {"precision": "64-true"},
    "bf16-mixed": lambda: {"precision": "bf16-mixed"},
    "bf16-true": lambda: {"precision": "bf16-true"},
    "16-mixed": half,
    "16-mixed, clipped": lambda: {**half(), "gradient_clip_val": 0.1},
    "16-mixed, accumulated": lambda: {**half(), "accumulate_grad_batches": 2},
    "16-mixed, first steps skipped": lambda: half(init_scale=2.0**22),
}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")  # of the run by hand, too
@pytest.mark.parametrize("name", PRECISIONS)
def test_training_equals_the_run_started_by_hand_at_any_precision(name: str) -> None:
    finder = BatchSizeFinder(max_val=64)
    found = trained(zoo.Regularised, 7, finder, **PRECISIONS[name]())
    by_hand = trained(zoo.Regularised, 64, **PRECISIONS[name]())
    assert found[0].batch_size == 64
    assert_same(everything(*found), everything(*by_hand))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_what_is_probed_is_the_precision_of_training(precision: Any) -> None:
    class Watched(zoo.Wide):
        def build(self) -> nn.Module:
            net = super().build()
            net[1].register_forward_hook(lambda *args: zoo.NOTES.append(args[2].dtype))
            return net

    bstuner.find(zoo.trainer(precision=precision), Watched(), max_val=16)
    assert set(zoo.NOTES) == {torch.float64 if precision == "64-true" else torch.bfloat16}


def test_half_the_bytes_of_activations_leave_room_for_a_larger_batch() -> None:
    def answer(precision: Any) -> int:
        options = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0, "precision": precision}
        finder = BatchSizeFinder(memory_limit=12 * zoo.MIB)
        zoo.trainer(finder, **options).fit(zoo.Wide(batch_size=8, length=8192))
        assert finder.result is not None
        assert finder.result.limited_by == "memory"
        return finder.result.batch_size

    sizes = [answer(precision) for precision in ("64-true", "32-true", "bf16-true")]
    assert sizes == sorted(set(sizes)), "each half as wide, each with room for more"


def test_the_scaler_is_as_the_user_made_it_when_training_starts() -> None:
    class Watch(L.Callback):
        def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
            zoo.NOTES.append(trainer.precision_plugin.state_dict())

    trained(zoo.Mlp, 2, BatchSizeFinder(max_val=16), Watch(), **half(init_scale=2.0**22))
    made = half(init_scale=2.0**22)["plugins"][0].state_dict()
    assert len(zoo.NOTES) > 1, "probes start training too"
    assert any(note != made for note in zoo.NOTES), "the steps of a probe change the scale"
    assert zoo.NOTES[-1] == made


class Overflowing(zoo.Mlp):
    """Gradients that overflow at a large scale: the scaler skips those steps."""

    def on_train_start(self) -> None:
        zoo.NOTES.append("probe")
        optimizer = self.optimizers().optimizer  # type: ignore[union-attr]
        optimizer.register_step_post_hook(lambda *_: zoo.NOTES.append("step"))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        zoo.NOTES.append(("batch", len(batch[0])))
        return super().training_step(batch, batch_idx)


def runs_of_probes() -> list[list[str]]:
    """The batches and steps of each run, in order: for one size the first is measured, the second timed."""
    runs: list[list[str]] = []
    for note in zoo.NOTES:
        if note == "probe":
            runs.append([])
        else:
            runs[-1].append(note if isinstance(note, str) else note[0])
    return runs


@pytest.mark.parametrize("scale", [2.0**12, 2.0**24])
def test_steps_that_the_scaler_skips_do_not_count_as_probed(scale: float) -> None:
    trainer = zoo.trainer(limit_val_batches=0, **half(init_scale=scale, growth_interval=2000))
    bstuner.find(trainer, Overflowing(), init_val=32, max_val=32)
    measured = runs_of_probes()[0]
    skipped = measured.count("batch") - measured.count("step")
    assert measured.count("step") == 2
    assert (skipped > 2) == (scale == 2.0**24), "the case must be what it says"


def test_the_peak_holds_the_optimizers_state_though_the_first_steps_were_skipped() -> None:
    def peak(scale: float) -> int:
        trainer = zoo.trainer(limit_val_batches=0, **half(init_scale=scale, growth_interval=2000))
        return peaks(bstuner.find(trainer, Overflowing(), init_val=32, max_val=32))[32]

    state = 2 * 4 * sum(parameter.numel() for parameter in Overflowing().parameters())
    first = peak(2.0**12)
    zoo.NOTES.clear()
    skipping = peak(2.0**24)
    assert zoo.NOTES.count("step") < sum(isinstance(note, tuple) for note in zoo.NOTES), "some must be skipped"
    assert skipping == pytest.approx(first, abs=1024)
    assert first > state


def test_a_scaler_that_refuses_every_gradient_is_told() -> None:
    class Broken(zoo.Mlp):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch) * float("nan")

    trainer = zoo.trainer(limit_val_batches=0, **half())
    with pytest.raises(bstuner.errors.NoStepTaken, match="the loss scaler refused every gradient"):
        bstuner.find(trainer, Broken(), max_val=16)


class Checkpointed(zoo.Wide):
    """Layers whose activations are made again in the backward pass."""

    reentrant = False

    def build(self) -> nn.Module:
        blocks = [nn.Sequential(nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh()) for _ in range(6)]
        return nn.ModuleList([nn.Linear(64, 128), *blocks, nn.Dropout(0.1), nn.Linear(128, 10)])

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(block, x, use_reentrant=self.reentrant)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        first, *blocks, dropout, last = self.net
        x = first(x)
        for block in blocks:
            x = self.run(block, x) if self.training else block(x)
        return F.cross_entropy(last(dropout(x)), y)


class CheckpointedReentrant(Checkpointed):
    reentrant = True


class Plain(Checkpointed):
    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x)


@pytest.mark.parametrize("model", [Checkpointed, CheckpointedReentrant])
def test_checkpointed_activations_leave_room_for_a_larger_batch_that_really_fits(model: type[Checkpointed]) -> None:
    limit = 5 * zoo.MIB

    def answer(model: type[Checkpointed]) -> int:
        finder = BatchSizeFinder(memory_limit=limit)
        options = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0}
        zoo.trainer(finder, **options).fit(model(batch_size=8, length=8192))
        assert finder.result is not None
        assert finder.result.limited_by == "memory"
        return finder.result.batch_size

    def fits(size: int) -> bool:
        module = model(batch_size=size, length=3 * size)
        try:
            with TensorByteCounter(int(0.9 * limit), module.parameters()):
                zoo.trainer(max_epochs=1, limit_val_batches=0).fit(module)
        except torch.OutOfMemoryError:
            return False
        return True

    size = answer(model)
    assert size >= 2 * answer(Plain)
    assert (fits(size), fits(2 * size)) == (True, False)


@pytest.mark.parametrize("model", [Checkpointed, CheckpointedReentrant])
def test_training_with_checkpointed_activations_equals_the_run_started_by_hand(model: type[Checkpointed]) -> None:
    found = trained(model, 7, BatchSizeFinder(max_val=64), max_epochs=1)
    by_hand = trained(model, 64, max_epochs=1)
    assert_same(everything(*found), everything(*by_hand))


class Configured(zoo.Regularised):
    """Layers made in `configure_model`, once."""

    def build(self) -> None:  # type: ignore[override]
        return None

    def configure_model(self) -> None:
        if self.net is None:
            zoo.NOTES.append("made")
            self.net = super().build()


class ConfiguredAnew(Configured):
    """Layers made whenever `configure_model` is called."""

    def configure_model(self) -> None:
        zoo.NOTES.append("made")
        self.net = zoo.Regularised.build(self)


class ConfiguredEmpty(Configured):
    """A guard by attribute, not by value: the attribute is not there at first."""

    def build(self) -> None:  # type: ignore[override]
        return None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        del self.net

    def configure_model(self) -> None:
        if not hasattr(self, "net"):
            self.net = zoo.Regularised.build(self)


CONFIGURED = [Configured, ConfiguredAnew, ConfiguredEmpty]


@pytest.mark.parametrize(
    ("model", "precision"), [*((model, "32-true") for model in CONFIGURED), (Configured, "bf16-true")]
)
def test_training_with_configure_model_equals_the_run_started_by_hand(model: type[zoo.Base], precision: Any) -> None:
    found = trained(model, 7, BatchSizeFinder(max_val=64), precision=precision)
    made = zoo.NOTES.count("made")
    by_hand = trained(model, 64, precision=precision)
    assert zoo.NOTES.count("made") == 2 * made
    assert_same(everything(*found), everything(*by_hand))


@pytest.mark.parametrize("model", CONFIGURED)
def test_find_and_then_fit_with_configure_model_equals_the_run_started_by_hand(model: type[zoo.Base]) -> None:
    L.seed_everything(7, verbose=False)
    module = model(batch_size=7)
    before = [name for name, _ in module.named_modules()]
    trainer = zoo.trainer()
    assert bstuner.find(trainer, module, max_val=64).batch_size == 64
    assert [name for name, _ in module.named_modules()] == before, "no layers yet"
    trainer.fit(module)
    assert_same(everything(module, trainer), everything(*trained(model, 64)))


def test_the_size_that_fits_is_that_of_the_layers_of_configure_model() -> None:
    class Late(zoo.Wide):
        def build(self) -> None:  # type: ignore[override]
            return None

        def configure_model(self) -> None:
            self.net = zoo.Wide.build(self)

    result, by_hand = (
        bstuner.find(zoo.trainer(limit_val_batches=0), model(length=2048), memory_limit=4 * zoo.MIB)
        for model in (Late, zoo.Wide)
    )
    assert (result.batch_size, peaks(result)) == (by_hand.batch_size, peaks(by_hand))
    assert result.limited_by == "memory"


COMPILED: list[str] = []  # one entry for each graph that is compiled, as long as the test runs


def counting(graph: Any, _: Any) -> Callable[..., Any]:
    """A compiler that compiles nothing, and says so."""
    COMPILED.append("graph")
    return graph.forward


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Any:
    torch.compiler.reset()
    COMPILED.clear()
    yield
    torch.compiler.reset()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.dropout(F.relu(self.first(x)), 0.1, self.training))


class Uncompiled(zoo.Mlp):
    fullgraph = False

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size, length=192)

    def build(self) -> nn.Module:
        return Net()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)  # no lists and no logs, which compilers stumble over

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(batch)

    test_step = validation_step


class CompiledPart(Uncompiled):
    """`self.net = torch.compile(net)`"""

    def build(self) -> nn.Module:
        return torch.compile(Net(), backend=counting, fullgraph=self.fullgraph)  # type: ignore[return-value]


class CompiledInPlace(Uncompiled):
    """`self.net.compile()`"""

    def build(self) -> nn.Module:
        net = Net()
        net.compile(backend=counting, fullgraph=self.fullgraph)
        return net


class CompiledByConfigureModel(Uncompiled):
    """Lightning's own advice on where to compile."""

    def configure_model(self) -> None:
        if not isinstance(self.net, torch._dynamo.OptimizedModule):
            self.net = torch.compile(self.net, backend=counting, fullgraph=self.fullgraph)


class CompiledFunction(Uncompiled):
    """A function of the model's own, compiled."""

    def build(self) -> nn.Module:
        self.forward_and_loss = torch.compile(self._forward_and_loss, backend=counting, fullgraph=self.fullgraph)
        return Net()

    def _forward_and_loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.net(x), y)

    def loss(self, batch: Any) -> Tensor:
        return self.forward_and_loss(*batch)


def compiled_whole(batch_size: int) -> Any:
    """`torch.compile(module)`, which Lightning takes in the place of a module."""
    return torch.compile(Uncompiled(batch_size), backend=counting)


def compiled_whole_in_one(batch_size: int) -> Any:
    return torch.compile(Uncompiled(batch_size), backend=counting, fullgraph=True)


def in_one_graph(model: type[Uncompiled]) -> type[Uncompiled]:
    return type(f"{model.__name__}InOneGraph", (model,), {"fullgraph": True})


COMPILATIONS: dict[str, tuple[Callable[..., Any], str]] = {
    # how a model is compiled: (the model, what the warning calls it)
    "part": (CompiledPart, "net"),
    "part in place": (CompiledInPlace, "net"),
    "part in configure_model": (CompiledByConfigureModel, "net"),
    "function": (CompiledFunction, "forward_and_loss"),
    "whole": (compiled_whole, "Uncompiled"),
    "part, fullgraph": (in_one_graph(CompiledPart), "net"),
    "function, fullgraph": (in_one_graph(CompiledFunction), "forward_and_loss"),
    "whole, fullgraph": (compiled_whole_in_one, "Uncompiled"),
}


@pytest.mark.parametrize("name", COMPILATIONS)
def test_on_the_cpu_nothing_is_compiled_by_a_search_and_the_result_says_so(name: str) -> None:
    model, part = COMPILATIONS[name]
    result = bstuner.find(zoo.trainer(), model(batch_size=7), max_val=64)
    assert COMPILED == []
    assert result.batch_size == 64
    (warning,) = result.warnings
    assert warning.startswith(f"torch.compile: {part} ran as if not compiled in the search")


def test_a_model_that_is_not_compiled_is_not_warned_of() -> None:
    assert bstuner.find(zoo.trainer(), Uncompiled(16), max_val=16).warnings == ()


@pytest.mark.parametrize("name", COMPILATIONS)
def test_after_a_search_training_compiles_as_often_and_equals_the_run_started_by_hand(name: str) -> None:
    model, _ = COMPILATIONS[name]

    def run(size: int, *callbacks: L.Callback) -> tuple[dict[str, Any], int]:
        torch.compiler.reset()
        COMPILED.clear()
        module, trainer = trained(model, size, *callbacks, max_epochs=1)
        return everything(getattr(module, "_orig_mod", module), trainer), len(COMPILED)

    found, count = run(7, BatchSizeFinder(max_val=64))
    by_hand, expected = run(64)
    assert expected > 0, "the case must compile"
    assert count == expected
    assert_same(found, by_hand)


@pytest.mark.parametrize("name", COMPILATIONS)
def test_find_and_then_fit_with_a_compiled_model_equals_the_run_started_by_hand(name: str) -> None:
    model, _ = COMPILATIONS[name]
    L.seed_everything(7, verbose=False)
    module = model(batch_size=7)
    trainer = zoo.trainer(max_epochs=1)
    bstuner.find(trainer, module, max_val=64)
    trainer.fit(module)
    count = len(COMPILED)
    found = everything(getattr(module, "_orig_mod", module), trainer)
    torch.compiler.reset()
    COMPILED.clear()
    module, trainer = trained(model, 64, max_epochs=1)
    assert count == len(COMPILED) > 0
    assert_same(found, everything(getattr(module, "_orig_mod", module), trainer))


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch 2.5 cannot stop compiling and go on")
def test_what_was_compiled_before_a_search_need_not_be_compiled_again_after_it() -> None:
    net = torch.compile(Net(), backend=counting)
    x = torch.ones(8, 64)
    net(x)
    assert len(COMPILED) == 1
    bstuner.find(zoo.trainer(), CompiledPart(16), max_val=16)
    net(x)
    assert len(COMPILED) == 1


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_on_the_cpu_nothing_is_compiled_by_the_search_of_an_evaluation(stage: Any) -> None:
    result = bstuner.find(zoo.trainer(), CompiledPart(16), max_val=16, method=stage)
    assert COMPILED == []
    assert any("torch.compile" in text for text in result.warnings)


def test_a_search_that_fails_leaves_compilation_on() -> None:
    class Failing(CompiledPart):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            super().training_step(batch, batch_idx)
            raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        bstuner.find(zoo.trainer(), Failing(16), max_val=16)
    assert COMPILED == []
    torch.compile(Net(), backend=counting)(torch.ones(8, 64))
    assert len(COMPILED) == 1


class Uncounted(DeviceMemory):
    """Memory that is measured as a GPU's is: without a look at each op, so that compiled modules stay compiled."""

    label, capacity = "a GPU", 2**40

    @contextmanager
    def measure(self, resident: Iterable[Tensor]) -> Iterator[MemoryReading]:
        yield MemoryReading(1)

    def allocated(self, resident: Iterable[Tensor] = ()) -> int:
        return 0


@pytest.mark.parametrize("name", ["part", "part in place", "function", "whole, fullgraph"])
def test_where_memory_is_not_counted_op_by_op_compilations_are_told_and_forgotten(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, part = COMPILATIONS[name]
    monkeypatch.setattr("bstuner.training.probing.session.memory_of", lambda *_, **__: Uncounted())

    class Mark(L.Callback):
        def on_fit_start(self, trainer: L.Trainer, *_: Any) -> None:
            zoo.NOTES.append(len(COMPILED))

    finder = BatchSizeFinder(max_val=64)
    trained(model, 7, finder, Mark(), max_epochs=1)
    assert finder.result is not None
    searched = zoo.NOTES[-1]  # the last time that a fit started was that of the training itself
    assert searched > 0
    graphs = "1 compilation" if searched == 1 else f"{searched} compilations"
    assert finder.result.warnings[0].startswith(f"torch.compile: {part} took {graphs} in the search")
    in_training = len(COMPILED) - searched
    torch.compiler.reset()
    COMPILED.clear()
    trained(model, 64, max_epochs=1)
    assert in_training == len(COMPILED)
