"""The study in a database server: PostgreSQL, started for the test and stopped after it."""

import os
import pathlib
import shutil
import socket
import subprocess
import tempfile

import pytest
from test_searching import row

from keras_effv2.searching.engine import Engine
from keras_effv2.space import SPACES


def program(name):
    """Debian keeps the server's programs out of the PATH."""
    places = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(places[-1]) if places else None)


@pytest.fixture
def postgres():
    """The URL of an empty database."""
    pytest.importorskip("psycopg2", reason="the driver psycopg2 is not installed")
    if not program("initdb") or not program("pg_ctl"):
        pytest.skip("PostgreSQL is not installed")
    account = {"user": "nobody"} if os.geteuid() == 0 else {}  # the server refuses root
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pg"))
    if account:
        shutil.chown(folder, "nobody")

    def call(*command):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **account)

    try:
        call(program("initdb"), "-D", folder / "data", "-U", "study", "-A", "trust")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        start = ("-o", options, "-l", folder / "log", "-w", "start")
        call(program("pg_ctl"), "-D", folder / "data", *start)
        try:
            yield f"postgresql+psycopg2://study@127.0.0.1:{port}/postgres"
        finally:
            call(program("pg_ctl"), "-D", folder / "data", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_two_machines_share_a_study(postgres, tmp_path):
    """What one tells the other knows, also when both have the same trial for their own."""
    engines = [
        Engine(tmp_path, SPACES["tiny"], "tpe", 0, postgres, "study", lambda variant: None)
        for _ in range(2)
    ]
    taken = []
    for number in range(16):
        values, variant, trial = engines[number % 2].draw(number, taken)
        taken.append(variant.name)
        result = {**row(number, 0.5, values=values), "name": variant.name}
        if number == 12:  # the other has just started and takes the trial for lost
            engines[1].remember([])
        engines[number % 2].tell(result, trial)
    for engine in engines:
        names = [t.user_attrs.get("name") for t in engine.study.trials if t.values]
        assert sorted(names) == sorted(taken) and len(set(names)) == 16
    other = Engine(tmp_path, SPACES["tiny"], "tpe", 0, postgres, "another", lambda variant: None)
    assert not other.study.trials
