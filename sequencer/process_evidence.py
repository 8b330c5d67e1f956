"""Evidence against sequencers that signed against themselves, as files that can be shown to others.

Nothing on the chain punishes them (they have no stake there), so what was met must not be forgotten
with the process: whoever runs the others needs something to show, and `consensus.verify_evidence`
judges it with the keys of genesis alone.
"""

from __future__ import annotations

from pathlib import Path

from protocol.codec import encode
from protocol.evidence import Evidence
from store.files import ensure_directory, write_atomic

DIRECTORY = "evidence"
SUFFIX = ".evidence"


def evidence_files(data: Path) -> list[Path]:
    """What a sequencer with this data directory has kept, by the number of the accused."""
    found = [one for one in (data / DIRECTORY).glob(f"*{SUFFIX}") if one.stem.isdecimal()]
    return sorted(found, key=lambda path: int(path.stem))


class KeptEvidence:
    """The first offence of each sequencer that was met here: one suffices, and what a liar can make
    others write is bounded."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._against = {int(path.stem) for path in evidence_files(data)}

    def __len__(self) -> int:
        return len(self._against)

    def keep(self, evidence: Evidence) -> Path:
        """Where evidence against this sequencer lies; it is written where there was none yet.

        Raises `OSError` where the disk refuses it.
        """
        directory = self._data / DIRECTORY
        path = directory / f"{evidence.member}{SUFFIX}"
        if evidence.member not in self._against:
            ensure_directory(directory)
            write_atomic(path, encode(evidence))
            self._against.add(evidence.member)
        return path
