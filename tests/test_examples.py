"""Every example runs, in a process of its own and with a tiny B0, and is short."""

import os
import pathlib
import subprocess
import sys

import forked
import nbclient
import nbformat
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
    """Its cells, in a kernel of Jupyter; in the notebook a variable makes it long."""
    notebook = nbformat.read(ROOT / "examples" / "finetune.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    paths = f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]"
    small = nbformat.v4.new_code_cell(
        f"import sys\n{paths}\nimport small_networks as s\ns.shrink()"
    )
    notebook.cells.insert(0, small)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    said = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert "right, between" in said and "says:" in said
    assert sum("image/png" in output.get("data", ()) for output in outputs) == 3
