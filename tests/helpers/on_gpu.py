"""Runs the tests or the measurements that need an NVIDIA GPU: `make test-gpu`, `make bench BENCH=gpu`.

Nothing is fetched: it needs a Python with Keras, pytest, and JAX or torch for CUDA, and a wheel of lamina in
``target/wheels``, which goes into an environment of its own that is removed. Imports nothing besides Python's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / "target" / "wheels"
#: Prints how many GPUs a backend finds.
COUNT = {
    "jax": "import jax; print(len([d for d in jax.devices() if d.platform != 'cpu']))",
    "torch": "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)",
}
WOULD = {
    "test": "It would check, with JAX and with torch on the device, that every file holds one step exactly: with and "
    "without room on the device, over 200 saves, with jit_compile on and off, in mixed precision.",
    "bench": "It would measure, with JAX and with torch, for states of 1, 10 and 40 GB that fit: how long a save "
    "blocks training, how much slower the ten steps after it are, memory of the device and of the host, and GB/s from "
    "the device beside a plain copy to pinned memory; for lamina with and without a copy on the device, stock "
    "ModelCheckpoint, stock WandbModelCheckpoint, asynchronous OrbaxCheckpoint, and "
    "torch.distributed.checkpoint.async_save.",
}


def main(what: str, more: Sequence[str]) -> int:
    """Run with each backend that finds a GPU; 0 if all succeeded or there is none."""
    if reason := _no_gpu():
        return _skip(what, reason)
    wheel = max(WHEELS.glob("lamina-*.whl"), default=None, key=lambda path: path.stat().st_mtime)
    if wheel is None:
        return _skip(what, f"no wheel in {WHEELS}: make wheel, on a machine with a network, and bring it here")
    folder = Path(tempfile.mkdtemp(prefix="lamina-gpu-"))
    try:
        python = _environment(folder, wheel)
        found = [backend for backend in COUNT if _devices(python, backend)]
        if not found:
            return _skip(what, f"neither JAX nor torch of {sys.executable} finds a GPU")
        return max(_run(python, what, backend, more) for backend in found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _no_gpu() -> str:
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return "this machine has no nvidia-smi, so no NVIDIA GPU"
    return "" if done.returncode == 0 and done.stdout.strip() else "nvidia-smi shows no NVIDIA GPU"


def _skip(what: str, reason: str) -> int:
    print(f"skipped: {reason}.\n{WOULD[what]}")
    return 0


def _environment(folder: Path, wheel: Path) -> Path:
    """A Python that has lamina from the wheel, and all else from the one that runs this."""
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True)
    # From an environment, not only the system's packages: also those of the environment.
    paths = [path for path in sys.path if path.endswith("site-packages") and path != site]
    Path(site, "outer.pth").write_text("".join(f"{path}\n" for path in paths))
    return python


def _devices(python: Path, backend: str) -> int:
    done = subprocess.run(
        [python, "-c", COUNT[backend]], capture_output=True, text=True, env=_variables(backend), check=False
    )
    return int(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout.strip() else 0


def _run(python: Path, what: str, backend: str, more: Sequence[str]) -> int:
    command = ["pytest", "tests/keras/test_on_gpu.py"] if what == "test" else ["benches", "gpu"]
    print(f"{what} on the GPU with {backend}", flush=True)
    return subprocess.run([python, "-m", *command, *more], cwd=ROOT, env=_variables(backend), check=False).returncode


def _variables(backend: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("CUDA_VISIBLE_DEVICES", "PYTHONPATH")}
    # JAX would take most of the memory at the start, and no other program's tensors would have room.
    return kept | {"KERAS_BACKEND": backend, "LAMINA_GPU": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
