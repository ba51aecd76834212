"""The command line: words in, a command's `run` called, an exit status out. Knows commands by name, not what they do.

A command is a module with a frozen dataclass of its options and `run(config)`; both are imported when the command is
called, so that `decondense --help` costs no torch. Its docstrings are its help. Exit status: 0 done, 2 the user can
mend it (one line says how), 130 interrupted, 1 anything else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from decondense.errors import UserError, require


@dataclass(frozen=True)
class Command:
    """Where a command is, what it does in a line, and how to go on after it was interrupted."""

    module: str
    config: str
    summary: str
    resume: str


COMMANDS = {
    "demo": Command(
        "decondense.studies.demo",
        "DemoConfig",
        "train twins on the embedded corpus, with and without dispersion: table, pictures, page",
        "finished arms are kept, run the same command again to go on",
    ),
    "measure": Command(
        "decondense.commands.measure",
        "MeasureConfig",
        "measure how condensed the embeddings of models are: table, results.json, heatmap",
        "finished models are kept, run the same command again to go on",
    ),
    "train": Command(
        "decondense.commands.train",
        "TrainConfig",
        "train a model with a loss against condensation or a baseline: model, results.json",
        "the last saved state is kept, run the same command again to go on",
    ),
    "distill": Command(
        "decondense.commands.distill",
        "DistillConfig",
        "train a student of a larger model, with such a loss or without: model, results.json",
        "the last saved state is kept, run the same command again to go on",
    ),
    "quantize": Command(
        "decondense.commands.quantize",
        "QuantizeConfig",
        "round weights to 8, 4, 3, 2 bits: perplexity, bytes, spread; twins compared",
        "finished models are kept, run the same command again to go on",
    ),
    "compare": Command(
        "decondense.commands.compare",
        "CompareConfig",
        "compare arms over seeds: intervals, paired tests, ranks, tables, forest plots",
        "run the same command again",
    ),
    "capacity": Command(
        "decondense.commands.capacity",
        "CapacityConfig",
        "count the bits a parameter that tiny models learn of made-up people: table, figure",
        "finished runs and the last saved state are kept, run the same command again to go on",
    ),
    "probe": Command(
        "decondense.commands.probe",
        "ProbeConfig",
        "see what hidden states are good for: retrieval, linear probes, blanks; results.json",
        "finished models are kept, run the same command again to go on",
    ),
    "evaluate": Command(
        "decondense.commands.evaluate",
        "EvaluateConfig",
        "evaluate models on benchmarks of lm-eval and by perplexity: table, results.json, samples",
        "finished tasks are kept, run the same command again to go on",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (those of the process by default) and return the exit status.

    Errors that the user cannot mend pass through: the interpreter prints their traceback and exits with 1.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words else "--help"
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            if name in ("-h", "--help"):
                print(usage())
            elif name in ("-V", "--version"):
                from decondense import __version__

                print(f"decondense {__version__}")
            else:
                _run(_find(name), name, words[1:])
            sys.stdout.flush()
    except UserError as error:
        print(f"decondense: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resume = COMMANDS[name].resume if name in COMMANDS else "run the same command again"
        print(f"decondense: interrupted: {resume}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away (`| head`). The interpreter must not try to write to it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def usage() -> str:
    """The help of the whole: the commands, one line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: decondense COMMAND [OPTIONS]",
            "",
            "See whether a language model's embeddings have collapsed, and train the collapse away.",
            "",
            *lines,
            "",
            "decondense COMMAND --help lists the options of a command, decondense --version tells the version.",
        ]
    )


def _find(name: str) -> Command:
    if name in COMMANDS:
        return COMMANDS[name]
    what = "option" if name.startswith("-") else "command"
    raise UserError(
        f"unknown {what} {name!r}: {_near(name, COMMANDS)}the commands are {', '.join(COMMANDS)}; "
        "decondense --help says what they do"
    )


def _run(command: Command, name: str, words: Sequence[str]) -> None:
    require("tyro", extra="hf")
    module = importlib.import_module(command.module)
    config = _parse(getattr(module, command.config), f"decondense {name}", words)
    if config is not None:
        module.run(config)


def _parse(kind: type, program: str, words: Sequence[str]) -> Any:
    """The dataclass `kind` filled from `words`; None where they asked for help, which was then printed."""
    tyro = require("tyro", extra="hf")
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            config, unknown = tyro.cli(
                kind, prog=program, args=words, return_unknown_args=True, config=(tyro.conf.FlagCreatePairsOff,)
            )
    except SystemExit as stop:
        if not stop.code:
            return None
        raise UserError(f"{_plain(errors.getvalue())}; {program} --help lists what can be given") from None
    if unknown:
        raise UserError(_about_unknown(unknown, kind, program))
    return config


def _about_unknown(unknown: Sequence[str], kind: type, program: str) -> str:
    option = next((word for word in unknown if word.startswith("-")), None)
    if option is None:
        return f"unexpected argument {unknown[0]!r}: put all that has no -- before the options; see {program} --help"
    given = option.partition("=")[0]
    known = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(kind)]
    return f"unknown option {given}: {_near(given, known)}{program} --help lists the options"


def _near(word: str, known: Sequence[str] | dict[str, Any]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}? " if near else ""


def _plain(box: str) -> str:
    """What one of tyro's boxes says, as one line: without its frame, its title, and the help that follows."""
    sections = [""]
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines():
        content = line.strip(" │")
        if content and not set(content) - set("─-"):
            sections.append("")
        elif not content.startswith(("╭", "╰")):
            sections[-1] += f" {content}"
    # The title is in the frame, or, where standard output takes ASCII only, a section of its own.
    text = sections[0] if "╭" in box or len(sections) == 1 else sections[1]
    text = " ".join(text.split()).removeprefix("Error parsing ").removesuffix(" Expected 1 values.").rstrip(".")
    text = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number", text)
    return re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", text)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """A warning as one line: where in the code it arose says nothing to whom the command line serves."""
    print(f"decondense: warning: {' '.join(str(message).split())}", file=sys.stderr)
