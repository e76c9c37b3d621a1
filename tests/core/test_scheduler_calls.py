"""How often Lightning steps a scheduler, against its own rule written out."""

from __future__ import annotations

from hypothesis import given, strategies as st

from bstuner.core.scheduler_calls import calls_by_epoch, calls_by_step, is_due

few = st.integers(1, 7)


@given(epochs=st.integers(0, 4), batches=st.integers(1, 12), accumulate=few, frequency=few)
def test_against_the_rule_written_out(epochs: int, batches: int, accumulate: int, frequency: int) -> None:
    step = by_step = by_epoch = 0
    for epoch in range(1, epochs + 1):
        for batch in range(1, batches + 1):
            if batch % accumulate and batch != batches:
                continue
            step += 1
            by_step += batch % frequency == 0
            assert is_due(step, batches, accumulate, frequency) == (batch % frequency == 0)
            by_epoch += batch == batches and epoch % frequency == 0
            assert calls_by_step(step, batches, accumulate, frequency) == by_step
            assert calls_by_epoch(step, batches, accumulate, frequency) == by_epoch
