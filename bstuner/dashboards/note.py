"""What a search has found as a note in Markdown, for dashboards."""

from __future__ import annotations

from collections.abc import Iterator

from bstuner.core import TuneResult
from bstuner.report import state_words, verdict_words
from bstuner.report.page import settings_texts
from bstuner.report.terminal import tune_rows
from bstuner.study import Findings

__all__ = ["note"]

_ELSEWHERE = ("Ended", "Set", "Also", "Study")  # above, among the settings to copy, or in the title of the page


def note(findings: Findings) -> str:
    """The verdict, the settings to copy, the findings, and what the pages of a dashboard show.

    Args:
        findings: Those of a study.
    """
    result = findings.result
    parts = [f"### {_plain(verdict_words(findings))}", _plain(state_words(findings)) + "."]
    if result is not None:
        _, settings = settings_texts(result, findings)["python"]
        parts += [f"```python\n{settings}\n```", "\n".join(_table(result))]
    return "\n\n".join([*parts, "\n".join(_pages(findings))]) + "\n"


def _table(result: TuneResult) -> Iterator[str]:
    yield "| | |"
    yield "|---|---|"
    for label, words in tune_rows(result):
        if label in _ELSEWHERE or not words:
            continue
        yield f"| {label} | {_plain(words)} |"


def _pages(findings: Findings) -> Iterator[str]:
    facts = findings.facts
    yield "#### What these pages show"
    yield ""
    told = {
        "time": f"seconds of training to the baseline's {facts.monitor}, with its own on top unless it is confirmed; "
        "none for a trial that never got there",
        "metric": f"the best {facts.monitor} within {facts.trial_budget:,} samples",
        "both": f"the best {facts.monitor} within {facts.trial_budget:,} samples, and the seconds that these took",
    }
    yield f"- **Value**: {_plain(told[facts.objective])}."
    if facts.objective != "both":
        sign = ", with a minus sign, because seconds are minimized" if _negated(findings) else ""
        hidden = (
            " Those of trials without a value are in the figure Training curves." if facts.objective == "time" else ""
        )
        yield f"- **Intermediate values**: {_plain(facts.monitor)}{sign}; the step is samples trained on.{hidden}"
    rule = "" if facts.scaling_rule == "none" else f", by the {facts.scaling_rule} rule"
    yield (
        "- **log2_batch_ratio**: the global batch size is "
        f"{facts.reference_batch_size:,} x 2 to this power. **base_lr**: the learning rate at batch "
        f"{facts.reference_batch_size:,}; what was used is **lr**{rule}."
    )
    yield "- **feasible**: 1 where the trial kept within the memory it may use, 0 where not."


def _negated(findings: Findings) -> bool:
    return findings.facts.objective == "time" and findings.facts.mode == "max"


def _plain(words: str) -> str:
    """Words that Markdown is to show as they are: `val_loss_*` is no emphasis, and a `|` ends no cell."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]<>#|" else letter for letter in " ".join(words.split()))
