"""What a report does not know, in sentences."""

from __future__ import annotations

from lamina.report.data import Report


def of(report: Report) -> list[str]:
    """A sentence for each thing that a reader would look for in vain."""
    versions = report.versions
    if versions[0].id is None:
        return [
            "A bare file tells neither when it was saved nor what that cost, and there is nothing to compare it with."
        ]
    rules = [
        (len(versions) == 1, "There is one version only, so nothing has moved yet."),
        (not report.distances and len(versions) > 1, "Distances were not measured (--no-distances)."),
        (
            all(version.value is None for version in versions),
            "No version has a monitored value: monitor= of the callback, or logs= of Checkpointer.save, gives it one.",
        ),
        (
            all(version.blocked_seconds is None for version in versions),
            "No blocked time is known: these versions were not saved while a model was trained.",
        ),
        (
            all(version.upload_seconds is None for version in versions),
            "No upload time is known: none of these versions was sent to W&B from this repository.",
        ),
        (
            any(tensor.bytes is None for tensor in report.tensors),
            "Some tensors have a dtype that this lamina does not know; they are left out of sizes and distances.",
        ),
    ]
    return [sentence for applies, sentence in rules if applies]
