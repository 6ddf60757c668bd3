"""What a worker's store would hold if the daemon died now."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from warren.agent.store import Store, Stored


def on_disk(path: Path) -> Stored:
    """Read from a copy: the daemon keeps the file itself to itself."""
    with tempfile.TemporaryDirectory() as directory:
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copy(file, directory)
        with closing(Store.open(Path(directory) / path.name)) as store:
            return store.load()
