"""Every example runs, in a process of its own, and is short."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
# what others run too: finetune_folder.py with other data, docs/doors.md
SLOW = {"finetune_cifar.py", "finetune_flowers.py", "finetune_cars.py", "export_to_hub.py"}


def run(command, folder, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SCRIPTS],
)
def test_example(name, tmp_path):
    out = run([sys.executable, ROOT / "examples" / name, "--smoke"], tmp_path)
    assert out.strip()
    for line in out.splitlines():
        first = line.split(":")[0]
        if first.endswith(".png"):
            assert (tmp_path / first).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", SCRIPTS)
def test_example_is_short_and_listed(name):
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    assert f"`{name}`" in (ROOT / "examples" / "README.md").read_text(encoding="utf-8")


def test_notebook(tmp_path):
    """Its code, in order, in one process; in the notebook a variable makes it long."""
    cells = json.loads((ROOT / "examples" / "finetune.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert all(not cell.get("outputs") for cell in cells)
    out = run([sys.executable, "-c", code], tmp_path, MPLBACKEND="agg")
    assert "test:" in out
