"""A fit with the answer of a search in place, as the user's own code would have it from the start."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_warn

from bstuner.callbacks.warmup import LearningRateWarmup
from bstuner.core import BatchLayout, Mark, Regret, TuneResult
from bstuner.training._lightning import forget_loaders, hyperparameters_recorded
from bstuner.training.freezing import FrozenStart
from bstuner.training.probing import accumulation_warnings
from bstuner.training.settings import SettingsInPlace

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["TunedFit"]


class TunedFit:
    """The batch size and learning rate that were found, and the warm-up that goes with them.

    Args:
        in_place: where they belong.
        answer: what a checkpoint holds of the search: `batch_size`, `accumulate_grad_batches`, `lr`, `warmup`, and what
            the fit is compared with; with `warmup_state`, `samples` and `behind`, where the fit goes on.
        trains: whether the run goes on with them, or ends with the search.
        on_regret: "warn", or "stop" to end a fit that falls behind what the user's own settings had reached, too.

    Attributes:
        placement: the answer and where it belongs.

    """

    def __init__(
        self, in_place: SettingsInPlace, answer: dict[str, Any], trains: bool, on_regret: Literal["warn", "stop"]
    ) -> None:
        self._in_place, self._answer, self._trains = in_place, answer, trains
        self._layout = BatchLayout(answer["batch_size"], answer["accumulate_grad_batches"] or 1, in_place.layout.world)
        self._warmup: LearningRateWarmup | None = None
        self._on_regret = on_regret
        self._samples = answer.get("samples", 0)
        own = answer.get("own")
        self._regret: Regret | None = None
        if own and trains:
            self._regret = Regret([Mark(*mark) for mark in own["curve"]], own["mode"], answer.get("behind", 0))
        self.placement = in_place.placement(self._layout, answer["lr"])

    def put_in_place(self, trainer: Trainer, start: FrozenStart) -> None:
        """Let the fit begin anew with the answer.

        Args:
            trainer: a Trainer in `on_fit_start`.
            start: the run as it was before it had optimizers.

        """
        start.restore()
        with hyperparameters_recorded(trainer):
            self._in_place.prepare(trainer, self._layout)
            forget_loaders(trainer)
            self._in_place.build(trainer, self._layout, self._answer["lr"])
        if self._answer["warmup"] is not None and self._trains:
            self._warmup = LearningRateWarmup(*self._answer["warmup"])
            self._warmup.setup(trainer, trainer.lightning_module, "fit")
            self._warmup.load_state_dict(self._answer.get("warmup_state", {}))
            trainer.callbacks = [*trainer.callbacks, self._warmup]
        if self._layout.accumulate != self._in_place.layout.accumulate:
            for warning in accumulation_warnings(trainer.lightning_module, self._layout):
                rank_zero_warn(warning)

    def with_settings(self, result: TuneResult) -> TuneResult:
        """The result, with what the run by hand has to set too."""
        in_place, in_code = self._in_place, list(self._in_place.converted)
        result = replace(result, warmup=self._answer["warmup"])
        if self._answer["warmup"] is not None:
            samples, start_factor = self._answer["warmup"]
            in_code.append(f"LearningRateWarmup(samples={samples}, start_factor={start_factor!r}) in the callbacks")
        if self._trains:
            return result.with_settings((*in_place.changed, *in_code), in_place.warnings)
        if in_place.learning_rate.attribute is None and result.lr != result.reference_lr:
            in_code.insert(0, f"{result.lr_holder}: {result.reference_lr!r} -> {result.lr!r}")
        return replace(result, by_hand=tuple(in_code)).with_settings(in_place.changed, in_place.warnings)

    def state(self) -> dict[str, Any]:
        """Where the fit and its warm-up are, for the checkpoint."""
        # The warm-up has a part of its own too, for whoever takes the tuner out and lists it. But Lightning reads that
        # before a resumed fit has put the warm-up among the callbacks.
        return {
            "samples": self._samples,
            "behind": 0 if self._regret is None else self._regret.behind,
            **({} if self._warmup is None else {"warmup_state": self._warmup.state_dict()}),
        }

    def trained(self) -> None:
        """Count a batch."""
        self._samples += self._layout.micro * self._layout.world

    def validated(self, trainer: Trainer) -> None:
        """Compare the fit with what the user's own settings had reached; say so, once, where it falls behind."""
        if self._regret is None or trainer.sanity_checking:
            return
        own = self._answer["own"]
        metric = trainer.callback_metrics.get(own["monitor"])
        wrong = None if metric is None else self._regret.hear(self._samples, float(metric))
        # As in trials, that of rank 0 counts: each process may have a metric of its own.
        wrong = trainer.strategy.broadcast(wrong)
        if wrong is None:
            return
        self._regret = None
        trainer.should_stop = trainer.should_stop or self._on_regret == "stop"
        ends = "The fit ends here." if self._on_regret == "stop" else "on_regret='stop' would end such a fit by itself."
        rank_zero_warn(
            f"The fit with batch size {self._layout.global_batch_size} and learning rate {self._answer['lr']:g} falls "
            f"behind, by {own['monitor']}: {wrong}. Train with your own settings, batch size {own['batch_size']} and "
            f"learning rate {own['lr']:g}, or with a lower learning rate than the one that was found. {ends}"
        )

    def put_back(self, trainer: Trainer) -> None:
        """Take the warm-up out of the Trainer."""
        if self._warmup is not None:
            self._warmup.teardown(trainer, trainer.lightning_module, "fit")
            trainer.callbacks = [callback for callback in trainer.callbacks if callback is not self._warmup]
            self._warmup = None
