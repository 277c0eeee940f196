"""The commands that fill the empty cells of the paper's tables, and what they may take."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from harness.core.text import plural
from harness.engine.options import flag
from harness.report.paper.cells import SCALE, Completeness, PaperCell, Spec
from harness.report.paper.hours import Evidence, Hours, TrialHours
from harness.report.paper.tables import COMPARED, FILLED, Tables

UNKNOWN = "unknown"
PHASES = ("distillation", "evaluation")
SETS_THERE = "none, the sets are there or made before"


@dataclass(frozen=True)
class Command:
    """One `run` that fills cells: the same dataset and settings, every method at every ipc on every network.

    lacking: the seeds that each cell still needs, in the order of `cells`. protocol: what is named; empty for
    the one under hard labels that `run` takes by itself.
    """

    table: str
    methods: tuple[str, ...]
    dataset: str
    ipcs: tuple[int, ...]
    networks: tuple[str, ...]
    settings: tuple[tuple[str, float], ...]
    cells: tuple[Spec, ...]
    lacking: tuple[tuple[int, ...], ...]
    protocol: str = ""

    @property
    def trials(self) -> int:
        """Trials that it will run."""
        return sum(map(len, self.lacking))

    def options(self) -> dict[str, Any]:
        """What it asks of `run`, by the names of the options, as typed."""
        asked: dict[str, Any] = {
            "scale": SCALE.name,
            "dataset": self.dataset,
            "methods": ",".join(self.methods),
            "ipc": ",".join(map(str, self.ipcs)),
        }
        if self.networks != (SCALE.arch,):
            asked["eval_arch"] = ",".join(self.networks)
        if self.protocol:
            asked["protocol"] = self.protocol
        if self.settings:
            asked["set"] = [f"{self.methods[0]}.{name}={value}" for name, value in self.settings]
        return asked

    def line(self, launch: Mapping[str, Any]) -> str:
        """The command as typed, with the launch options of whoever asks."""
        return shlex.join(["python", "-m", "harness", "run", *words(self.options() | dict(launch))])


@dataclass(frozen=True)
class Missing:
    """Commands with the hours of one trial of each of their cells.

    new_sets: the seeds whose sets are made for a cell; those of its other seeds are there already or made for
    another cell, and cost nothing. not_here: methods with cells that this harness lacks.
    """

    commands: tuple[Command, ...]
    hours: Mapping[Spec, TrialHours]
    new_sets: Mapping[Spec, tuple[int, ...]] = field(default_factory=dict)
    not_here: Sequence[str] = ()

    def counted(self, spec: Spec, seeds: Collection[int], phase: str) -> int:
        """How often a phase of one trial of a cell is to be paid."""
        return len(self.new_sets.get(spec, seeds) if phase == PHASES[0] else seeds)

    def total(self, commands: Iterable[Command]) -> str:
        """`about 12 GPU-hours and at most 5 more, unknown for the evaluation of 3 cells`, for all trials."""
        sums, unknown = {False: 0.0, True: 0.0}, dict.fromkeys(PHASES, 0)
        for command in commands:
            for spec, seeds in zip(command.cells, command.lacking, strict=True):
                for phase in PHASES:
                    found: Hours = getattr(self.hours[spec], phase)
                    times = self.counted(spec, seeds, phase)
                    sums[found.bound] += times * (found.hours or 0.0)
                    unknown[phase] += times > 0 and found.hours is None
        gaps = [f"{phase} of {plural(number, 'cell')}" for phase, number in unknown.items() if number]
        gap = f"{UNKNOWN} for the {' and the '.join(gaps)}" if gaps else ""
        parts = [f"about {sums[False]:,.1f} GPU-hours"] if sums[False] else []
        if sums[True]:
            parts.append(f"at most {sums[True]:,.1f} {'more' if parts else 'GPU-hours'}")
        known = " and ".join(parts)
        return ", ".join(filter(None, (known, gap))) if known else f"GPU-hours {gap}"


def missing(tables: Tables, wanted: Completeness, evidence: Evidence | None) -> Missing:
    """Commands for all cells that are not complete, table by table; a cell of two tables is filled once.

    Without evidence no hours are estimated, and torch stays out.
    """
    commands: list[Command] = []
    seen: set[Spec] = set()
    for name in FILLED:
        cells = {cell.spec: cell for cell in tables.to_fill(name) if cell.lacking(wanted)}
        commands += group(name, [cell for spec, cell in cells.items() if spec not in seen], wanted)
        seen |= set(cells)
    specs = dict.fromkeys(spec for command in commands for spec in command.cells)
    hours = {spec: evidence.hours(spec) for spec in specs} if evidence else {}
    return Missing(tuple(commands), hours, _new_sets(tables, commands), tables.not_here())


def _new_sets(tables: Tables, commands: Iterable[Command]) -> dict[Spec, tuple[int, ...]]:
    """For each cell that is filled the seeds whose sets no record tells of and no cell before it needs."""
    made = {
        (_set_of(cell.spec), record.trial.seed)
        for name in FILLED
        for cell in tables.to_fill(name)
        for record in cell.done
    }
    found: dict[Spec, tuple[int, ...]] = {}
    for command in commands:
        for spec, seeds in zip(command.cells, command.lacking, strict=True):
            found[spec] = tuple(seed for seed in seeds if (_set_of(spec), seed) not in made)
            made |= {(_set_of(spec), seed) for seed in seeds}
    return found


def _set_of(spec: Spec) -> Spec:
    """What the cells of a set have in common: its networks may be others, and told otherwise."""
    return dataclasses.replace(spec.home, regime="hard")


def group(name: str, cells: Iterable[PaperCell], wanted: Completeness) -> list[Command]:
    """As few commands as fill these cells exactly, in their order; one asks a set with all its networks."""
    sets: dict[tuple[Any, ...], list[PaperCell]] = {}
    for cell in cells:
        spec = cell.spec
        # Settings name their method, so methods with settings of their own have commands of their own; those
        # of the authors' own table are apart from the many others.
        own = spec.method if spec.settings else str(spec.method in COMPARED)
        named = "" if spec.regime == "hard" and spec.unasked else spec.protocol
        kind = (spec.dataset, own, spec.settings, spec.regime, named)
        sets.setdefault((*kind, spec.method, spec.ipc), []).append(cell)
    rows: dict[tuple[Any, ...], list[PaperCell]] = {}
    for (*place, method, _), asked in sets.items():
        networks = tuple(cell.spec.arch for cell in asked)
        rows.setdefault((*place, networks, method), []).extend(asked)
    merged: dict[tuple[Any, ...], list[PaperCell]] = {}
    for (*place, _), row in rows.items():
        ipcs = tuple(sorted({cell.spec.ipc for cell in row}))
        merged.setdefault((*place, ipcs), []).extend(row)
    return [
        Command(
            table=name,
            methods=tuple(dict.fromkeys(cell.spec.method for cell in part)),
            dataset=dataset,
            ipcs=ipcs,
            networks=networks,
            settings=changed,
            cells=tuple(cell.spec for cell in part),
            lacking=tuple(cell.lacking(wanted) for cell in part),
            protocol=named,
        )
        for (dataset, _, changed, _, named, networks, ipcs), part in merged.items()
    ]


def words(options: Mapping[str, Any]) -> list[str]:
    """Options by name as words of a command line."""
    typed: list[str] = []
    for name, value in options.items():
        if isinstance(value, bool):
            typed.append(flag(name) if value else f"--no-{flag(name)[2:]}")
        else:
            for item in value if isinstance(value, list) else [value]:
                typed += [flag(name), str(item)]
    return typed


def as_text(found: Missing, launch: Mapping[str, Any]) -> str:
    """For people and for a shell: a comment on what each command fills and may take, then the command."""
    lacks = [f"# not implemented here, and left out: {', '.join(found.not_here)}"] if found.not_here else []
    if not found.commands:
        return "\n".join(["# nothing is missing: none of these cells is empty", *lacks]) + "\n"
    lines: list[str] = []
    for command in found.commands:
        lines += [*_comments(found, command), command.line(launch), ""]
    return "\n".join([*lines, _summary(found), *lacks]) + "\n"


def as_json(found: Missing, launch: Mapping[str, Any]) -> str:
    """One JSON object: commands with their cells and the hours of one trial of each."""
    content = [
        {
            "table": command.table,
            "command": command.line(launch),
            "trials": command.trials,
            "cells": [
                {
                    "method": spec.label,
                    "dataset": spec.dataset,
                    "ipc": spec.ipc,
                    "arch": spec.arch,
                    "seeds": seeds,
                    "new_sets": found.new_sets.get(spec, seeds),
                    "gpu_hours_a_trial": dataclasses.asdict(found.hours[spec]),
                }
                for spec, seeds in zip(command.cells, command.lacking, strict=True)
            ],
        }
        for command in found.commands
    ]
    return msgspec.json.encode({"commands": content, "not_implemented": found.not_here}).decode()


def _comments(found: Missing, command: Command) -> list[str]:
    size = f"{plural(len(command.cells), 'cell')}, {plural(command.trials, 'trial')}"
    lines = [f"# {command.table}, {command.dataset}: {size}: {found.total([command])}"]
    for phase in PHASES:
        for source, cells in _by_source(found, command, phase).items():
            lines.append(f"#   {phase}: {source}: {cells}")
    return lines


def _by_source(found: Missing, command: Command, phase: str) -> dict[str, str]:
    """Cells of each source of hours, with those of one trial: `bacon (ipc 1: 0.61 h, 10: 0.59 h)`."""
    rows: dict[str, dict[str, list[str]]] = {}
    listed: set[Spec] = set()
    for spec, seeds in zip(command.cells, command.lacking, strict=True):
        hours: Hours = getattr(found.hours[spec], phase)
        source = f"{UNKNOWN}, {hours.source}" if hours.hours is None else hours.source
        time = "" if hours.hours is None else f": {'at most ' if hours.bound else ''}{hours.hours:.2g} h"
        if not found.counted(spec, seeds, phase):
            if spec.home in listed:
                continue
            source, time = SETS_THERE, ""
        listed.add(spec.home)
        label = spec.label
        if phase != PHASES[0] and len(command.networks) > 1:
            label += f" on {spec.arch}"
        rows.setdefault(source, {}).setdefault(label, []).append(f"{spec.ipc}{time}")
    return {
        source: ", ".join(f"{label} (ipc {', '.join(ipcs)})" for label, ipcs in parts.items())
        for source, parts in rows.items()
    }


def _summary(found: Missing) -> str:
    cells = sum(len(command.cells) for command in found.commands)
    trials = sum(command.trials for command in found.commands)
    return f"# in all {plural(cells, 'cell')}, {plural(trials, 'trial')}: {found.total(found.commands)}"
