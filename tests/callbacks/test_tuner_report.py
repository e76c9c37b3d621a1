"""The study of a real search holds all that the fit knew, and the command makes a report of it alone."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import optuna
import pytest
import zoo
from optuna import Study
from tuning import Noisy, Wish, result_of, seeded, wishing

from bstuner import BatchSizeScheduler, BatchSizeTuner, TuneResult
from bstuner.callbacks import tuner as room
from bstuner.cli.main import main
from bstuner.cli.studies import existing_storage, pick_study
from bstuner.core.growth.run_plan import RunPlan
from bstuner.study.findings import Findings


class Fit:
    """A search, the growing fit that followed it, and its study as another process finds it."""

    def __init__(self, folder: Path) -> None:
        self.storage = str(folder / "study.log")
        self.tuner: BatchSizeTuner = wishing(storage=self.storage, study_name="digits")
        self.growing = BatchSizeScheduler("0:16 1ep:32", fits=32)
        trainer = zoo.trainer(self.tuner, self.growing, Wish(), max_epochs=2, default_root_dir=folder)
        trainer.fit(seeded(Noisy, lr=0.05))

    @property
    def findings(self) -> Findings:
        return Findings.read(pick_study(existing_storage(self.storage, writes=False)))


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    return Fit(tmp_path_factory.mktemp("fit"))


def test_the_result_is_that_of_the_tuner_to_the_last_field(fit: Fit) -> None:
    findings = fit.findings
    assert findings.state == "ended"
    assert findings.result == result_of(fit.tuner)
    assert findings.find == result_of(fit.tuner).find
    assert findings.n_trials == 2


def test_a_study_that_was_passed_as_an_object_holds_all_of_it_too() -> None:
    study = optuna.create_study(direction="maximize")
    tuner = wishing(study=study, storage=None)
    zoo.trainer(tuner, Wish(), max_epochs=1).fit(seeded(Noisy, lr=0.05))
    findings = Findings.read(study)
    assert (findings.state, findings.result, findings.growth) == ("ended", result_of(tuner), None)


def test_the_environment_is_that_of_the_trainer(fit: Fit) -> None:
    where = fit.findings.environment
    assert (where.strategy, where.precision, where.world_size) == ("SingleDeviceStrategy", "32-true", 1)
    assert where.versions["lightning"] == L.__version__


def test_the_growth_plan_is_that_of_the_fit(fit: Fit) -> None:
    growth, plan = fit.findings.growth, fit.growing.plan
    assert growth is not None
    assert isinstance(plan, RunPlan)
    assert [(phase["start_sample"], phase["batch_size"]) for phase in growth["phases"]] == [(0, 16), (256, 32)]
    assert (growth["steps"], growth["own"]["steps"], growth["own"]["batch_size"]) == (24, 32, 16)
    assert growth["points"][0] == pytest.approx([0, 0.15, 0.15])  # twice that at half the batch, by the linear rule


def test_the_command_writes_the_report_of_that_study(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(fit.storage).read_bytes()
    assert main(["report", "--storage", fit.storage, "--output", "here.html"]) == 0
    told, page = capsys.readouterr().out, Path("here.html").read_text()
    sentence = "Batch 16 with learning rate 0.15 reaches wish 16 instead of 8 within the same 128 samples"
    for text in (" ".join(told.split()), page):
        assert sentence in text
    assert "24 optimizer steps instead of 32" in page
    assert f"{Path('here.html').resolve()}" in told.replace("\n", "")
    assert Path(fit.storage).read_bytes() == before


def test_a_database_that_goes_away_costs_the_report_and_not_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(study: Study, result: TuneResult) -> None:
        raise OSError("gone")

    monkeypatch.setattr(room, "write_answer", fail)
    tuner = wishing()
    trainer = zoo.trainer(tuner, Wish(), max_epochs=1)
    with pytest.warns(UserWarning, match="The study lacks a part of what its reports tell"):
        trainer.fit(seeded(Noisy, lr=0.05))
    assert trainer.global_step == 16
