"""`log_report`: log the charts of `lamina report` to a W&B run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import wandb

from lamina.errors import ArtifactError

if TYPE_CHECKING:
    from lamina.sources import Source

#: The first part of the charts' names in the run.
PREFIX = "report"


def log_report(source: Source, run: Any = None, *, series: str | None = None, distances: bool = True) -> None:
    """Log the charts of a series to a W&B run, one by one, and the page that `lamina report` writes.

    They form one row of the run's history: ``report/timeline``, ``report/movement``, ``report/size``,
    ``report/dedup``, ``report/compression`` (charts without data are left out) and ``report/page``. Needs plotly.

    Args:
        source: a repository, or a snapshot of one, where the history then ends; any other source has one version.
        run: the W&B run; default: the active one.
        series: which series, if the repository has several.
        distances: False reads no tensors and leaves out ``report/movement``.

    Examples:
        >>> import keras, lamina, wandb
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> snapshot = lamina.save(model, "runs/a")
        >>> with wandb.init(project="digits") as run:
        ...     lamina.wandb.log_report("runs/a")

    Raises:
        ArtifactError: if there is no run, or W&B refuses the charts.
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
        raise ArtifactError(f"upload of the report failed: {error}") from error
