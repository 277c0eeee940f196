"""`python -m harness list`: names that can be typed for methods, datasets, networks, protocols, scales."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

import methods
from harness.commands import describe
from harness.commands.arguments import add_json
from harness.core.data import catalog
from harness.core.errors import UnknownNameError, UserError
from harness.core.nets import names
from harness.core.text import plural
from harness.engine.protocol import GRID, PROTOCOLS, TUNED
from harness.engine.scales import SCALES
from harness.report.protocols import length_in_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command to its parser."""
    parser.add_argument("what", metavar="methods|datasets|archs|protocols|scales", help="what to list")
    parser.add_argument("name", nargs="?", metavar="METHOD", help="a method, to list its settings")
    add_json(parser)


def handle(arguments: argparse.Namespace) -> int:
    """Do what was typed; returns the exit status."""
    return command(arguments.what, arguments.name, as_json=arguments.json)


def command(what: str, name: str | None, *, as_json: bool) -> int:
    """Print one list, a line for each entry, or all about one method; returns the exit status 0."""
    if what not in LISTS:
        raise UnknownNameError("list", what, LISTS)
    if name is not None:
        if what != "methods":
            raise UserError(f"list {what} takes no name, but found {name!r}; leave it out")
        page = describe.method_page(name)
        print(msgspec.json.encode(page).decode() if as_json else describe.as_text(page))
        return 0
    entries = LISTS[what]()
    print(msgspec.json.encode(entries).decode() if as_json else _as_text(entries))
    if what in NOTES and not as_json:
        print(NOTES[what]())
    return 0


def method_entries() -> list[dict[str, Any]]:
    """Methods and variants as their files' syntax has them; nothing is imported.

    `broken` says why one cannot be used, the flags what it gives to compositions.
    """
    return [_method_entry(info) for info in methods.discover().values()]


def _method_entry(info: methods.MethodInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "summary": info.summary,
        "broken": "; ".join(info.breaches) or None,
        "loop": info.loop,
        "distance": info.distance,
    }


def compositions() -> str:
    """The rules by which further methods are made, in a line each."""
    loops, distances = methods.composable(methods.discover().values())
    return (
        f"LOOP{methods.JOIN}DISTANCE, e.g. dm+bacon: a loop of {', '.join(loops)} "
        f"with a distance of {', '.join(distances)}\n"
        f"METHOD@{methods.SOFT}, e.g. random@soft: the set of any method, with soft labels by a "
        "network that was stopped early"
    )


def dataset_entries() -> list[dict[str, Any]]:
    """Datasets with the shape (C, H, W) of an image and the number of classes and images."""
    return [row._asdict() for row in catalog.describe()]


def arch_entries() -> list[dict[str, Any]]:
    """Networks."""
    return [{"name": name, "summary": summary} for name, summary in names.describe()]


def protocol_entries() -> list[dict[str, Any]]:
    """Evaluation protocols with their regime, length and source."""
    return [
        {
            "name": protocol.name,
            "regime": protocol.regime,
            "summary": protocol.summary,
            "length": length_in_words(protocol),
            "source": protocol.recipe.source,
        }
        for protocol in PROTOCOLS.values()
    ]


def scale_entries() -> list[dict[str, Any]]:
    """Scales with what they set where nothing else is asked for; `evals` are networks trained on each set."""
    return [asdict(scale) for scale in SCALES.values()]


def tuning() -> str:
    """How a learning rate is chosen, in a line."""
    factors = ", ".join(f"{factor:g}" for factor in GRID)
    return f"NAME{TUNED}, e.g. dc-cpu{TUNED}: the best rate of {factors} times its own on a tenth of train"


LISTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "methods": method_entries,
    "datasets": dataset_entries,
    "archs": arch_entries,
    "protocols": protocol_entries,
    "scales": scale_entries,
}

# What else can be typed, said below a list.
NOTES: dict[str, Callable[[], str]] = {"methods": compositions, "protocols": tuning}


def _as_text(entries: Sequence[dict[str, Any]]) -> str:
    width = max(len(entry["name"]) for entry in entries)
    return "\n".join(f"{entry['name']:{width}}  {_about(entry)}" for entry in entries)


def _about(entry: dict[str, Any]) -> str:
    if entry.get("broken"):
        return f"BROKEN: {entry['broken']}"
    if "protocols" in entry:
        asked = ", ".join(f"{name} ({regime})" for regime, name in entry["protocols"].items())
        counts = f"{plural(entry['evals'], 'network')} on each set, {plural(entry['seeds'], 'seed')}"
        return f"{entry['summary']}; {entry['arch']}; {asked}; {counts}"
    if "regime" in entry:
        return f"{entry['regime']:7}  {entry['summary']}; {entry['length']}"
    if "shape" not in entry:
        return str(entry["summary"])
    if entry["shape"] is None:
        return str(entry["note"])
    shape = "x".join(map(str, entry["shape"]))
    return f"{shape}, {entry['classes']} classes, {entry['train']} + {entry['test']} images: {entry['note']}"
