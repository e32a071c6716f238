"""Two comparisons of the paper: what is adapted (Fig. 5), and how images are preprocessed (Fig. 7)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from featcache.reporting.page.gather import Found, Gathered, grouped, protocols_words
from featcache.reporting.page.marks import accuracy, colour, layer, only, spec, tooltip
from featcache.reporting.page.model import Blank, Chart, Panel, Rows, Spec, Table, View, unique
from featcache.reporting.page.words import gain, percent, plural, told_spread

WHERE = "sides"
STYLES = "preprocessing"
_SIDES = ("visual", "text", "both")


def sides_panel(gathered: Gathered) -> Panel:
    """CLIP-Adapter on the image side, the text side and both, on the same store and protocol."""
    found = [one for one in gathered.found if _side(one)]
    groups = grouped(found, lambda one: (one.store_key, one.text_set, one.classes, one.protocol, _rest(one)))
    kept = [members for members in groups.values() if len({_side(one) for one in members}) > 1]
    lacking = "featcache fit --adapter clip_adapter --grid where=text"
    return Panel(
        key=WHERE,
        title="Adapt images, text, or both?",
        lead="CLIP-Adapter on the image embedding, on the classifier's weights, and on both, each at its chosen "
        "ratios. The paper finds the visual side enough.",
        views=tuple(_view(members, _side, _SIDES, members[0].place) for members in kept),
        blanks=() if kept else (Blank("fewer than two of visual, text and both were fitted alike", lacking),),
    )


def styles_panel(gathered: Gathered) -> Panel:
    """The same data set, backbone, method and shots under several preprocessings."""
    found = [one for one in gathered.found if one.style not in ("", "import")]
    groups = grouped(found, lambda one: (one.dataset, one.model, one.text_set, one.classes, one.method, one.protocol))
    kept = [members for members in groups.values() if len({one.style for one in members}) > 1]
    lacking = _other_style(gathered)
    return Panel(
        key=STYLES,
        title="Squash or crop?",
        lead="The same images through two test preprocessings: coop squashes the whole image to the square, clip "
        "brings the short side to size and crops the centre. Zero-shot CLIP's share of the difference is the dashed "
        "lines'.",
        views=tuple(_view(members, lambda one: one.style, (), _words(members[0])) for members in kept),
        blanks=() if kept else (Blank("no data set was extracted and fitted under two preprocessings", lacking),),
    )


def _other_style(gathered: Gathered) -> str:
    """The command that makes a store of another preprocessing: the one that made a store, with the style changed."""
    for one in gathered.found:
        command = gathered.stores.facts(one.store_key, one.store).get("command", "")
        if command.startswith("featcache extract"):
            other = "coop" if one.style == "clip" else "clip"
            made = re.sub(r" --name \S+", "", re.sub(r"--style \S+", f"--style {other}", command))
            return f"{made} && featcache fit"
    return "featcache extract --dataset NAME --backbone NAME --style clip && featcache fit"


def _side(one: Found) -> str:
    """`visual`, `text` or `both`, of a search that adapts one of them alone."""
    sides = {str(run["config"].get("where", "")) for run in one.runs}
    return sides.pop() if len(sides) == 1 and sides <= set(_SIDES) else ""


def _rest(one: Found) -> str:
    """The method's name without the side."""
    words = one.method.replace(f"where={_side(one)}, ", "").replace(f"where={_side(one)}", "")
    return words.strip()


def _words(one: Found) -> str:
    part = "" if one.classes == "all" else f", {one.classes} classes"
    return f"{one.dataset}, {one.model}, prompts {one.text_set}{part} · {one.method}"


def _view(members: Sequence[Found], kind: Callable[[Found], str], order: Sequence[str], place: str) -> View:
    found = unique([kind(one) for one in members])
    names = tuple(name for name in order if name in found) or tuple(sorted(found, key=lambda name: name != "coop"))
    ordered = sorted(members, key=lambda one: (one.shots, names.index(kind(one))))
    best = max(members, key=lambda one: one.test[0])
    return View(
        name=f"{place} · {members[0].protocol}",
        protocol=protocols_words(members),
        charts=(
            Chart(
                title=f"{_rest(members[0]) or members[0].method}: test accuracy, {', '.join(names)}, by shots",
                says=f"Marks of test accuracy for {', '.join(names)}; the best is {kind(best)} at "
                f"{plural(best.shots, 'shot')}, {told_spread(best.test)} %.",
                spec=_spec(ordered, kind, names),
                series=names,
                wide=True,
                table=Table(
                    columns=("shots", "which", "chosen on", "test %", "over zero-shot", "result"),
                    rows=tuple(
                        (str(one.shots), kind(one), one.protocol, told_spread(one.test), _over(one), str(one.id))
                        for one in ordered
                    ),
                    caption="Test accuracy, ± over draws",
                ),
            ),
        ),
    )


def _over(one: Found) -> str:
    return "–" if one.zero_shot is None else gain(one.test[0] - one.zero_shot)


def _spec(ordered: Sequence[Found], kind: Callable[[Found], str], names: Sequence[str]) -> Spec:
    values: Rows = []
    for one in ordered:
        mean, spread = one.test
        ends = {"low": percent(mean - spread), "high": percent(mean + spread)} if spread == spread else {}
        row = {"series": kind(one), "shots": plural(one.shots, "shot"), "chosen on": one.protocol}
        values.append(row | ends | {"accuracy": percent(mean), "test %": told_spread(one.test), "over": _over(one)})
    levels = {kind(one): one.zero_shot for one in ordered if one.zero_shot is not None}
    values += [{"series": name, "zero": percent(value), "told": f"zero-shot, {name}"} for name, value in levels.items()]
    x = {"field": "shots", "type": "nominal", "sort": None, "title": None, "axis": {"labelAngle": 0, "grid": False}}
    beside = {"x": x, "xOffset": {"field": "series", "scale": {"domain": list(names)}}, "color": colour(names)}
    made, zero = only("isValid(datum.accuracy)"), only("isValid(datum.zero)")
    return spec(
        values,
        [
            layer(
                {"type": "rule", "strokeDash": [2, 3]},
                {"y": accuracy("zero"), "color": colour(names), "tooltip": tooltip("told", "zero")},
                transform=zero,
            ),
            layer("rule", {**beside, "y": accuracy("low"), "y2": {"field": "high"}}, transform=made),
            layer(
                {"type": "point", "filled": True, "size": 110, "opacity": 1},
                {**beside, "y": accuracy(), "tooltip": tooltip("series", "shots", "test %", "over", "chosen on")},
                transform=made,
            ),
        ],
    )
