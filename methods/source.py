"""Where the settings of a trial come from: facts that records keep, and the sentence that people read."""

from __future__ import annotations

import functools
import re
from typing import Any, Literal

import msgspec

Kind = Literal["published", "borrowed", "borrowed_ipc", "unpublished", "own", "submitted", "unknown"]


class SettingsSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The row of settings that a trial began with, and what was changed.

    kind: "published" by the method's authors for this dataset and ipc; "borrowed", what others published for
        their method; "borrowed_ipc", published for another ipc; "unpublished" for this dataset; "own" of a
        method without a table; "submitted" with a set from elsewhere; "unknown" for an old sentence that
        cannot be read.
    dataset, ipc: those that the row is published for; with kind "unpublished" the dataset that was wanted.
    wanted_ipc: the ipc that nothing is published for, with kind "borrowed_ipc".
    owner: the method whose row it is, "" for the method's own.
    shortened: whether the method has shortened settings for `scale`; true at scale paper, which needs none.
    overrides: settings that were set by hand.
    file: name of the submitted file.
    """

    kind: Kind
    dataset: str = ""
    ipc: int | None = None
    wanted_ipc: int | None = None
    owner: str = ""
    scale: str = "paper"
    shortened: bool = True
    overrides: tuple[str, ...] = ()
    file: str = ""

    def __str__(self) -> str:
        """A sentence: `published: cifar10 ipc 10; cpu scale; set by hand: lr_img`."""
        parts = [self._row()]
        if not self.shortened:
            parts.append(f"no shortened settings for the {self.scale} scale")
        elif self.scale != "paper":
            parts.append(f"{self.scale} scale")
        if self.overrides:
            parts.append(f"{_BY_HAND}{', '.join(self.overrides)}")
        return "; ".join(parts)

    def _row(self) -> str:
        cell = f"{self.dataset} ipc {self.ipc}"
        match self.kind:
            case "published":
                return f"published: {cell}"
            case "borrowed":
                return f"borrowed from {self.owner}: {cell}"
            case "borrowed_ipc":
                whose = f"{self.owner}'s " if self.owner else ""
                return f"default: nothing is published for ipc {self.wanted_ipc}, taken from {whose}{cell}"
            case "unpublished":
                return f"default: nothing is published for {self.dataset}"
            case "own":
                return "the method's own on every dataset"
            case "submitted":
                return f"submitted: {self.file}"
        return "unknown"


_BY_HAND = "set by hand: "
_SUBMITTED = "submitted: "
_OWNED = r"(?P<owner>\S+)'s \((?P<row>.*)\)"
_SCALE = r"(?P<missing>no shortened settings for the )?(?P<scale>\S+) scale"
_ROWS: tuple[tuple[Kind, str], ...] = (
    ("published", r"published: (?P<dataset>.+) ipc (?P<ipc>\d+)"),
    ("borrowed", r"borrowed from (?P<owner>\S+): (?P<dataset>.+) ipc (?P<ipc>\d+)"),
    (
        "borrowed_ipc",
        r"default: nothing is published for ipc (?P<wanted_ipc>\d+), "
        r"taken from ((?P<owner>\S+)'s )?(?P<dataset>.+) ipc (?P<ipc>\d+)",
    ),
    ("unpublished", r"default: nothing is published for (?P<dataset>.+)"),
    ("own", "the method's own on every dataset"),
)


@functools.cache
def read_sentence(sentence: str) -> SettingsSource:
    """The facts of a sentence from a record that was written before there were facts."""
    if sentence.startswith(_SUBMITTED):
        return SettingsSource(kind="submitted", file=sentence.removeprefix(_SUBMITTED))
    text, *changes = sentence.split("; ")
    facts: dict[str, Any] = {}
    for change in changes:
        scale = re.fullmatch(_SCALE, change)
        if scale:
            facts |= {"scale": scale["scale"], "shortened": scale["missing"] is None}
        elif change.startswith(_BY_HAND):
            facts["overrides"] = change.removeprefix(_BY_HAND).split(", ")
    return msgspec.convert(_row_of(text) | facts, SettingsSource, strict=False)


def _row_of(text: str) -> dict[str, Any]:
    owned = re.fullmatch(_OWNED, text)
    for kind, pattern in _ROWS:
        found = re.fullmatch(pattern, owned["row"] if owned else text)
        if found:
            facts = {name: value for name, value in found.groupdict().items() if value is not None}
            if owned is None:
                return {"kind": kind, **facts}
            return {"kind": "borrowed" if kind == "published" else kind, "owner": owned["owner"], **facts}
    return {"kind": "unknown"}
