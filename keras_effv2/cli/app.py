"""What is common to all commands: how one is found, helped with, run, and how it fails.

A command is a file of this folder: its docstring tells what it does, `USAGE` how it is called,
`define(values)` defines its flags, `run(values, positional)` does it and may return an exit code.
Neither Keras nor TensorFlow is imported before `run` has checked what it was given.
"""

import contextlib
import importlib
import os
import signal
import sys
import threading

from absl import flags

from keras_effv2 import needs, processor, quiet, variants
from keras_effv2.cli import settings
from keras_effv2.cli.flags import (
    DONE,
    FAILED,
    USAGE,
    UsageError,
    hint,
    integer,
    sentence,
    write,
)
from keras_effv2.version import __version__

COMMANDS = (
    "models",
    "predict",
    "train",
    "finetune",
    "evaluate",
    "export",
    "publish",
    "convert",
    "benchmark",
    "doctor",
    "search",
    "scale",
    "layouts",
)


def main(argv=None):
    """Runs a command line; returns the exit code: 0 done, 1 failed, 2 bad usage, 75 a worker lost.

    After a signal it is 128 and the signal's number, as of a shell.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    try:
        with _leaving_when_terminated():
            return _main(*argv)
    except BrokenPipeError:  # as of `effv2 models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _open_streams():
    """Opens streams that were closed anew, to nowhere: else the next files would get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


@contextlib.contextmanager
def _leaving_when_terminated():
    """Within the block SIGTERM raises `SystemExit`: what is temporary is removed, children end."""

    def leave(number, _):
        raise SystemExit(128 + number)

    ours = threading.current_thread() is threading.main_thread()
    before = ours and signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


def _main(name="", *rest):
    if name in ("", "-h", "--help", "help"):
        write(_overview())
        return DONE if name else USAGE
    if name == "--version":
        write(f"effv2 {__version__}")
        return DONE
    if name not in COMMANDS:
        known = f"Commands: {', '.join(COMMANDS)}{hint(name, COMMANDS)}"
        _complain(sentence(f"there is no command {name!r}. {known}"))
        return USAGE
    command = load(name)
    values = flags.FlagValues()
    integer(values, "verbosity", 0, "-1: warnings only; 1: tracebacks and all messages too.")
    command.define(values)
    if any(text in ("-h", "--help", "-help") for text in rest):
        write(_help(name, command, values))
        return DONE
    return _run(name, command, values, rest)


def _run(name, command, values, rest):
    try:
        positional = values(["effv2", *map(settings.undotted, rest)])[1:]
        if positional and not getattr(command, "POSITIONAL", False):
            raise UsageError(
                f"{positional[0]!r} belongs to no flag; write --flag=value, and --noflag for no"
            )
        processor.prefer_onednn()
        with quiet.own_lines(values.verbosity), needs.naming("This command"):
            if "model" in values and values.model.endswith(".json"):
                variants.find(values.model)  # the file of a row says what is wrong with it
            return command.run(values, positional) or DONE
    except (flags.Error, UsageError) as error:
        _complain(f"{sentence(error)} See effv2 {name} --help.", name)
        return USAGE
    except KeyboardInterrupt:
        _complain("interrupted.", name)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if values.is_parsed() and values.verbosity > 0:
            raise
        _complain(sentence(error), name)
        return getattr(error, "exit_code", FAILED)


def _complain(text, name=""):
    print(f"effv2 {name}".rstrip() + f": {text}", file=sys.stderr)


def load(name):
    return importlib.import_module(f"keras_effv2.cli.{name}")


def _overview():
    rows = "\n".join(f"  {name:<10} {load(name).__doc__.splitlines()[0]}" for name in COMMANDS)
    return (
        "usage: effv2 COMMAND [FLAGS]\n\nEfficientNetV2 and CoAtNet: use, train, evaluate and ship "
        f"them.\n\n{rows}\n\neffv2 COMMAND --help tells the flags of a command; effv2 --version the "
        "version."
    )


def _help(name, command, values):
    lines = [
        f"usage: effv2 {name} {command.USAGE}",
        "",
        *command.__doc__.splitlines(),
        "",
        "flags:",
    ]
    for key in sorted(set(values) - set(settings.DOTTED.values())):
        flag = values[key]
        default = "" if flag.default in (None, "") else f" (default {flag.default})"
        lines.append(f"  --{key}: {flag.help}{default}")
    return "\n".join([*lines, *getattr(command, "more_help", list)()])
