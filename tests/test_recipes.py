"""The scripts of recipes/ are well-formed, and what they ask for is what the programs take and the paper did."""

import itertools
import os
import shutil
import subprocess
import sys

import pytest
import tyro

from decondense.train.config import TrainConfig

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="this system has no bash")
SCRIPTS = ["gpt2-1gpu.sh", "gpt2-8gpu.sh", "qwen3-8gpu.sh", "qwen3.slurm"]
NOTE = '#!/bin/sh\nfor word in "$0" "$@"; do printf "%s\\n" "$word" >> "$NOTED"; done\npwd > "$NOTED.at"\n'


@pytest.fixture
def note(root, tmp_path):
    """Run a script with its programs replaced by ones that note what they are given; gives these words."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, content in {
        "decondense": NOTE,
        "torchrun": NOTE,
        "srun": '#!/bin/sh\nshift\nexec "$@"\n',
        "scontrol": "#!/bin/sh\necho node7\necho node8\n",
    }.items():
        (programs / name).write_text(content)
        (programs / name).chmod(0o755)

    def run(script, *more, **given):
        slurm = {"SLURM_SUBMIT_DIR": str(root), "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2"}
        places = {"PATH": f"{programs}:{os.environ['PATH']}", "NOTED": str(tmp_path / "noted"), "SLURM_JOB_ID": "5"}
        subprocess.run(
            [BASH, str(root / "recipes" / script), *more], check=True, cwd=tmp_path, timeout=60,
            env={**os.environ, **slurm, **places, **given},
        )  # fmt: skip
        program, *words = (tmp_path / "noted").read_text().splitlines()
        return [os.path.basename(program), *words]

    return run


@pytest.fixture
def examples(root):
    """The folder in which torchtitan finds its module."""
    if not (root / "examples").is_dir():
        pytest.skip("examples/ is absent")
    return root / "examples"


def test_each_script_is_here(root):
    written = {path.name for path in (root / "recipes").iterdir() if path.suffix in (".sh", ".slurm")}
    assert written == {*SCRIPTS, "qwen3-settings.sh"}
    assert all(f"]({name})" in (root / "recipes" / "README.md").read_text() for name in SCRIPTS)


@pytest.mark.parametrize("name", [*SCRIPTS, "qwen3-settings.sh"])
def test_bash_can_read_it(name, root):
    checked = subprocess.run([BASH, "-n", str(root / "recipes" / name)], capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")


def train_config(words):
    """The configuration that `decondense train` makes of its words."""
    assert words[0] == "train"
    return tyro.cli(TrainConfig, args=words[1:], config=(tyro.conf.FlagCreatePairsOff,))


@pytest.mark.parametrize(("script", "gpus"), [("gpt2-1gpu.sh", 1), ("gpt2-8gpu.sh", 8)])
def test_mid_training_has_the_settings_of_the_paper(script, gpus, note):
    words = note(script, "--lora", "--out", "elsewhere")
    if gpus > 1:
        assert words[:6] == ["torchrun", "--standalone", "--nproc-per-node", str(gpus), "-m", "decondense"]
    config = train_config(words[6:] if gpus > 1 else words[1:])
    config.check()
    assert (config.init, config.texts, config.tokens, config.context) == ("gpt2", "wikitext", 200_000_000, 1024)
    assert config.learning_rate == pytest.approx(5e-5 * gpus**0.5, rel=1e-5)
    assert (config.warmup, config.weight_decay, config.clip, config.precision) == (0.2, 0.1, 1.0, "bfloat16")
    assert (config.weight, config.layers, config.pairs) == (0.1, "all", "subset:256")
    assert config.batch_size == 8 * gpus
    assert config.gradient_checkpointing
    assert config.lora
    assert str(config.out) == "elsewhere"
    arms = {arm.name: arm for arm in config.all_arms()}
    assert len(arms) == 7
    assert arms["dispersion"].weight == 0.1
    assert arms["active_forgetting"].forget_every == 1000


@pytest.mark.parametrize(("script", "nodes"), [("qwen3-8gpu.sh", 1), ("qwen3.slurm", 2)])
def test_pre_training_asks_torchtitan_for_the_tokens_of_the_paper(script, nodes, note, root, examples, tmp_path):
    words = note(script, "--training.dtype", "float32", WEIGHT="0.3", OUT="here")
    assert words[0] == "torchrun"
    assert (tmp_path / "noted.at").read_text().strip() == str(examples)
    launcher, options = words[1 : words.index("-m")], words[words.index("-m") :]
    assert options[:6] == ["-m", "torchtitan.train", "--module", "torchtitan_qwen3", "--config", "qwen3_0_6b"]
    assert options[-2:] == ["--training.dtype", "float32"]
    assert launcher[launcher.index("--nproc-per-node") + 1] == "8"
    if nodes > 1:
        assert launcher[launcher.index("--nnodes") + 1] == str(nodes)
        assert launcher[launcher.index("--rdzv-endpoint") + 1] == "node7:29500"
    given = {name: value for name, value in itertools.pairwise(options) if name.startswith("--")}
    assert given["--dispersion_weight"] == "0.3"
    assert given["--dump_folder"] == str(tmp_path / "here")
    numbers = {name.rpartition(".")[2]: int(value) for name, value in given.items() if value.isdigit()}
    tokens = numbers["steps"] * numbers["global_batch_size"] * numbers["seq_len"]
    assert tokens == pytest.approx(156e9, rel=1e-4)
    assert numbers["global_batch_size"] % (numbers["local_batch_size"] * 8 * nodes) == 0


def test_the_example_that_torchtitan_is_pointed_at_is_here(examples):
    assert "def qwen3_0_6b(" in (examples / "torchtitan_qwen3.py").read_text()


def test_the_cost_that_is_told_is_the_one_that_is_computed(root):
    printed = subprocess.run(
        [sys.executable, str(root / "recipes" / "cost.py")], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert printed.strip() in (root / "recipes" / "README.md").read_text()
