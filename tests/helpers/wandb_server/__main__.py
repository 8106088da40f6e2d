"""`python -m wandb_server ROOT [PORT]`: prints its URL as JSON, then obeys lines of JSON (see remote.py)."""

import sys
from pathlib import Path

from .remote import serve

serve(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
