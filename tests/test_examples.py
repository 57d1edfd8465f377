"""Every example runs, in a process of its own and with a tiny B0, and is short."""

import json
import os
import pathlib
import subprocess
import sys

import forked
import pytest
import small_networks

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
# what others run too: finetune_folder.py with other data, docs/doors.md
SLOW = {"finetune_cifar.py", "finetune_flowers.py", "finetune_cars.py", "export_to_hub.py"}


def run(script, folder, *flags):
    """Its output; a script that starts processes of its own cannot be a child of the server."""
    if script.name == "search_a_network.py":
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, script, *flags]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    else:
        done = forked.run(small_networks.__file__, script, *flags, folder=folder, MPLBACKEND="agg")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SCRIPTS],
)
def test_example(name, tmp_path):
    out = run(ROOT / "examples" / name, tmp_path, "--smoke")
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
    (tmp_path / "notebook.py").write_text(code, encoding="utf-8")
    out = run(tmp_path / "notebook.py", tmp_path)
    assert "test:" in out
