"""Where certificates are. Apart from `tls`, so that reading a configuration costs no X.509."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Files"]


@dataclass(frozen=True, slots=True)
class Files:
    """Where the CA's certificates, our own with its intermediates, and our key are; PEM."""

    ca: Path
    cert: Path
    key: Path
