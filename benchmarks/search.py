"""Replay the search for the largest batch size over memory ladders that were measured on a GPU.

    python benchmarks/search.py [--ladders FILE] [--json]

Each line of the ladder file is one model: its peak memory at doubling batch sizes, and the largest of them that
ran under each of several memory caps. A case is one model under one cap. The search is told the peak of every
size up to that answer, and "out of memory" above it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean

from bstuner.core.search import BatchSizeSearch

LADDERS = Path(__file__).parent / "data" / "h200_memory_ladders.jsonl"
GIB = 2**30


@dataclass(frozen=True)
class Case:
    """One model under one memory cap, in bytes."""

    name: str
    capacity: int
    peaks: dict[int, int]
    runs_up_to: int

    def answer(self, margin: float) -> int:
        usable = self.capacity * (1 - margin)
        return max(size for size, peak in self.peaks.items() if size <= self.runs_up_to and peak <= usable)


@dataclass
class Setting:
    """What one way of searching did over all cases."""

    margin: float
    predict: bool
    cases: int = 0
    exact: int = 0
    mean_probes: float = 0.0
    mean_samples_ratio: float = 0.0
    oom_free_share: float = 0.0
    lost: list[str] = field(default_factory=list)


def read_cases(path: Path) -> list[Case]:
    cases = []
    for line in path.read_text().splitlines():
        model = json.loads(line)
        peaks = {rung["batch_size"]: rung["peak_allocated"] for rung in model["rungs"]}
        for cap, largest in model["largest_power_of_two_by_cap_gib"].items():
            name = f"{model['name']} in {cap} GiB"
            cases.append(Case(name, int(cap) * GIB, peaks, largest["batch_size"]))
    return cases


def search_case(case: Case, margin: float, predict: bool) -> tuple[int | None, list[int], int]:
    """The answer, the sizes asked, and how many of them ran out of memory."""
    search = BatchSizeSearch(case.capacity, high=max(case.peaks), margin=margin, predict=predict)
    asked = []
    while (size := search.next_size()) is not None:
        asked.append(size)
        search.record(size, case.peaks[size] if size <= case.runs_up_to else None)
    return search.best, asked, sum(size > case.runs_up_to for size in asked)


def replay(cases: list[Case], margin: float, predict: bool) -> Setting:
    setting = Setting(margin, predict, cases=len(cases))
    probes, ratios, oom_free = [], [], []
    for case in cases:
        best, asked, ran_out = search_case(case, margin, predict)
        answer = case.answer(margin)
        probes.append(len(asked))
        ratios.append(sum(asked) / answer)
        oom_free.append(ran_out == 0)
        if best != answer:
            setting.lost.append(f"{case.name}: {best}, not {answer}")
    setting.exact = len(cases) - len(setting.lost)
    setting.mean_probes = mean(probes)
    setting.mean_samples_ratio = mean(ratios)
    setting.oom_free_share = mean(oom_free)
    return setting


def table(settings: list[Setting]) -> str:
    lines = [f"{'':28}{'exact':>9}{'probes':>9}{'samples / answer':>19}{'without out of memory':>24}"]
    for setting in settings:
        way = "predict" if setting.predict else "plain doubling"
        lines.append(
            f"margin {setting.margin:<6}{way:15}{setting.exact:>6}/{setting.cases}{setting.mean_probes:>9.2f}"
            f"{setting.mean_samples_ratio:>19.2f}{setting.oom_free_share:>24.1%}"
        )
        lines += [f"    lost: {case}" for case in setting.lost]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ladders", type=Path, default=LADDERS, help="ladder file, one JSON object per line")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    cases = read_cases(arguments.ladders)
    settings = [replay(cases, margin, predict) for margin in (0.0, 0.1) for predict in (True, False)]
    if arguments.json:
        print(json.dumps({"settings": [asdict(setting) for setting in settings]}))
    else:
        print(table(settings))


if __name__ == "__main__":
    main()
