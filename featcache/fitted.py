"""What `featcache.fit` gives back: the runs, the choice, and the fitted heads themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.errors import ConfigError
from featcache.heads.exporting import best_of, provenance_of
from featcache.heads.head import Encoder, Head, head_of
from featcache.outcome import Outcome, RunRecord
from featcache.shift import Fitted

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from featcache.heads.module import HeadModule


class FitResults:
    """The results of one fit. Accuracies are fractions."""

    def __init__(self, outcome: Outcome, fitted: Sequence[Fitted], encoder: Encoder, number: int | None) -> None:
        self.outcome = outcome
        """All that was found, as the command line shows it."""
        self.id = number
        """The result's id, where it was recorded."""
        self._fitted = tuple(fitted)
        self._encoder = encoder

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        """Every run: its configuration, its draw, its scores on the protocol's rows and on test."""
        return self.outcome.runs

    @property
    def chosen(self) -> tuple[RunRecord, ...]:
        """The chosen run of each draw."""
        return self.outcome.chosen

    @property
    def best(self) -> RunRecord:
        """The chosen run; of several draws, that of the draw which did best on what the protocol chose by."""
        return self.chosen[self._place(None)]

    @property
    def test_accuracy(self) -> float:
        """The chosen runs' accuracy on test, mean over draws."""
        return self.outcome.test_accuracy[0]

    @property
    def zero_shot_accuracy(self) -> float:
        """Zero-shot CLIP's on the same images; NaN where the store has no text."""
        return self.outcome.zero_shot.accuracy

    def frame(self) -> pandas.DataFrame:
        """One row a run: the configuration's fields, the draw, scores, whether it was chosen. Needs pandas.

        >>> frame = results.frame()
        >>> frame[["alpha", "shot_seed", "chosen"]].shape
        (3, 3)
        """
        try:
            import pandas
        except ImportError as error:
            raise ConfigError("frame() needs pandas: pip install 'featcache[pandas]'") from error
        return pandas.DataFrame([_row(run) for run in self.runs])

    def plot(self, file: str | Path | None = None) -> Figure:
        """Accuracy against alpha as a matplotlib figure, written to a PNG, SVG or PDF file where one is named.

        >>> results.plot().axes[0].get_xlabel()
        'residual ratio alpha (green: chosen)'
        """
        from featcache.reporting.plots import check_plot_file, figure, save

        drawn = figure(self.outcome)
        if file is not None:
            save(drawn, check_plot_file(Path(file)))
        return drawn

    def head(self, seed: int | None = None) -> HeadModule:
        """The fitted head of a draw, of the best one unless `seed` says which, as a torch module.

        >>> results.head()(torch.ones(1, 24)).shape
        torch.Size([1, 6])
        """
        from featcache.heads.module import HeadModule

        return HeadModule(self._head(seed))

    def export(self, file: str | Path, seed: int | None = None, *, with_tower: bool = False) -> Path:
        """Write that head, as safetensors or ONNX by the file's ending; `with_tower` puts the image tower before it.

        >>> results.export("mine.safetensors").name
        'mine.safetensors'
        """
        from featcache.heads.writing import write

        path = Path(file)
        write(path, self._head(seed), with_tower=with_tower)
        return path

    def __repr__(self) -> str:
        mean, spread = self.outcome.test_accuracy
        over = f" ± {100 * spread:.2f}" if spread == spread else ""
        return (
            f"<{self.outcome.adapter} on {self.outcome.store}: {len(self.runs)} runs, chosen on "
            f"{self.outcome.protocol}, test {100 * mean:.2f}{over} %, zero-shot {100 * self.zero_shot_accuracy:.2f} %>"
        )

    def _head(self, seed: int | None) -> Head:
        place = self._place(seed)
        run = self.chosen[place]
        head = head_of(self.outcome.adapter, run.config, self._fitted[place], self._encoder)
        head.provenance.update(provenance_of(self.outcome, run, self.id))
        return head

    def _place(self, seed: int | None) -> int:
        """Which of the chosen runs is meant."""
        places = [place for place, run in enumerate(self.chosen) if seed is None or run.shot_seed == seed]
        if not places:
            there = ", ".join(str(number) for number in sorted({run.shot_seed for run in self.chosen}))
            raise ConfigError(f"nothing was fitted on seed {seed}; there is {there}")
        scores = [self.chosen[place].selection for place in places]
        return places[best_of([(score.accuracy, score.loss) if score else (None, None) for score in scores])]


def _row(run: RunRecord) -> dict[str, Any]:
    row = {**run.config, "shots": run.shots, "shot_seed": run.shot_seed, "init_seed": run.init_seed}
    for name, score in (("selection", run.selection), ("test", run.test)):
        row[f"{name}_accuracy"] = score.accuracy if score else None
        row[f"{name}_loss"] = score.loss if score else None
    return {**row, "chosen": run.chosen, "num_params": run.num_params, "fault": run.fault}
