"""What `effv2` says of itself, how quickly, and what of others it leaves out."""

import json
import logging
import os
import signal
import subprocess
import sys

import pytest
from absl import logging as absl_logging

import keras_effv2
from keras_effv2 import chatter, cli, exporting, quiet, training
from keras_effv2.cli import flags


def run(capsys, *argv):
    code = cli.main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_what_effv2_says_of_itself(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(f"  {name} " in out for name in cli.COMMANDS)
    for name in cli.COMMANDS:
        code, out, _ = run(capsys, name, "--help")
        assert code == 0 and out.startswith(f"usage: effv2 {name} ")
    code, out, _ = run(capsys, "models", "--format=json")
    assert {row["name"] for row in json.loads(out)} > {"EfficientNetV2XL", "CoAtNet7"}
    code, out, _ = run(capsys, "models", "--format=markdown")
    assert code == 0 and "| EfficientNetV2S | 21,612,360 | 384 |" in out
    code, out, _ = run(capsys, "doctor", "--format=json")
    assert any(row["name"] == "tensorflow" and row["ok"] for row in json.loads(out))
    code, out, _ = run(capsys, "export", "--help")
    assert "--quantize: <float16|int8>: " in out
    _, out, _ = run(capsys, "train", "--help")
    assert "  ema: Decay of the moving average" in out
    assert "  image_size: (first, last) side in pixels" in out and "_field" not in out
    assert run(capsys, "--version")[:2] == (0, f"effv2 {keras_effv2.__version__}\n")


def test_answers_come_without_tensorflow():
    """Help of everything, the version and the models, in one process; then `python -m`."""
    code = (
        "import sys; from keras_effv2 import cli\n"
        "for name in cli.COMMANDS: assert cli.main([name, '--help']) == 0\n"
        "for argv in (['--help'], ['--version'], ['models']): assert cli.main(argv) == 0\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    command = [sys.executable, "-X", "importtime", "-m", "keras_effv2", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "keras_effv2.cli" in done.stderr
    assert not any(heavy in done.stderr for heavy in ("numpy", "tensorflow"))


def test_choices_are_those_of_their_owners():
    assert flags.STRATEGIES == tuple(training.STRATEGIES)
    assert {"hub", *exporting.FORMATS} == set(_choices("export", "format"))
    assert set(exporting.KINDS) == set(_choices("export", "kind"))


def _choices(command, flag):
    from absl.flags import FlagValues

    values = FlagValues()
    cli.app.load(command).define(values)
    return values[flag].parser.enum_values


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("b0", "EfficientNetV2B0"),
        ("XL", "EfficientNetV2XL"),
        ("efficientnet-v2-s", "EfficientNetV2S"),
        ("EfficientNetV2_B3", "EfficientNetV2B3"),
        ("coatnet-2", "CoAtNet2"),
        ("CoAtNet7", "CoAtNet7"),
    ],
)
def test_names_of_models_are_understood(text, name):
    from absl.flags import FlagValues

    values = FlagValues()
    flags.model(values)
    values(["effv2", f"--model={text}"])
    assert values.model == name


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "a could not be written"), "a could not be written."),
        (OSError(28, "No room", "a"), "a: No room."),
        (OSError(28, "No room", "a", None, "b"), "a -> b: No room."),
        (OSError("a is\nin two lines"), "a is in two lines."),
        (KeyError(), "KeyError."),
    ],
)
def test_an_error_is_one_sentence(error, said):
    assert flags.sentence(error) == said


def test_a_reader_that_leaves_early_is_no_error():
    """`effv2 models | head -1`"""
    command = f"{sys.executable} -m keras_effv2 models | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout == "m" and not done.stderr


def test_closed_streams_lead_nowhere():
    """The next files that are opened do not get their numbers."""
    code = (
        "import os, sys; from keras_effv2 import cli; done = cli.main(['models']); "
        "sys.exit(done or os.open(os.devnull, os.O_RDONLY) < 3)"
    )
    command = f'"{sys.executable}" -c "{code}" <&- >&- 2>&-'
    assert subprocess.run(command, shell=True).returncode == 0


def test_sigterm_ends_a_command_as_an_exit_does(monkeypatch):
    """Temporary folders go; the caller has his own handler again."""
    before, left = signal.getsignal(signal.SIGTERM), []

    def work(*_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            left.append("removed")

    monkeypatch.setattr("keras_effv2.cli.models.run", work)
    with pytest.raises(SystemExit) as ended:
        cli.main(["models"])
    assert ended.value.code == 143 and left == ["removed"]
    assert signal.getsignal(signal.SIGTERM) == before


# ------------------------------------------------------------------------------------ own lines


def test_messages_of_others_are_left_out(capsys):
    """Ours without a prefix, warnings of ours marked, of others errors only."""
    before = absl_logging.get_verbosity()
    try:
        with quiet.own_lines(0):
            _log(quiet.__file__, "ours")
            _log(os.__file__, "theirs")
        assert capsys.readouterr().err.splitlines() == [
            "ours INFO",
            "WARNING: ours WARNING",
            "ERROR: ours ERROR",
            "ERROR: theirs ERROR",
        ]
        with quiet.own_lines(-1):
            absl_logging.info("told")
        assert not capsys.readouterr().err
    finally:
        absl_logging.set_verbosity(before)


def _log(file, text):
    """A message of every level, as if it came from that file."""
    for level in ("INFO", "WARNING", "ERROR"):
        record = logging.LogRecord(
            "absl", getattr(logging, level), file, 1, f"{text} {level}", (), None
        )
        logging.getLogger("absl").handle(record)


def test_what_cpp_tells_is_filtered_by_level():
    """Lines as TensorFlow 2.21 writes them on a machine without a GPU, and on one that has."""
    told = [
        b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        b"I0000 00:00:1795646169.048009    7197 cudart_stub.cc:31] Could not find cuda drivers",
        b"W0000 00:00:1795646169.048009    7197 gpu_device.cc:2342] Cannot dlopen some GPU libraries",
        b"2026-11-25 22:36:09.129427: I tensorflow/core/platform/cpu_feature_guard.cc:227] This",
        b"To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow",
        b"E0000 00:00:1795648236.784156    5375 cuda_dnn.cc:8579] Unable to register cuDNN factory",
        b"E0000 00:00:1795648236.784156 5 cuda_platform.cc:52] failed call to cuInit: UNKNOWN (303)",
    ]
    kept = [
        b"E0000 00:00:1795646169.048009    7197 bfc_allocator.cc:497] Out of memory",
        b"2026-11-25 22:36:09.129427: E tensorflow/core/framework/node_def_util.cc:680] NodeDef",
        b"F0000 00:00:1795646169.048009    7197 cpu_feature_guard.cc:36] was compiled to use AVX",
        b"epoch 1/3: 160 px, loss 1.461",
        b"",
    ]
    lines = b"".join(line + b"\n" for pair in zip(told, kept + [b"x", b"y"]) for line in pair)
    done = subprocess.run(
        [sys.executable, "-IS", chatter.__file__], input=lines, capture_output=True, check=True
    )
    assert done.stdout.splitlines() == [*kept, b"x", b"y"]


def test_descriptor_2_is_filtered_and_given_back():
    """Python's stderr stays the terminal's; what C++ writes goes through the filter."""
    code = (
        "import os, sys; from keras_effv2 import quiet\n"
        "with quiet.own_lines(0):\n"
        "    os.write(2, b'I0000 00:00:1795646169.0 1 a.cc:1] chatter\\nan error\\n')\n"
        "    print('ours', file=sys.stderr)\n"
        "os.write(2, b'I0000 00:00:1795646169.0 1 a.cc:1] after\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(done.stderr.splitlines()) == [
        "I0000 00:00:1795646169.0 1 a.cc:1] after",
        "an error",
        "ours",
    ]


def test_a_process_that_lives_on_does_not_hold_the_command():
    """As the server that forks a search's trainings: it has our descriptor 2 and ends after us."""
    code = (
        "import os, subprocess; from keras_effv2 import quiet\n"
        "with quiet.own_lines(0):\n"
        "    child = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL)\n"
        "    os.write(2, b'an error without an end')\n"
        "child.kill()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stderr == "an error without an end"
