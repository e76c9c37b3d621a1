"""The user's own steps by samples: as a loop over the data would count them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from bstuner.core.growth.nominal import NominalSteps
from bstuner.errors import InvalidSetting

repeatable = settings(max_examples=150, derandomize=True, deadline=None)


@repeatable
@given(batch_size=st.integers(1, 40), samples=st.integers(1, 200), epochs=st.integers(1, 4))
def test_steps_are_those_of_a_loop_over_the_data(batch_size: int, samples: int, epochs: int) -> None:
    steps = NominalSteps(batch_size, samples)
    looped = [epoch * samples + place for epoch in range(epochs) for place in range(0, samples, batch_size)]
    assert steps.per_epoch * epochs == len(looped)
    assert steps.starts(len(looped)).tolist() == looped
    assert [steps.start(step) for step in range(len(looped))] == looped
    of_each_sample = [steps.at(sample) for sample in range(epochs * samples)]
    assert of_each_sample == [sum(start <= sample for start in looped) - 1 for sample in range(epochs * samples)]


def test_without_epochs_every_step_is_full() -> None:
    steps = NominalSteps(32)
    assert steps.per_epoch is None
    assert steps.starts(4).tolist() == [0, 32, 64, 96]
    assert steps.start(3) == 96
    assert [steps.at(sample) for sample in (0, 31, 32, 95)] == [0, 0, 1, 2]


@pytest.mark.parametrize("name", ["batch_size", "samples_per_epoch"])
def test_refuses_zero(name: str) -> None:
    with pytest.raises(InvalidSetting, match=rf"^{name}: expected samples, at least 1, found 0"):
        NominalSteps(**{"batch_size": 8, "samples_per_epoch": 8, name: 0})
