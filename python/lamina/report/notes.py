"""Sentences that say what a report lacks, and why."""

from __future__ import annotations

from lamina.report.data import Report


def of(report: Report) -> list[str]:
    """One sentence for each thing that is missing."""
    versions = report.versions
    if versions[0].id is None:
        return ["A plain file has no save time, no cost and no earlier version to compare with."]
    rules = [
        (len(versions) == 1, "There is only one version, so nothing has changed yet."),
        (not report.distances and len(versions) > 1, "Distances were not measured (--no-distances)."),
        (
            all(version.value is None for version in versions),
            "No version has a monitored value: monitor= of the callback, or logs= of Checkpointer.save, gives it one.",
        ),
        (
            all(version.blocked_seconds is None for version in versions),
            "No blocked time: these versions were not saved during training.",
        ),
        (
            all(version.upload_seconds is None for version in versions),
            "No upload time: none of these versions was uploaded to W&B from this repository.",
        ),
        (
            any(tensor.bytes is None for tensor in report.tensors),
            "Some tensors have an unknown dtype; sizes and distances omit them.",
        ),
    ]
    return [sentence for applies, sentence in rules if applies]
