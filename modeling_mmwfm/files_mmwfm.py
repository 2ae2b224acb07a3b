"""Writing small files whole or not at all."""

import json
import os
from pathlib import Path


def write_json(path: str | Path, value) -> Path:
    """Under a temporary name first: a file that can be seen is complete, and an interrupted write loses nothing."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(value, indent=1))
    return unfinished.replace(path)
