"""Over memory ladders measured on an H200: 8 models under 5 memory caps each."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bstuner.core.step_time import StepTime

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "search.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_search", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("margin", [0.0, 0.1])
@pytest.mark.parametrize("predict", [True, False])
def test_finds_the_largest_size_in_every_case(benchmark: Any, margin: float, predict: bool) -> None:
    result = benchmark.replay(benchmark.read_cases(benchmark.LADDERS), margin, predict)
    assert result.cases == 40
    assert result.lost == []


@pytest.mark.parametrize(("margin", "oom_free"), [(0.0, 0.92), (0.1, 0.97)])
def test_prediction_costs_few_cheap_probes(benchmark: Any, margin: float, oom_free: float) -> None:
    result = benchmark.replay(benchmark.read_cases(benchmark.LADDERS), margin, predict=True)
    assert result.mean_probes <= 3.5
    assert result.mean_samples_ratio <= 1.5
    assert result.oom_free_share >= oom_free


def test_the_benchmark_prints_one_json_object(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["search.py", "--json"])
    benchmark.main()
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert [(s["margin"], s["predict"], s["exact"]) for s in settings] == [
        (0.0, True, 40),
        (0.0, False, 40),
        (0.1, True, 40),
        (0.1, False, 40),
    ]


def test_a_lost_case_is_named(benchmark: Any) -> None:
    # The line through 2 and 4 rules 8 out, although it would fit.
    case = benchmark.Case("a bend", 1000, {2: 400, 4: 790, 8: 800}, 8)
    result = benchmark.replay([case], 0.0, predict=True)
    assert result.lost == ["a bend: 4, not 8"]
    assert "lost: a bend: 4, not 8" in benchmark.table([result])


@pytest.mark.parametrize(
    ("model", "knee"),
    [
        ("resnet50-bf16-adamw", 256),
        ("resnet50-fp32-sgd", 128),
        ("vit_b16-bf16-adamw", 256),
        ("gpt2-1024-bf16-adamw", 16),
        ("bert-128-fp32-adamw", 64),
        ("lstm-70-fp32-sgd", 512),
        ("unet-256-bf16-adamw", 8),
        ("mlp-tabular-fp32-adamw", 32768),
    ],
)
def test_knees_of_measured_models(benchmark: Any, model: str, knee: int) -> None:
    models = [json.loads(line) for line in benchmark.LADDERS.read_text().splitlines()]
    (rungs,) = [entry["rungs"] for entry in models if entry["name"] == model]
    step_time = StepTime.fit([r["batch_size"] for r in rungs], [r["step_seconds"] for r in rungs])
    assert step_time.knee == knee
    largest = max(step_time.measured)
    assert step_time.seconds(largest) == pytest.approx(step_time.measured[largest], rel=0.05)
