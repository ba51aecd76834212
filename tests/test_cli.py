"""The command line: help that is quick, and for each mistake exit status 2 and one line that says what would work."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import decondense
from decondense import cli
from decondense.cli import COMMANDS, main

MODULE = [sys.executable, "-m", "decondense"]


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MODULE, *words], capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def fail(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail with 2; its one line on standard error."""
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith("decondense: error: ")
    return line


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands_a_line_each(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    for name, command in COMMANDS.items():
        assert [line.split(maxsplit=1) for line in lines if line.startswith(f"  {name} ")] == [[name, command.summary]]
    assert max(map(len, lines)) <= 100


def test_help_is_quick_as_it_needs_no_torch() -> None:
    program = """
import sys
for name in ("torch", "numpy", "transformers", "tyro"):
    sys.modules[name] = None    # importing it now fails
from decondense.cli import main
main(["--help"])
main(["--version"])
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert finished.stderr == ""
    assert f"decondense {decondense.__version__}" in finished.stdout.splitlines()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"usage: decondense {name}" in printed.out
    assert "--out" in printed.out
    assert "--seed" in printed.out


def test_the_module_and_the_script_are_the_command_line(root: Path) -> None:
    finished = run("--version")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, f"decondense {decondense.__version__}\n", "")
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"decondense": "decondense.cli:main"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mesure", "gpt2"], "unknown command 'mesure': did you mean measure? the commands are demo, measure"),
        (["zzz"], "unknown command 'zzz': the commands are"),
        (["--sampels"], "unknown option '--sampels': the commands are"),
        (["measure", "gpt2", "--sampels", "3"], "unknown option --sampels: did you mean --samples?"),
        (["measure", "gpt2", "--max-lenght=3"], "unknown option --max-lenght: did you mean --max-length?"),
        (["measure", "gpt2", "--zzz"], "unknown option --zzz: decondense measure --help lists the options"),
        (["measure", "gpt2", "--samples", "ten"], "--samples: 'ten' is not a whole number; decondense measure --help"),
        (["measure", "gpt2", "--samples", "1.5"], "--samples: '1.5' is not a whole number"),
        (["measure", "gpt2", "--samples"], "Missing value for argument '--samples'; decondense measure --help"),
        (["measure", "gpt2", "--samples", "3", "more"], "unexpected argument 'more': put all that has no --"),
        (["measure", "gpt2", "--trust-remote-code=yes"], "unexpected argument 'yes'"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_would_work(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fail(capsys, *words)


@pytest.mark.parametrize("setting", [{"COLUMNS": "30"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8"}])
def test_a_mistake_is_the_same_line_on_every_terminal(setting: dict[str, str]) -> None:
    finished = run("measure", "gpt2", "--samples", "ten", env={**os.environ, **setting})
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == (
        "decondense: error: --samples: 'ten' is not a whole number; decondense measure --help lists what can be given\n"
    )


def give(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run_command(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_run", run_command)


def test_an_error_of_many_lines_becomes_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, decondense.UserError("one\n  two"))
    assert fail(capsys, "measure") == "decondense: error: one two"


def test_an_error_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    # The interpreter then prints the traceback and exits with 1.
    give(monkeypatch, ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError, match="ours"):
        main(["measure"])


@pytest.mark.parametrize("name", COMMANDS)
def test_an_interruption_says_how_to_go_on(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, KeyboardInterrupt())
    assert main([name]) == 130
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"decondense: interrupted: {COMMANDS[name].resume}\n"
    assert "run the same command again" in printed.err


def test_a_missing_extra_is_one_line_that_names_it() -> None:
    program = (
        "import sys; sys.modules['tyro'] = None; from decondense.cli import main; sys.exit(main(['measure', 'gpt2']))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert finished.returncode == 2
    assert finished.stderr == "decondense: error: tyro is not installed: pip install 'decondense[hf]' brings it\n"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    # As in `decondense --help | true`: the pipe has no reader when the help is written.
    read_end, write_end = os.pipe()
    os.close(read_end)
    finished = subprocess.run([*MODULE, "--help"], stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write_end)
    assert (finished.returncode, finished.stderr) == (1, "")
