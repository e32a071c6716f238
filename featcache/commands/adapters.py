"""`featcache adapters`: the methods there are, what one of them takes, and a starting file for another."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from featcache.commands import completing
from featcache.errors import ConfigError, DataError

app = typer.Typer(help="The methods: ls, info, new.", no_args_is_help=True)
Folder = Annotated[
    Path | None,
    typer.Option(
        "--adapters-dir",
        envvar="FEATCACHE_ADAPTERS",
        help="A folder of your own method files. They are code, and run when they are loaded.",
    ),
]


@app.command()
def ls(adapters_dir: Folder = None) -> None:
    """List the methods."""
    from featcache import console, registry

    use(adapters_dir)
    rows = []
    for name in registry.known():
        kind: Any = registry.load(name)
        searched = ", ".join(f"{field} {values}" for field, values in kind.grid.items())
        needs = ", ".join(sorted(kind.needs)) or "nothing"
        rows.append([name, paper_of(name), "trained" if hasattr(kind, "init") else "solved", needs, searched or "-"])
    console.table(["method", "paper", "how", "needs", "searched by default"], rows)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A method's name.", autocompletion=completing.adapters)],
    adapters_dir: Folder = None,
) -> None:
    """Show a method's paper, its fields and what is searched by default."""
    from featcache import console, registry

    use(adapters_dir)
    kind: Any = registry.load(name)
    file = registry.known()[name]
    console.say(inspect.cleandoc(_docstring(file)))
    types, told = get_type_hints(kind), _field_docstrings(file)
    rows = [
        [field.name, types[field.name].__name__, str(field.default), kind.grid.get(field.name, "-"), told[field.name]]
        for field in fields(kind)
    ]
    if rows:
        console.table(["field", "type", "default", "searched", "what it is"], rows)
    training = {name: values for name, values in kind.grid.items() if name not in types}
    if training:
        console.say("searched of its training: " + "; ".join(f"{name} {values}" for name, values in training.items()))
    trained = f"preset {kind.preset}, " if hasattr(kind, "init") else ""
    console.say(f"{trained}views {kind.views}; needs {', '.join(sorted(kind.needs)) or 'nothing'}; file {file.name}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The method's name, in lower case: my_adapter.")],
    folder: Annotated[Path, typer.Option("--adapters-dir", help="Where to write it.")] = Path("adapters"),
) -> None:
    """Write a commented starting file for a method of your own: a residual linear adapter that runs as it is."""
    from featcache import console

    if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", name):
        raise ConfigError(f"{name!r} cannot name a method: small letters, digits and underscores, a letter first")
    file = folder / f"{name}.py"
    if file.exists():
        raise ConfigError(f"{file} is there already and is not written over")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(_STARTING_FILE.replace("NAME", "".join(map(str.capitalize, name.split("_")))), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror}") from error
    console.say(f"wrote {file}; try it: featcache fit --adapter {name} --adapters-dir {folder}")


def use(folder: Path | None) -> None:
    """Look for methods in the user's folder too."""
    from featcache import registry

    if folder is not None:
        registry.add_folder(folder)


def _docstring(file: Path) -> str:
    import ast

    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def paper_of(name: str) -> str:
    """The first line of a method's file: its paper."""
    from featcache import registry

    return _docstring(registry.known()[name]).split("\n", 1)[0].rstrip(".:")


def _field_docstrings(file: Path) -> dict[str, str]:
    """The string under each annotated field of the file's classes."""
    import ast

    told: dict[str, str] = {}
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for kind in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for field, after in zip(kind.body, [*kind.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
                told[field.target.id] = " ".join(str(said).split()) if said else ""
    return told


_STARTING_FILE = '''"""A method of your own (its paper, and where to find it: arXiv 0000.00000), equation 1.

    f' = f + alpha f W
    logits = logit_scale * unit(f') . unit(text)

Say here what the method is, and where you depart from its paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from featcache.errors import ConfigError
from featcache.ops import cosine_logits
from featcache.task import Frozen, Hyper, Params, Task


@dataclass(frozen=True, kw_only=True)
class NAME:
    """A linear map of the image embedding, added to the embedding itself."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    """What it cannot do without: text weights here."""
    transfers: ClassVar[bool] = True
    """It learns nothing of any one class, so it can classify others by their text."""
    views: ClassVar[str] = "turn"
    """Each image shows one of its augmented views an epoch."""
    post_hoc: ClassVar[tuple[str, ...]] = ()
    """Float fields that logits alone heeds: none, every alpha is trained on its own."""
    grid: ClassVar[Mapping[str, str]] = {"alpha": "0:1:0.1"}
    """What is searched unless --grid says otherwise."""
    preset: ClassVar[str] = "coop"
    """The training recipe: coop, adamw or paper."""
    constant: ClassVar[tuple[str, ...]] = ()
    """Parameters that training leaves as init gives them."""

    alpha: float = 0.2
    """Weight of what is learnt, at least 0; 0 is zero-shot CLIP. Fields of type float share one stack of runs."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise ConfigError(f"alpha is a number of at least 0; got {self.alpha:g}")

    @property
    def inert(self) -> bool:
        """At alpha 0 no training can change the logits: the engine skips it."""
        return self.alpha == 0

    def init(self, task: Task, generator: torch.Generator) -> Params:
        """W (D, D), small and random; all randomness comes from the generator."""
        start = torch.randn(task.dim, task.dim, generator=generator) / task.dim
        return {"map": start.to(task.image.device)}

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """(N, C) from raw images (N, D), for one run: the engine lifts it over all runs at once."""
        moved = image + hyper["alpha"] * (image @ params["map"])  # (N, D)
        return cosine_logits(moved, frozen.text, frozen.logit_scale)
'''
