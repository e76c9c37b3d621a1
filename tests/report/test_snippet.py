"""An answer as text to copy."""

from __future__ import annotations

import ast
import json

import yaml

from bstuner.report.snippet import json_snippet, python_snippet, yaml_snippet

PLACES = ("Digits.batch_size", "Net.hparams.lr")


def test_the_python_is_python_and_imports_what_it_uses() -> None:
    text = python_snippet(64, 4, 0.00625, *PLACES, warmup=(4915, 0.25), also=["max_steps: 400\n-> 25"])
    tree = ast.parse(text)
    values = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]
    assert ast.literal_eval(values["batch_size"]) == 64
    assert ast.literal_eval(values["lr"]) == 0.00625
    assert "from bstuner import LearningRateWarmup" in text
    assert isinstance(values["trainer"], ast.Call)
    arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in values["trainer"].keywords}
    assert arguments["accumulate_grad_batches"] == "4"
    assert arguments["callbacks"] == "[LearningRateWarmup(samples=4915, start_factor=0.25)]"
    assert text.endswith("# and change max_steps: 400 -> 25")


def test_no_line_of_the_python_is_wider_than_a_page() -> None:
    text = python_snippet(64, 4, 0.18207291247306806, *PLACES, warmup=(123_456_789, 0.05492305178278062))
    assert max(map(len, text.splitlines())) <= 100


def test_the_yaml_puts_each_setting_where_its_owner_is() -> None:
    text = yaml_snippet(64, 4, 0.00625, *PLACES, model="Net", warmup=(4915, 0.25))
    assert yaml.safe_load(text) == {
        "data": {"batch_size": 64},
        "model": {"lr": 0.00625},
        "trainer": {
            "accumulate_grad_batches": 4,
            "callbacks+": [
                {"class_path": "bstuner.LearningRateWarmup", "init_args": {"samples": 4915, "start_factor": 0.25}}
            ],
        },
    }


def test_the_yaml_says_in_a_comment_what_no_argument_sets() -> None:
    text = yaml_snippet(64, 1, 0.1, "the batch size of the DataLoader passed to the Trainer", "lr of SGD", also=["a"])
    assert yaml.safe_load(text) == {"trainer": {"accumulate_grad_batches": 1}}
    assert text.splitlines()[-3:] == [
        "# and set the batch size of the DataLoader passed to the Trainer to 64",
        "# and set lr of SGD to 0.1",
        "# and change a",
    ]


def test_the_json_tells_all() -> None:
    told = json.loads(json_snippet(64, 4, 0.1, *PLACES, warmup=(100, 0.5), also=["max_steps: 400 -> 25"]))
    assert told == {
        "batch_size": 64,
        "accumulate_grad_batches": 4,
        "lr": 0.1,
        "holder": "Digits.batch_size",
        "lr_holder": "Net.hparams.lr",
        "warmup": {"samples": 100, "start_factor": 0.5},
        "also": ["max_steps: 400 -> 25"],
    }
