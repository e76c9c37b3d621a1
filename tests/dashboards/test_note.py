"""The note of a study: what it says, and that Markdown shows it as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from formula_runner import FormulaRunner
from optuna.storages import InMemoryStorage
from studies import FACTS, FIND, searched

from bstuner.dashboards.note import note
from bstuner.errors import BaselineFailed
from bstuner.report.verdict import verdict_words
from bstuner.study.findings import Findings, write_find, write_search
from bstuner.study.store import StudyFacts, open_study


def note_of(facts: StudyFacts = FACTS, n_trials: int = 4) -> str:
    return note(Findings.read(searched(InMemoryStorage(), facts=facts, n_trials=n_trials)))


def test_it_tells_the_verdict_the_settings_and_the_findings() -> None:
    findings = Findings.read(searched(InMemoryStorage(), n_trials=4))
    assert findings.result is not None
    told = note(findings)
    assert told.replace("\\", "").startswith(f"### {verdict_words(findings)}\n\nEnded after 6 trials: ")
    assert f"```python\nbatch_size = {findings.result.batch_size}  # Digits.batch_size\n" in told
    assert "\n# and change max_steps: 400 -> 200\n```\n" in told
    assert "| Fits | 256 per device (1.2 GiB measured; 512 would need 1.5 GiB) after 6 probes, 2.2 s |\n" in told


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            FACTS,
            "- **Value**: seconds of training to the baseline's val\\_loss, with its own on top unless it is "
            "confirmed; none for a trial that never got there.",
        ),
        (replace(FACTS, objective="metric"), "- **Value**: the best val\\_loss within 10,240 samples."),
        (replace(FACTS, objective="both"), "within 10,240 samples, and the seconds that these took."),
        (FACTS, "- **Intermediate values**: val\\_loss; the step is samples trained on."),
        (replace(FACTS, mode="max"), "val\\_loss, with a minus sign, because seconds are minimized; the step is"),
        (FACTS, "the learning rate at batch 32; what was used is **lr**.\n"),
        (replace(FACTS, scaling_rule="sqrt"), "what was used is **lr**, by the sqrt rule.\n"),
    ],
)
def test_it_says_what_the_pages_show(facts: StudyFacts, words: str) -> None:
    assert words in note_of(facts, n_trials=1)


def test_two_objectives_have_no_intermediate_values_to_speak_of() -> None:
    assert "Intermediate" not in note_of(replace(FACTS, objective="both"), n_trials=1)


def test_names_of_the_user_are_shown_as_they_are() -> None:
    told = note_of(replace(FACTS, monitor="<b>val_*|loss</b>"), n_trials=1)
    assert "<b>" not in told.replace("\\<b\\>", "")
    rows = [line for line in told.splitlines() if line.startswith("| ")][2:]
    assert rows
    assert all(line.replace("\\|", "").count("|") == 3 for line in rows)


def test_before_the_baseline_and_after_a_failure_it_says_that_there_is_no_answer() -> None:
    study = open_study(InMemoryStorage(), "digits", FACTS)
    write_search(study, 4, "Digits.lr")
    write_find(study, FIND)
    assert note(Findings.read(study)).startswith("### There is no answer yet: ")
    storage = InMemoryStorage()
    with pytest.raises(BaselineFailed):
        searched(storage, runner=FormulaRunner(ends=lambda request: "out of memory"))
    assert note(Findings.read(open_study(storage, "digits", FACTS))).startswith("### There is no answer: ")
