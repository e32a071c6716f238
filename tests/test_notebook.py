"""The notebook in docs/ runs from top to bottom in a fresh kernel, and what it shows is what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "notebook.ipynb"
EXECUTE = """
import sys, nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
source, folder = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
specs = KernelSpecManager(kernel_dirs=[folder + "/kernels"])
manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
NotebookClient(notebook, km=manager, timeout=300).execute(cwd=folder)
nbformat.write(notebook, folder + "/executed.ipynb")
"""
"""A process of its own: the client leaves sockets for the garbage collector, which warns of them at its leisure."""


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_the_notebook_runs(tmp_path: Path) -> None:
    for package in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(package, reason="needs the extra notebook")
    pytest.importorskip("pandas", reason="needs the extra pandas")
    kernel = tmp_path / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": command, "display_name": "Python", "language": "python"}), encoding="utf-8")
    places = {
        "FEATCACHE_HOME": tmp_path / "home",
        "IPYTHONDIR": tmp_path / "ipython",
        "JUPYTER_RUNTIME_DIR": tmp_path / "runtime",
        "PYTHONPATH": NOTEBOOK.parents[1],
    }
    told = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(tmp_path)],
        env={**os.environ, **{name: str(place) for name, place in places.items()}},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    cells = json.loads((tmp_path / "executed.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = [
        "".join(output["data"]["text/plain"])
        for cell in cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "execute_result"
    ]
    assert shown[0].startswith("('shapes-tiny-coop', 24, ")
    assert any("gda" in text for text in shown)
    assert 0.5 < float(shown[-1]) < 1
