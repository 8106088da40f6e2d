"""`log_report`: the charts of `lamina report` in a W&B run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import wandb

from lamina.errors import ArtifactError

if TYPE_CHECKING:
    from lamina.sources import Source

#: What the charts are called in the run, before a name of their own.
PREFIX = "report"


def log_report(source: Source, run: Any = None, *, series: str | None = None, distances: bool = True) -> None:
    """Log the charts of a series to a W&B run, one by one, and the page that `lamina report` writes.

    They are a row of the run's history: ``report/timeline``, ``report/movement``, ``report/size``, ``report/dedup``,
    ``report/compression`` (those for which something is known) and ``report/page``. It needs plotly.

    Args:
        source: a repository, or a version of one, up to which the history is told; any other source has one version.
        run: the W&B run; without it, the active one.
        series: which series, where a repository has several.
        distances: False reads no tensor, and leaves out ``report/movement``.

    Example:
        >>> import keras, lamina, wandb
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> snapshot = lamina.save(model, "runs/a")
        >>> with wandb.init(project="digits") as run:
        ...     lamina.wandb.log_report("runs/a")

    Raises:
        ArtifactError: if there is no run, or it refuses the charts.
    """
    run = run if run is not None else wandb.run
    if run is None:
        raise ArtifactError("there is no active W&B run: call wandb.init() first, or pass run=")
    if run.disabled:
        return
    from lamina.report import gather, history
    from lamina.report.figures import charts, movement
    from lamina.report.heat import by_layer
    from lamina.report.page import page

    report = gather(history(source, series), distances=distances)
    figures = charts(report)
    if distances and len(report.versions) > 1:
        figures["movement"] = movement(report, view=by_layer(report))
    try:
        media = {f"{PREFIX}/{name}": wandb.Plotly(figure) for name, figure in figures.items()}
        run.log(media | {f"{PREFIX}/page": wandb.Html(page(report), inject=False)})
    except (wandb.Error, ValueError, TypeError) as error:
        raise ArtifactError(f"W&B did not take the report: {error}") from error
