"""Each example, run as its reader runs it: the twin that is trained with the term ends far less condensed than the one without."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem != "tiny")
NEEDS = {
    "accelerate_loop": "accelerate",
    "hf_trainer": "accelerate",
    "lightning_module": "lightning",
    "peft_lora": "peft",
    "torchtitan_qwen3": "torchtitan",
    "trl_sft": "trl",
}
# torchtitan asks for a GPU: what stands for it runs the example.
PROGRAMS = {"torchtitan_qwen3": ROOT / "tests" / "examples" / "torchtitan_on_cpu.py"}
LAUNCHERS = {"ddp_loop": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]}
LINE = re.compile(r"^weight (.+): loss (.+) -> (.+), mean cosine (.+) -> (.+)$", flags=re.MULTILINE)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_twin_with_the_term_condenses_less(path):
    needed = NEEDS.get(path.stem)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    if path.stem == "ddp_loop" and not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this build of torch has no gloo")
    finished = subprocess.run(
        [sys.executable, *LAUNCHERS.get(path.stem, []), str(PROGRAMS.get(path.stem, path)), "--steps", "8"],
        capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    twins = [[float(number) for number in found] for found in LINE.findall(finished.stdout)]
    assert len(twins) == 2, finished.stdout
    (plain, plain_start, plain_loss, plain_began, plain_ended), (weight, start, loss, began, ended) = twins
    assert (plain, weight > 0) == (0, True)
    assert (plain_start, plain_began) == (start, began)  # twins begin alike
    assert plain_loss < start
    assert loss < start
    assert ended < plain_ended / 2


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_what_it_shows(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 60
    assert lines[0].startswith('"""')
