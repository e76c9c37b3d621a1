"""The global random generators, kept and put back."""

from __future__ import annotations

import pytest
import torch

from bstuner.device.random_state import RandomState


def test_a_state_of_more_gpus_than_there_are_is_put_back_on_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = torch.full((16,), 1, dtype=torch.uint8), torch.full((16,), 2, dtype=torch.uint8)
    state = RandomState.of_values({**RandomState().as_values(), "cuda": [one, other]})
    put_back = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: put_back.append((device, state)))
    state.restore()
    assert put_back == [(0, one)]
