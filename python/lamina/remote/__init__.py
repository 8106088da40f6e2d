"""Repositories in buckets: ``s3://``, ``gs://``, ``az://``, and ``file://`` for a folder that is used like one."""
