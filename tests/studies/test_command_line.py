"""The command that a result tells of is taken by the command line, and gives the same configuration again."""

import shlex
from pathlib import Path

import pytest
import tyro

from decondense.commands.capacity import CapacityConfig
from decondense.commands.compare import CompareConfig
from decondense.commands.evaluate_config import EvaluateConfig
from decondense.commands.probe import ProbeConfig
from decondense.commands.quantize import QuantizeConfig
from decondense.studies.command_line import command_line, command_of

CONFIGS = {
    "capacity": CapacityConfig(sizes=("2x18x3", "3x24x4"), people=(20, 30), exposures=5, weight=0.5),
    "compare": CompareConfig(("runs/a", "runs/b c"), baseline="koleo", seeds=("0", "1"), formats="pdf"),
    "evaluate": EvaluateConfig(("gpt2", "my model"), tasks=("piqa", "arc_easy"), log_samples=True, data=Path("here")),
    "probe": ProbeConfig(("gpt2",), part="held_out", reviews=30),
    "quantize": QuantizeConfig(("runs/a",), bits=(4, 2), field="text", embeddings=True, out=Path("else where")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_command_is_read_as_the_configuration_that_it_was_written_from(name: str) -> None:
    config = CONFIGS[name]
    program, command, *words = shlex.split(command_of(config, name))
    assert (program, command) == ("decondense", name)
    assert tyro.cli(type(config), args=words) == config


def test_what_changes_no_number_is_left_out_and_a_folder_of_this_machine_is_not_told() -> None:
    config = ProbeConfig(("gpt2",), sentiment=Path("/home/me/reviews.jsonl"), out=Path("/home/me/out"))
    assert command_of(config, "probe", ["out"], ["sentiment"]) == "decondense probe gpt2 --sentiment reviews.jsonl"


def test_options_as_json_holds_them_are_compared_with_defaults_in_tuples() -> None:
    options = {"bits": [8, 4], "override": ["a=1"], "tie": False, "streaming": True, "name": None}
    usual = {"bits": (8, 4), "override": (), "tie": True, "streaming": False, "name": None}
    assert command_line(["saw"], options, usual) == "saw --override a=1 --no-tie --streaming"
