"""How the training to a target follows batch size and learning rate: known beforehand, corrected by what was seen.

Many guesses are drawn at how this training behaves. Each is a formula: the samples a batch needs (McCandlish et al.
2018, arXiv 1812.06162, equation 2.7), the seconds a sample takes, and a loss of time on both sides of the best learning
rate, slow below and steep above. A Gaussian process carries what no formula explains. Trials weigh the guesses, and
the next settings are those that promise most on the average over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bstuner.core import Rule

__all__ = ["Observation", "PaceModel"]

Array = NDArray[np.float64]

_GUESSES = 400
_EXPONENT: dict[Rule, float] = {"linear": 1.0, "sqrt": 0.5, "none": 0.0}
# Of the Gaussian process: how far formulas are off, in log time, and over which distance they are off together.
_OFF_BY, _OFF_OVER_K, _OFF_OVER_LR = 0.35, 1.5, 1.0
# Log of how many times the samples a learning rate can cost that still trains: far below the best one, and above it.
_COLD_CAP, _HOT_CAP = 4.0, 2.0
# A trial run again gives the same curve: this near to one, settings are not new.
_NEW_K, _NEW_LR = 0.5, 0.35


class Observation(NamedTuple):
    """What a trial said about the time to the target.

    Args:
        k: Doublings of the reference batch size.
        log_lr: Log of its base learning rate over the user's own.
        log_samples: Log of its samples to the target over the baseline's.
        error: Standard error of that.
        at_least: Whether they are only known to be at least so many.
    """

    k: int
    log_lr: float
    log_samples: float
    error: float
    at_least: bool = False


@dataclass(frozen=True)
class PaceModel:
    """Guesses at how training time follows batch size and learning rate.

    Args:
        ks: The doublings of the reference batch size that may be tried.
        batch_sizes: The batch sizes they are.
        log_seconds: Log of the seconds that a sample takes at each of them, up to a constant.
        rule: How learning rates follow the batch size.
        guesses: One row per guess; its columns are named where they are drawn.
        own_log_lr: Log of the baseline's learning rate over the user's own: below 0 where it had to be lowered.
    """

    ks: Array
    batch_sizes: Array
    log_seconds: Array
    rule: Rule
    guesses: Array
    own_log_lr: float = 0.0

    @classmethod
    def prior(
        cls,
        ks: Sequence[int],
        batch_sizes: Sequence[int],
        seconds_per_sample: Sequence[float],
        rule: Rule,
        own_log_lr: float = 0.0,
    ) -> PaceModel:
        """What is known before any trial.

        Args:
            ks: As for the class.
            batch_sizes: As for the class.
            seconds_per_sample: Seconds that a sample takes at each of them, up to a common factor.
            rule: As for the class.
            own_log_lr: As for the class.
        """
        rng = np.random.default_rng(0)  # of the method, not of the study: the same guesses for everybody
        low, high = np.log(min(batch_sizes)), np.log(max(batch_sizes))
        guesses = np.column_stack([
            own_log_lr + _best_lrs(rng),  # log of the best learning rate over the user's own
            rng.uniform(0.7, 1.05, _GUESSES),  # time gained per log learning rate below the best
            np.exp(rng.uniform(np.log(0.2), np.log(3.0), _GUESSES)),  # time lost per log learning rate above it
            rng.uniform(low - 1.0, high + 1.0, _GUESSES),  # log of the critical batch size
            rng.normal(-0.05, 0.2, _GUESSES),  # how much steeper the best learning rate rises than its rule
            rng.uniform(0.5, 1.5, _GUESSES),  # how strictly it stops rising at the critical batch size
        ])  # fmt: skip
        return cls(
            np.array(ks, float),
            np.array(batch_sizes, float),
            np.log(np.array(seconds_per_sample)),
            rule,
            guesses,
            own_log_lr,
        )

    def log_samples(self, k: Array, log_lr: Array) -> Array:
        """Log samples to the target over the baseline's: a row per guess, a column per settings."""
        return self._absolute(k, log_lr) - self._absolute(np.zeros(1), np.array([self.own_log_lr]))

    def expected_gain(self, seen: Sequence[Observation], best: float, most: float, k: Array, log_lr: Array) -> Array:
        """How much log time each settings may be expected to save on the best so far.

        Args:
            seen: What trials said; the baseline, at 0 of everything, among them.
            best: The best log time so far, over the baseline's.
            most: Log of the samples of a whole trial over those the baseline took to the target: what takes more does
                not get there.
            k: Doublings of the reference batch size of each settings.
            log_lr: Log of the base learning rate of each over the user's own.
        """
        seen_k = np.array([o.k for o in seen], float)
        seen_lr = np.array([o.log_lr for o in seen])
        told = np.array([o.log_samples for o in seen])
        bound = np.array([o.at_least for o in seen])
        residual = told - self.log_samples(seen_k, seen_lr)
        residual = np.where(bound, np.maximum(residual, 0.0), residual)
        covariance = _kernel(seen_k, seen_lr, seen_k, seen_lr) + np.diag([o.error**2 for o in seen])
        solved = np.linalg.solve(covariance, residual.T).T
        fit = -0.5 * (residual * solved).sum(axis=1)
        weights = np.exp(fit - fit.max())
        weights /= weights.sum()
        across = _kernel(seen_k, seen_lr, k, log_lr)
        mean = self.log_samples(k, log_lr) + solved @ across
        variance = _OFF_BY**2 - (across * np.linalg.solve(covariance, across)).sum(axis=0)
        spread = np.sqrt(np.maximum(variance, 1e-4))
        # A gain needs fewer samples than the best time allows, and than a trial has.
        affordable = best - self._log_seconds_over_baseline(k)
        enough = np.minimum(affordable, most)
        z = (enough - mean) / spread
        likely = _normal_below(z)
        gain = spread * (z * likely + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)) + (affordable - enough) * likely
        away = (k[:, None] - seen_k) ** 2 / _NEW_K**2 + (log_lr[:, None] - seen_lr) ** 2 / _NEW_LR**2
        new = 1 - np.exp(-0.5 * away).max(axis=1)
        return np.asarray(new * (weights @ gain))

    def _log_seconds_over_baseline(self, k: Array) -> Array:
        at_baseline = np.interp(0.0, self.ks, self.log_seconds)
        return np.asarray(np.interp(k, self.ks, self.log_seconds) - at_baseline)

    def _absolute(self, k: Array, log_lr: Array) -> Array:
        best_lr, gain, loss, log_critical, steeper, strictness = (column[:, None] for column in self.guesses.T)
        log_batch = np.interp(k, self.ks, np.log(self.batch_sizes))
        crowding = np.log1p(np.exp(log_batch - log_critical))
        off = log_lr - (best_lr + steeper * k * np.log(2) - _EXPONENT[self.rule] * strictness * crowding)
        lost = np.logaddexp(np.log(loss) - gain * off, np.log(gain) + loss * off) - np.log(gain + loss)
        return np.asarray(crowding + np.minimum(lost, np.where(off > 0, _HOT_CAP, _COLD_CAP)))


def _best_lrs(rng: np.random.Generator) -> Array:
    """Log of the best learning rate over the user's own: that is mostly too low, or too high by a great deal."""
    above = rng.normal(np.log(3.0), 1.8, _GUESSES)
    far_below = rng.normal(np.log(1 / 8), 1.0, _GUESSES)
    return np.where(rng.uniform(size=_GUESSES) < 0.2, far_below, above)


def _kernel(k: Array, lr: Array, other_k: Array, other_lr: Array) -> Array:
    distance = ((k[:, None] - other_k) / _OFF_OVER_K) ** 2 + ((lr[:, None] - other_lr) / _OFF_OVER_LR) ** 2
    return np.asarray(_OFF_BY**2 * np.exp(-0.5 * distance))


def _normal_below(z: Array) -> Array:
    """The share of a normal distribution below z, to three digits: this only ranks settings."""
    return np.asarray(1 / (1 + np.exp(-np.clip(1.5976 * z + 0.070566 * z**3, -500, 500))))
