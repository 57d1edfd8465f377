"""Files of a user: written whole, locked, safely unpacked."""

import errno
import io
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from checkpoint_files import flips

from keras_effv2 import files


def test_a_flipped_byte_of_an_archive_is_found(tmp_path):
    """Whether it breaks the compression or gives other numbers; nothing is written."""
    digits = np.random.default_rng(0).integers(0, 20, 500_000).astype("uint8").tobytes()
    path, out = tmp_path / "m.tgz", tmp_path / "out"
    with tarfile.open(path, "w:gz") as tar:
        for name in "ab":
            member = tarfile.TarInfo(name)
            member.size = len(digits)
            tar.addfile(member, io.BytesIO(digits))
    for flipped in flips(path.read_bytes()):
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="damaged archive"):
            files.unpack(path, out)
    assert not out.exists()


@pytest.mark.parametrize("kind", ["link", "dots", "absolute"])
def test_hostile_archives_are_refused(kind, tmp_path):
    member = tarfile.TarInfo({"link": "a", "dots": "../a", "absolute": "/tmp/kev_a"}[kind])
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
        tar.addfile(member, io.BytesIO())
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="refused"):
        files.unpack(tmp_path / "x.tgz", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [] and not (tmp_path / "a").exists()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    files.write_whole(path, "old")
    with pytest.raises(KeyError), files.replacing(path) as temporary:
        temporary.write_text("ha")
        raise KeyError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]
    with files.replacing(path) as temporary:
        assert temporary.name.endswith("a.json") and path.read_text() == "old"
        temporary.write_text("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.json"]


def test_a_link_stays_a_link(tmp_path):
    """What it points to is replaced, whole, under a temporary name of the kind that was asked for."""
    for folder in ("there", "here"):
        (tmp_path / folder).mkdir()
    target, link = tmp_path / "there/1a2b", tmp_path / "here/model.json"
    target.write_text("old")
    link.symlink_to("../there/1a2b")
    with files.replacing(link) as temporary:
        assert temporary.suffix == ".json"
        temporary.write_text("new")
    files.write_whole(link, link.read_text() + "er")
    assert link.is_symlink() and target.read_text() == "newer"
    assert [os.listdir(tmp_path / folder) for folder in ("there", "here")] == [
        ["1a2b"],
        ["model.json"],
    ]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_whole(tmp_path / "a", "old")
    with pytest.raises(OSError, match="a could not be written .No space left.*unharmed"):
        with files.replacing(tmp_path / "a") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("new")
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_room_is_wanted_where_it_is_missing(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(
        OSError, match="a could not be written .Is a directory.*See to that and run"
    ):
        files.write_whole(tmp_path / "a", "new")
    with pytest.raises(OSError, match="a could not be written .no such thing.*See to that and run"):
        with files.replacing(tmp_path / "a"):
            raise OSError("no such thing")


FULL = "No space left on device"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, FULL),
        RuntimeError(f"{{{{node}}}} /x/variables; {FULL} [Op:SaveV2]"),  # as TensorFlow says it
        OSError("36864 requested and 5088 written"),  # as NumPy says it
    ],
)
def test_a_full_disk_leaves_nothing_of_a_folder(error, tmp_path):
    wanted = f"a could not be written .{FULL}.; nothing of it is left. Make room and run"
    with pytest.raises(OSError, match=wanted), files.in_place(tmp_path / "a") as folder:
        folder.mkdir()
        raise error
    assert os.listdir(tmp_path) == []


def test_paths_of_users(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("RUNS", "/data")
    assert files.expand("~/x") == "/home/me/x" and files.expand("$RUNS/x") == "/data/x"
    assert str(files.local("$HOME/x", "A run")) == "/home/me/x"
    with pytest.raises(ValueError, match="A run is a local path. Received: gs://bucket/x"):
        files.local("gs://bucket/x", "A run")


def test_a_lock_keeps_another_process_out(tmp_path):
    code = (
        "import sys; from keras_effv2 import files\n"
        "try:\n    with files.locked(sys.argv[1], wait=False): print('free')\n"
        "except BlockingIOError: print('held')"
    )

    def other():
        command = [sys.executable, "-c", code, str(tmp_path / "lock")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with files.locked(tmp_path / "lock"):
        assert other() == "held"
    assert other() == "free"


@pytest.mark.parametrize("end", ["\n", "\r", "\x0b", "\x85", "\u2028"])
def test_a_label_is_a_line(end):
    files.check_lines(["red", "light blue"])
    with pytest.raises(ValueError, match="has a line break, and labels.txt has one label a line"):
        files.check_lines(["red", f"light blue{end}"])


def test_a_model_file_is_a_file(tmp_path):
    """A pipe would be waited for."""
    os.mkfifo(tmp_path / "a.keras")
    with pytest.raises(ValueError, match="a.keras is a pipe or a device, not a file"):
        files.check_model_file(str(tmp_path / "a.keras"))
    (tmp_path / "b.keras").write_bytes(b"torn")
    with pytest.raises(ValueError, match="b.keras is no whole .keras file"):
        files.check_model_file(str(tmp_path / "b.keras"))
    with pytest.raises(FileNotFoundError, match="no model file"):
        files.check_model_file(str(tmp_path / "c.keras"))


def test_a_model_file_that_may_not_be_read_is_not_called_cut_off(tmp_path, monkeypatch):
    (tmp_path / "a.keras").write_bytes(b"PK")

    def refuse(path, mode):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError):
        files.check_model_file(str(tmp_path / "a.keras"))
