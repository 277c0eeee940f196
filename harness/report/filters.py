"""Which records a report is about: `--dataset`, `--ipc`, `--methods`, networks, `--protocol`, `--scale`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from harness.core.errors import UnknownNameError, UserError
from harness.engine.records import CEILING, Record


@dataclass(frozen=True)
class Filters:
    """Wanted values as typed, none for all. The ceiling stays, whatever methods and ipc are wanted."""

    dataset: Sequence[str] = ()
    ipc: Sequence[str] = ()
    methods: Sequence[str] = ()
    arch: Sequence[str] = ()
    eval_arch: Sequence[str] = ()
    protocol: Sequence[str] = ()
    scale: Sequence[str] = ()

    @property
    def active(self) -> bool:
        """Whether anything is left out on purpose."""
        return any(getattr(self, field.name) for field in fields(self))

    def select(self, records: Iterable[Record]) -> list[Record]:
        """The wanted records; UserError for a value that no record has, and where nothing is left."""
        records = list(records)
        for name, fact in FACTS.items():
            refuse_unknown(name, getattr(self, name), {str(fact(record)) for record in records})
        chosen = [record for record in records if self._wants(record)]
        if not any(record.trial.method in self.methods or not self.methods for record in chosen):
            raise UserError("no record fits all of the filters together; leave one of them out")
        return chosen

    def _wants(self, record: Record) -> bool:
        whatever = ("methods", "ipc") if record.trial.method == CEILING else ()
        return all(
            name in whatever or not getattr(self, name) or str(fact(record)) in getattr(self, name)
            for name, fact in FACTS.items()
        )


def refuse_unknown(name: str, wanted: Iterable[str], known: Collection[str]) -> None:
    """UnknownNameError for the first value of a filter that no record has."""
    for value in wanted:
        if value not in known:
            raise UnknownNameError(f"{NOUNS.get(name, name)} among the records", value, known)


FACTS: Mapping[str, Callable[[Record], Any]] = {
    "dataset": attrgetter("trial.dataset"),
    "ipc": attrgetter("trial.ipc"),
    "methods": attrgetter("trial.method"),
    "arch": attrgetter("trial.arch"),
    "eval_arch": attrgetter("trial.network"),
    "protocol": attrgetter("trial.protocol"),
    "scale": attrgetter("trial.scale"),
}
NOUNS = {"methods": "method", "arch": "network that distils", "eval_arch": "evaluated network"}
