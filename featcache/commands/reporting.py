"""`featcache report` and `featcache plot`: results to look at."""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Sequence
from pathlib import Path

from featcache import console
from featcache.reporting import page
from featcache.reporting.page.images import Images
from featcache.store.places import results_path


def report(folder: Path, ids: Sequence[int], *, images: Images, as_json: bool) -> None:
    """Write the page and say where it is."""
    start = time.perf_counter()
    with console.progress("drawing", "panels", rate="panels") as advance:
        written = page.write_report(results_path(), folder, ids=ids, images=images, progress=advance)
    seconds = time.perf_counter() - start
    blanks = {panel.key: [blank._asdict() for blank in panel.blanks] for panel in written.panels if panel.blanks}
    if as_json:
        facts = {"file": str(written.file), "bytes": written.num_bytes, "seconds": seconds, "missing": blanks}
        console.raw(jsonlib.dumps(facts, indent=2))
        return
    for name, lacking in blanks.items():
        for blank in lacking:
            console.note(f"{name}: {blank['why']}" + (f"; `{blank['command']}` makes it" if blank["command"] else ""))
    console.say(
        f"{written.file}: {written.num_bytes / 1e6:.1f} MB in {seconds:.1f} s; it opens in any browser, offline"
    )


def plot(kind: str, file: Path, ids: Sequence[int], *, width: int, as_json: bool) -> None:
    """Draw the plots of one kind."""
    with console.progress("drawing", "plots", rate="plots") as advance:
        files = page.draw(results_path(), kind, file, ids=ids, width=width, progress=advance)
    if as_json:
        console.raw(jsonlib.dumps([{"file": str(one.file), "says": one.says} for one in files], indent=2))
        return
    for one in files:
        console.say(f"{one.file}: {one.says}")
