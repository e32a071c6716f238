"""The wheel, the sdist and an editable install all carry every module, method and bundled file, under one name."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import pytest

import featcache

pytestmark = pytest.mark.xdist_group("packaging")  # one wheel for all
ROOT = Path(__file__).resolve().parents[1]


def _tree() -> set[str]:
    """What must be installed, as paths inside the wheel."""
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "featcache").rglob("*.py")}
    bundled = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "featcache/bundled").iterdir()
        if path.suffix in (".json", ".safetensors")
    }
    page = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "featcache/reporting/page").iterdir()
        if path.suffix in (".json", ".css", ".js")
    }
    methods = {f"featcache/adapters/{path.name}" for path in (ROOT / "adapters").glob("*.py")}
    return modules | bundled | page | methods | {"featcache/py.typed"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel made from it."""
    folder, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source") / "featcache"
    # A build writes into the tree: of two in one checkout, one would find the other's half-made files.
    leave = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "demo", "site")
    shutil.copytree(ROOT, source, ignore=leave)
    # The environment's own setuptools builds: nothing is fetched.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_wheel_list_equals_the_tree(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == _tree()


def test_wheel_installs_one_top_level_name(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        assert {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name} == {"featcache"}


def test_sdist_carries_what_the_wheel_needs(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    expected = {name.replace("featcache/adapters/", "adapters/") for name in _tree()}
    assert expected <= names


def test_wheel_runs_without_the_checkout(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path)
    code = (
        "from pathlib import Path; import featcache; from featcache import registry;"
        f"assert Path(featcache.__file__).is_relative_to({str(tmp_path)!r}), featcache.__file__;"
        f"assert registry.adapters_folder().is_relative_to({str(tmp_path)!r});"
        "print(sorted(registry.known()), registry.load('clip_adapter').__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "clip_adapter" in done.stdout
    assert "ClipAdapter" in done.stdout


def test_help_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['featcache', '--help']\n"
        "from featcache.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'open_clip', 'torchvision', 'h5py', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "extract" in done.stdout


def test_no_public_function_shadows_a_module() -> None:
    modules = {path.stem for path in (ROOT / "featcache").glob("*.py")} | {
        path.parent.name for path in (ROOT / "featcache").glob("*/__init__.py")
    }
    public = {name for name in dir(featcache) if not name.startswith("_")}
    assert all(isinstance(getattr(featcache, name), types.ModuleType) for name in public & modules)


def test_method_files_are_loaded_by_path_only() -> None:
    for folder in ("featcache", "tests", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            assert "\nimport adapters" not in text, file
            assert "\nfrom adapters" not in text, file
            assert "\nfrom featcache.adapters" not in text, file
