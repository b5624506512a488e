"""The manifest of a job: what it is made from, and which shards are done. It is what --resume goes by.

It is replaced as a whole after each shard, and says nothing of time or machine, so that a job that was interrupted
ends with the same bytes as one that was not.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from runtime import __version__
from runtime.errors import InputError

from .shards import Done, Written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.manifest import Manifest as ModelManifest

    from .job import Job, Shard
    from .storage import Storage

MANIFEST = "_manifest.json"
REJECTS = "_rejects.jsonl"
SCHEMA_VERSION = 1
LIBRARIES = ("onnxruntime", "numpy", "pyarrow")
RESUME_FRESH = "name another folder, or start over in an empty one"


class JobManifest:
    """A job's manifest in its output folder."""

    def __init__(self, storage: Storage, document: dict[str, Any], done: dict[int, Done]) -> None:
        self._storage, self._document, self.done = storage, document, done

    @classmethod
    def new(
        cls,
        storage: Storage,
        job: Job,
        fingerprint: dict[str, Any],
        model: ModelManifest,
        shards: Sequence[Shard],
    ) -> JobManifest:
        """Of a job that begins; not written yet.

        :param fingerprint: of inputs.fingerprint.
        :param model: manifest of the model.
        :param shards: the plan.
        """
        document = {
            "schema_version": SCHEMA_VERSION,
            "made_with": {"jinabert-runtime": __version__, **{name: _version(name) for name in LIBRARIES}},
            "input": fingerprint,
            "model": {
                "name": model.name,
                "checksum": job.model_checksum,
                "precision": model.precision,
                "dimension": model.dimension,
            },
            "options": job.options(),
            "plan": {"shards": len(shards), "rows": sum(shard.rows for shard in shards)},
        }
        return cls(storage, document, {})

    @classmethod
    def load(cls, storage: Storage) -> JobManifest | None:
        """Of the job whose output is there; None where there is none.

        :raises InputError: it cannot be read, or is of a newer release.
        """
        where = storage.join(MANIFEST)
        try:
            data = storage.read(MANIFEST)
        except OSError as error:
            raise InputError(f"{where}: cannot be read ({error.strerror or error})") from None
        if data is None:
            return None
        try:
            document = json.loads(data)
            found = document["schema_version"]
            if found != SCHEMA_VERSION:
                raise InputError(
                    f"{where}: schema_version {found!r}, this release reads {SCHEMA_VERSION}: {RESUME_FRESH}"
                )
            done = [
                Done(**(entry | {"files": tuple(Written(**file) for file in entry["files"])}))
                for entry in document.pop("shards")
            ]
            for field in ("input", "model", "options", "plan", "made_with"):
                document[field].items()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{where}: no manifest of a job, or damaged: {RESUME_FRESH}") from None
        for field in ("complete", "totals"):
            document.pop(field, None)
        return cls(storage, document, {shard.number: shard for shard in done})

    def differences(self, other: JobManifest) -> str | None:
        """Why the job of this manifest cannot go on as the other one; None if it can."""
        mine, others = self._document, other._document
        for field, title in (("input", "the input"), ("model", "the model")):
            for key, value in mine[field].items():
                now = others[field].get(key)
                if now != value:
                    what = "its contents or names" if key == "digest" else f"{key} was {value}, is {now}"
                    return f"{title} has changed ({what})"
        for key in sorted({*mine["options"], *others["options"]}):
            before, now = mine["options"].get(key), others["options"].get(key)
            if before != now:
                return f"--{key.replace('_', '-')} was {before!r}, is {now!r}"
        if mine["plan"] != others["plan"]:
            return f"the plan was {mine['plan']}, is {others['plan']}"
        return None

    def versions(self, other: JobManifest) -> str | None:
        """Libraries that differ, which may change last bits of vectors; None if none does."""
        mine, others = self._document["made_with"], other._document["made_with"]
        return next(
            (
                f"{name} {mine.get(name)} then, {now} now"
                for name, now in others.items()
                if mine.get(name) != now
            ),
            None,
        )

    def record(self, shard: Done) -> None:
        """A shard is done: from here on it is not done again.

        :raises OSError: the manifest cannot be written.
        """
        self.done[shard.number] = shard
        self.save()

    @property
    def complete(self) -> bool:
        """Whether every shard is done."""
        return len(self.done) == int(self._document["plan"]["shards"])

    def save(self) -> None:
        """Replace the file.

        :raises OSError: it cannot be written.
        """
        shards = [self.done[number] for number in sorted(self.done)]
        names = ("rows", "rejected", "tokens", "truncated_texts", "cut_tokens")
        document = {
            **self._document,
            "complete": self.complete,
            "totals": {name: sum(getattr(shard, name) for shard in shards) for name in names},
            "shards": [
                shard._asdict() | {"files": [file._asdict() for file in shard.files]} for shard in shards
            ],
        }
        lines = json.dumps(document, indent=1) if len(shards) < 10_000 else json.dumps(document)
        self._storage.write(MANIFEST, (lines + "\n").encode())

    def totals(self) -> dict[str, int]:
        """Sums over the shards that are done."""
        names = ("rows", "rejected", "tokens", "truncated_texts", "cut_tokens")
        return {name: sum(getattr(shard, name) for shard in self.done.values()) for name in names}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
