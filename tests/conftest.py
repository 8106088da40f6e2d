"""What all tests share."""

from __future__ import annotations

import os

# Before anything imports a backend: tests never look for a GPU, and TensorFlow keeps to itself what it found.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("WANDB_MODE", "offline")  # a test that wants a server says so

pytest_plugins = ["wandb_server.fixtures", "recorded_run"]
