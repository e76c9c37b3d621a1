"""What a user reads at the end of a search."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from bstuner import FindResult, Probe
from bstuner.report.files import write_json, write_yaml
from bstuner.report.terminal.find_display import SearchDisplay
from bstuner.report.terminal.find_summary import render_find

GIB = 2**30
RESULT = FindResult(
    batch_size=1024,
    probes=(
        Probe(2, GIB, 0.01, fits=True),
        Probe(1024, 64 * GIB, 0.4, fits=True),
        Probe(2048, None, None, fits=False, reason="out of memory in training"),
        Probe(256, None, 0.105, fits=True),
    ),
    limited_by="memory",
    capacity_bytes=140 * GIB,
    usable_bytes=126 * GIB,
    device="NVIDIA H200",
    stage="fit",
    seconds=2.24,
    holder="Digits.batch_size",
    reference_batch_size=32,
    accumulate_grad_batches=2,
    lr=0.1,
    memory_intercept=0.5 * GIB,
    memory_slope=GIB / 16,
    knee=256,
    scanned=1000,
    dataset_size=50_000,
)


def lines(result: FindResult, width: int = 100) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render_find(result))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_the_findings_line_by_line() -> None:
    assert lines(RESULT) == [
        "Device  NVIDIA H200, 140.0 GiB, 126.0 GiB usable (10% kept free)",
        "Fits    1024 per device (64.0 GiB measured; 2048 would need 128.5 GiB) after 3 probes, 2.2 s",
        "Step    2,048 samples = 1024 x 2 accumulated",
        "Was     32, as Digits.batch_size",
        "Knee    256: 95% of the throughput of 1024",
        "Limit   memory",
        "  batch size        peak    samples/s    verdict",
        "           2     1.0 GiB          200    fits",
        "         256           -        2,438    timed",
        "        1024    64.0 GiB        2,560    fits",
        "        2048           -            -    out of memory in training",
    ]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"limited_by": "dataset"}, "Limit   dataset: a larger batch would not leave one full batch of 50,000 samples"),
        (
            {"limited_by": "dataset", "dataset_size": None},
            "Limit   dataset: a larger batch would not leave one full batch",
        ),
        ({"limited_by": "max_val"}, "Limit   max_val: a larger batch may fit"),
        ({"knee": 1024}, "Knee    1024: throughput still rises up to the largest size measured"),
        ({"knee": 512}, "Knee    512: at least 90% of the throughput of 1024, by the fitted step time"),
        ({"changed_settings": ("max_steps=10 now spans 20 samples",)}, "Note     max_steps=10 now spans 20 samples"),
        ({"warnings": ("mind the gap",)}, "Warning  mind the gap"),
        ({"limited_by": "global_batch_size"}, "Limit   the global batch size that is wanted"),
        ({"world_size": 4}, "Step    8,192 samples = 1024 x 2 accumulated x 4 processes"),
        ({"world_size": 4, "accumulate_grad_batches": 1}, "Step    4,096 samples = 1024 x 4 processes"),
        ({"validation_batch_size": 4096}, "Validates  4096 per device, beside that"),
    ],
)
def test_each_finding_has_its_words(change: dict[str, Any], line: str) -> None:
    found = [" ".join(text.split()) for text in lines(dataclasses.replace(RESULT, **change))]
    assert " ".join(line.split()) in found


def test_where_the_model_waits_for_its_data_the_rates_are_told() -> None:
    waiting = dataclasses.replace(RESULT, read_per_second=1234.0)
    assert lines(waiting, width=300)[6] == (
        "Data    1,000 of 50,000 samples looked at for the largest; about 1,200 are read in a second, where the model "
        "takes 2,600: it waits for them. More workers, or samples that are prepared beforehand, make it faster"
    )
    assert lines(dataclasses.replace(RESULT, read_per_second=1300.0)) == lines(RESULT)
    by_pairs = dataclasses.replace(RESULT, read_per_second=1300.0, samples_per_batch=2048)
    assert "takes 5,100" in lines(by_pairs, width=300)[6]


def test_the_result_as_plain_types_survives_json() -> None:
    stored = json.loads(json.dumps(RESULT.as_dict()))
    assert stored["batch_size"] == 1024
    assert stored["global_batch_size"] == 2048
    assert stored["memory_line"] == {"intercept_bytes": 0.5 * GIB, "bytes_per_sample": GIB / 16}
    assert stored["probes"][2] == {
        "batch_size": 2048,
        "peak_bytes": None,
        "seconds": None,
        "fits": False,
        "reason": "out of memory in training",
    }
    assert RESULT.peak_bytes == 64 * GIB
    assert list(RESULT.throughput) == [2, 256, 1024]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    write_yaml(tmp_path / "overlay.yaml", {"data": {"batch_size": 8}})
    assert yaml.safe_load((tmp_path / "overlay.yaml").read_text()) == {"data": {"batch_size": 8}}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["answer.json", "overlay.yaml"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_disabled_display_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with SearchDisplay(enabled=False) as display:
        display.scanning(1, 2)
        display.probing(2, "batch size")
        display.probed(RESULT.probes[0], "batch size")
        display.show(RESULT)
        display.show_interrupted()
    assert capsys.readouterr() == ("", "")


def test_an_interrupt_before_the_first_probe(capsys: pytest.CaptureFixture[str]) -> None:
    with SearchDisplay(enabled=True) as display:
        display.show_interrupted()
    assert "no batch size has been shown to fit yet" in " ".join(capsys.readouterr().out.split())
