"""Images and stores elsewhere: a real S3 server on this machine, and fsspec's memory."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from featcache import datasets, remote
from featcache.backbones import Backbone
from featcache.errors import ConfigError, DataError
from featcache.extraction import Request, make_plan
from featcache.store import Store
from featcache.store.places import resolve
from tests import synthetic
from tests.commandline import Run
from tests.conftest import put_picture
from tests.test_extraction import FULL, Done, carry, content

pytest.importorskip("fsspec", reason="needs the extra featcache[s3]")
needs_s3 = pytest.mark.skipif(
    not (importlib.util.find_spec("s3fs") and importlib.util.find_spec("moto")), reason="needs s3fs and moto[server]"
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    pytest.mark.xdist_group("s3"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3 server's address; AWS's own variables name it and the credentials."""
    from moto.server import ThreadedMotoServer

    served = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        remote._opened.cache_clear()
        yield f"http://{host}:{port}"
    remote._opened.cache_clear()
    served.stop()


def filesystem(protocol: str) -> Any:
    import fsspec

    return fsspec.filesystem(protocol, use_listings_cache=False)


@pytest.fixture
def bucket(server: str) -> str:
    """An empty bucket's URL."""
    files = filesystem("s3")
    for old in files.ls(""):
        files.rm(old, recursive=True)
    files.mkdir("here")
    return "s3://here"


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty folder of fsspec's memory."""
    files = filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield "memory://here"
    files.store.clear()


def put(folder: Path, url: str) -> str:
    """Send a folder's files, and return the URL."""
    files = filesystem(url.partition(":")[0])
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            files.pipe(f"{url}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return url


def plan_of(url: str, request: Request = FULL) -> tuple[Any, Backbone]:
    backbone = Backbone("tiny", "random:0")
    manifest = datasets.load(url, data=None, template="{}!")
    return make_plan(manifest, backbone.identity, request), backbone


def extract(url: str, *, workers: int = 0, request: Request = FULL) -> Done:
    return carry(*plan_of(url, request), workers=workers)


@pytest.fixture(scope="module")
def here(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The content of the store of the pictures under the name `pics`, extracted from this machine's disk."""
    folder = tmp_path_factory.mktemp("disk") / "pics"
    shutil.copytree(pictures, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATCACHE_HOME", str(tmp_path_factory.mktemp("alone")))
        return content(extract(f"folder:{folder}"))


# --- images


def test_a_folder_elsewhere_gives_the_store_of_the_same_folder_here(
    home: Path, pictures: Path, memory: str, here: str
) -> None:
    done = extract("folder:" + put(pictures, f"{memory}/pics"))
    assert content(done) == here
    assert plan_of(f"folder:{memory}/pics")[0].complete


@needs_s3
def test_a_bucket_is_read_by_decoding_processes(home: Path, pictures: Path, bucket: str, here: str) -> None:
    assert content(extract("folder:" + put(pictures, f"{bucket}/deep/pics"), workers=2)) == here


def test_a_table_elsewhere(home: Path, pictures: Path, memory: str, tmp_path: Path) -> None:
    for name in ("ant", "few"):
        shutil.copytree(pictures / "train" / name, tmp_path / name)
    lines = [f"{file.relative_to(tmp_path).as_posix()},{file.parent.name}" for file in sorted(tmp_path.rglob("*.bmp"))]
    (tmp_path / "pics.csv").write_text("\n".join(["path,label", *lines]))
    put(tmp_path, f"{memory}/t")
    there, local = (datasets.load(f"csv:{place}/pics.csv", data=None) for place in (f"{memory}/t", tmp_path))
    assert there.digest == local.digest
    assert there.reader.read(lines[0].split(",")[0])[1] == local.reader.read(lines[0].split(",")[0])[1]
    filesystem("memory").rm(f"{memory}/t/{lines[3].split(',')[0]}")
    with pytest.raises(DataError, match=r"1 of 33 images are listed in memory://here/t/pics\.csv but not found"):
        datasets.load(f"csv:{memory}/t/pics.csv", data=None)


def test_an_image_that_changed_elsewhere_is_encoded_anew(home: Path, pictures: Path, memory: str) -> None:
    url = put(pictures, f"{memory}/pics")
    before = content(extract(f"folder:{url}"))
    data = (pictures / "train/ant/005.bmp").read_bytes()
    filesystem("memory").pipe(f"{url}/test/ant/000.bmp", data)
    plan, backbone = plan_of(f"folder:{url}")
    assert plan.changed == ("test/ant/000.bmp",)
    again = carry(plan, backbone)
    assert again.encoded == 1
    assert content(again) != before


def test_images_elsewhere_are_verified_and_repaired(run: Run, pictures: Path, memory: str) -> None:
    url = put(pictures, f"{memory}/pics")
    options = [
        "--backbone",
        "tiny",
        "--weights",
        "random:0",
        "--shots",
        "1",
        "--seeds",
        "1",
        "--views",
        "1",
        "--workers",
        "0",
    ]
    assert run("extract", "--dataset", f"folder:{url}", *options).code == 0
    assert run("cache", "verify", "--images").code == 0
    filesystem("memory").pipe(f"{url}/test/ant/000.bmp", (pictures / "train/ant/005.bmp").read_bytes())
    said = run("cache", "verify", "--images")
    assert said.code == 2
    assert "test/ant/000.bmp" in said.err
    assert run("cache", "repair", "--workers", "0").code == 0
    assert run("cache", "verify", "--images").code == 0


def test_coops_layout_elsewhere(home: Path, memory: str, tmp_path: Path) -> None:
    paths = {split: [f"{split}{label}.jpg" for label in (0, 1)] for split in ("train", "val", "test")}
    for split, names in paths.items():
        for name in names:
            put_picture(tmp_path / "dtd/images" / f"{name}.bmp", seed=split + name)
    lists = {
        split: [[f"{name}.bmp", label, f"c{label}"] for label, name in enumerate(names)]
        for split, names in paths.items()
    }
    (tmp_path / "dtd/split_zhou_DescribableTextures.json").write_text(json.dumps(lists))
    put(tmp_path, f"{memory}/data")
    there, local = (datasets.load("dtd", data=Path(place)) for place in (f"{memory}/data", tmp_path))
    assert there.digest == local.digest
    assert not there.reader.upright
    path = there.splits["train"].path[1]
    assert there.reader.read(path)[1] == local.reader.read(path)[1]
    filesystem("memory").rm(f"{memory}/data/dtd/images/val0.jpg.bmp")
    with pytest.raises(DataError, match="1 of 6 images are listed in split file memory://here/data/dtd/split_zhou"):
        datasets.load("dtd", data=Path(f"{memory}/data"))
    with pytest.raises(DataError, match="there is nothing at memory://here/data/eurosat/split_zhou_EuroSAT"):
        datasets.load("eurosat", data=Path(f"{memory}/data"))
    with pytest.raises(DataError, match="from a folder of this machine alone, not from memory://here/data"):
        datasets.load("imagenet", data=Path(f"{memory}/data"))


def test_what_is_not_there_is_said(home: Path, memory: str) -> None:
    with pytest.raises(DataError, match="no folder with folders in it at 'memory://here/nothing'"):
        datasets.load(f"folder:{memory}/nothing", data=None)
    with pytest.raises(DataError, match=r"there is nothing at memory://here/no\.csv"):
        datasets.load(f"csv:{memory}/no.csv", data=None)
    with pytest.raises(ConfigError, match="no way to read rubbish://"):
        datasets.load("folder:rubbish://x/y", data=None)


@needs_s3
def test_a_bucket_that_is_not_there_or_not_ours_is_one_message(server: str, home: Path, run: Run) -> None:
    said = run("extract", "--dataset", "folder:s3://no-such-bucket/x", "--backbone", "tiny")
    assert said.code == 2
    assert "s3://no-such-bucket/x" in said.err
    assert "Traceback" not in said.err


def test_an_extra_that_is_lacking_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    remote._opened.cache_clear()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setitem(sys.modules, "fsspec.implementations.s3", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'featcache\[s3\]'"):
        datasets.load("folder:s3://here/x", data=None)
    remote._opened.cache_clear()


# --- stores


@pytest.fixture
def toy(run: Run, tmp_path: Path) -> Path:
    """A store in the cache."""
    features = synthetic.save(tmp_path / "toy.npz", synthetic.arrays())
    assert run("import", features, "--name", "toy").code == 0
    return resolve("toy")


@pytest.mark.parametrize("place", ["memory", pytest.param("bucket", marks=needs_s3)])
def test_a_store_is_pushed_fitted_there_and_pulled(
    run: Run, toy: Path, place: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(place)
    said = run("cache", "push", "toy", f"{url}/stores")
    assert said.code == 0, said.err
    there = f"{url}/stores/toy.h5"
    assert there in said.out
    with Store(toy) as store:
        before = store.content
    toy.unlink()
    fit = ("fit", there, "--shots", "2", "--adapter", "zero_shot")
    assert run(*fit).code == 0
    assert run("cache", "verify", there).code == 0
    assert not toy.exists()
    assert run("cache", "pull", there).code == 0
    with Store(toy) as store:
        assert store.content == before
    assert run("cache", "pull", there).code == 0  # the same content: nothing to do
    assert run("cache", "pull", there, "--name", "other").code == 0
    assert run("cache", "diff", "toy", "other").code == 0


def test_a_store_elsewhere_is_fetched_once_and_again_when_it_changed(
    run: Run, toy: Path, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = f"{memory}/toy.h5"
    assert run("cache", "push", "toy", there).code == 0
    fetched = []
    plain = remote.download
    monkeypatch.setattr(remote, "download", lambda url, file: (fetched.append(url), plain(url, file)))
    assert resolve(there) == resolve(there)
    assert len(fetched) == 1
    other = synthetic.save(tmp_path / "other.npz", synthetic.arrays(seed=1))
    assert run("import", other, "--name", "other").code == 0
    said = run("cache", "push", "other", there)
    assert said.code == 2
    assert "holds another store" in said.err
    assert run("cache", "push", "other", there, "--force").code == 0
    with Store(resolve(there)) as copy, Store(resolve("other")) as pushed:
        assert copy.content == pushed.content
    said = run("cache", "pull", there)
    assert said.code == 2
    assert "other content" in said.err
    assert run("cache", "pull", there, "--force").code == 0
    with Store(toy) as store, Store(resolve("other")) as pushed:
        assert store.content == pushed.content


def test_what_is_no_store_elsewhere_is_refused(run: Run, toy: Path, memory: str) -> None:
    filesystem("memory").pipe(f"{memory}/x.h5", b"no store")
    for words in (["fit", f"{memory}/x.h5"], ["cache", "pull", f"{memory}/x.h5"]):
        said = run(*words)
        assert said.code == 2
        assert "is no featcache store" in said.err
    assert run("fit", f"{memory}/x").code == 2
    assert run("fit", f"{memory}/none.h5").code == 2
    assert run("cache", "pull", f"{memory}/none.h5").code == 2
    assert run("cache", "push", "toy", "/tmp/x").code == 2
    assert run("cache", "pull", f"{memory}/x.h5", "--name", "../x").code == 2


def test_a_truncated_transfer_leaves_no_store(
    run: Run, toy: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = f"{memory}/toy.h5"
    assert run("cache", "push", "toy", there).code == 0
    whole = filesystem("memory").cat_file(there)
    filesystem("memory").pipe(there, whole[: len(whole) // 2])
    said = run("cache", "pull", there, "--name", "half")
    assert said.code == 2
    assert not toy.with_name("half.h5").exists()
