"""`python -m harness report --site FOLDER`: the web leaderboard as a folder of files.

It opens from disk and from any static host, and asks for nothing from a network. Files are named by fixed
names and by ids of records alone, so that no name in a record leads anywhere.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from harness.core.errors import UserError
from harness.core.files import replacing
from harness.core.packaged import packaged
from harness.core.text import memory, percent, plural
from harness.engine.provenance import Lineage
from harness.engine.record_files import collect
from harness.engine.records import FIRST_SCHEMA, Record
from harness.engine.scales import SCALES
from harness.report.fidelity import load_fidelity
from harness.report.filters import Filters
from harness.report.frames import print_problems
from harness.report.reported import ALL_IMAGES
from harness.report.site import detail, method
from harness.report.site.data import (
    CurveRow,
    LeaderboardRow,
    curve_rows,
    measured_rows,
    places,
    records_of,
    reported_rows,
)
from harness.report.site.pictures import Picture, picture_of
from harness.report.site.plot import specification
from harness.report.site.vendor import EXTRA, datatables_script, vega_script

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

HERE = packaged("harness.report.site")
NO_FILTERS = Filters()
PAGES = (
    ("index.html", "Leaderboard"),
    ("compute.html", "Accuracy and compute"),
    ("methods.html", "Methods"),
    ("how.html", "How these numbers are made"),
)
FACETS = (
    ("dataset", "Dataset"),
    ("ipc", "Images per class"),
    ("scale", "Scale"),
    ("protocol", "Protocol"),
    ("network", "Evaluated network"),
    ("arch", "Distilled by"),
    ("regime", "Label regime"),
    ("labels", "Stored labels"),
    ("augmentation", "Augmentation"),
    ("kind", "Origin"),
)
GALLERY = 12  # pictures on the page of a method, at most
PICTURES_BYTES = 500_000  # of all pictures together, so that the whole stays small
LEFT_OUT = "Its picture was left out to keep the site small; `python -m harness show` draws the set."
OUR_PAGE = re.compile(r"[0-9a-f]{10}\.(html|png)")
SCRIPT_ESCAPES = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


class Facet(NamedTuple):
    """A filter of the table: the field that it is about, its title and the values that occur."""

    name: str
    title: str
    values: list[str]


class Shown(NamedTuple):
    """What a page says of a picture: its file ("" for none), its size on the page and its caption."""

    file: str
    width: int
    height: int
    caption: str


@dataclass(frozen=True)
class Site:
    """All that the files are made of: rows with their records, and `pictures` by `picture_id`."""

    rows: list[LeaderboardRow]
    records: list[tuple[Record, ...]]
    reported: list[LeaderboardRow] = field(default_factory=list)
    curves: list[CurveRow] = field(default_factory=list)
    pictures: Mapping[str, Picture] = field(default_factory=dict)

    @cached_property
    def asked(self) -> Mapping[str, list[Record]]:
        """All evaluations of each set, by the id of its distillation."""
        found: dict[str, list[Record]] = defaultdict(list)
        for record in itertools.chain(*self.records):
            found[record.trial.distillation.id].append(record)
        return found

    @cached_property
    def by_id(self) -> Mapping[str, Record]:
        """The records that have a page, by id."""
        return {record.trial.id: record for record in itertools.chain(*self.records)}

    @property
    def size(self) -> int:
        """Number of records with a page."""
        return sum(map(len, self.records))


def command(results: Path, folder: Path, filters: Filters = NO_FILTERS) -> int:
    """Write the site for those records under `results` that `filters` want into `folder`; returns the status.

    Records of scales that stand on no leaderboard are left out, or shown as what they are if there are no
    others. Files that are no records are named on stderr and make the status 1. UserError: no records, a
    filter that none fits, a package that is not installed, or a folder that cannot be written.
    """
    records, problems = collect(results)
    print_problems(problems)
    if not records:
        which = "readable records" if problems else "records"
        raise UserError(f"no {which} under {results}; run `python -m harness run ...` first")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --site wants a folder to write the pages into")
    records = filters.select(records)
    shown = [record for record in records if on_leaderboard(record.trial.scale)]
    if shown and len(shown) < len(records):
        left_out = plural(len(records) - len(shown), "record")
        print(f"left out: {left_out} of a scale that stands on no leaderboard", file=sys.stderr)
    site = site_of(shown or records, results)
    try:
        size = write(files(site), folder)
    except OSError as error:
        raise UserError(f"cannot write {error.filename or folder}: {error.strerror}") from None
    about = f"{plural(len(site.rows), 'row')} of {plural(site.size, 'record')}, {len(site.reported)} reported"
    print(f"wrote {folder / 'index.html'} ({about}; {memory(size)}); open it in a browser")
    return int(bool(problems))


def on_leaderboard(name: str) -> bool:
    """Whether results of the scale of that name may stand on a leaderboard."""
    scale = SCALES.get(name)
    return scale is not None and scale.leaderboard


def site_of(records: Iterable[Record], results: Path) -> Site:
    """What there is to show of these records, with pictures of the sets that lie under `results`."""
    records = list(records)
    found = places(records, Lineage(results).states(records))
    by_row = [records_of(place) for place in found]
    return Site(
        rows=measured_rows(found),
        records=by_row,
        reported=reported_rows(),
        curves=curve_rows(found),
        pictures=_pictures(itertools.chain(*by_row), results),
    )


def files(site: Site) -> Iterator[tuple[str, bytes]]:
    """Names, relative to the folder, and contents of all files, the same for the same records."""
    yield "static/datatables.js", datatables_script().encode()
    yield "static/vega.js", vega_script().encode()
    yield from own_files(site)


def own_files(site: Site) -> Iterator[tuple[str, bytes]]:
    """Those files that are no library of other people."""
    environment = _environment()
    for path in sorted((HERE / "static").iterdir()):
        yield f"static/{path.name}", path.read_bytes()
    yield "index.html", _index(environment, site)
    yield "compute.html", _compute(environment, site)
    yield "how.html", _how(environment, site)
    described = method.pages(site.rows, site.reported, load_fidelity())
    yield "methods.html", _methods(environment, described)
    for one in described:
        yield f"methods/{one.name}.html", _method(environment, site, one)
    names = {one.name for one in described}
    for name, picture in site.pictures.items():
        if picture.png:
            yield f"pictures/{name}.png", picture.png
    for row, records in zip(site.rows, site.records, strict=True):
        for record in records:
            yield f"records/{record.trial.id}.html", _record(environment, site, record, row, names)


def write(made: Iterable[tuple[str, bytes]], folder: Path) -> int:
    """Write files into `folder` and remove pages of records that are no more; returns the bytes written."""
    kept, size = set(), 0
    with ExitStack() as stack:  # all files or none: pages refer to each other
        for name, content in made:
            path = folder / name
            aside = stack.enter_context(replacing(path, durable=False))
            size += aside.write_bytes(content)
            kept.add(path)
    for part in ("records", "pictures"):
        for path in (folder / part).glob("*"):
            if path not in kept and OUR_PAGE.fullmatch(path.name):
                path.unlink()
    return size


def script_json(value: Any) -> Markup:
    """A value as JSON that may stand in a script element: nothing in it can end the element."""
    from markupsafe import Markup

    return Markup(msgspec.json.encode(value).decode().translate(SCRIPT_ESCAPES))


def _environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ModuleNotFoundError:
        raise UserError(EXTRA) from None
    return Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(environment: Environment, name: str, root: str = "", **values: Any) -> bytes:
    page = environment.get_template(name)
    return page.render(root=root, pages=PAGES, here="" if root else name, **values).encode()


def _index(environment: Environment, site: Site) -> bytes:
    rows = [*site.rows, *site.reported]
    return _render(
        environment,
        "index.html",
        rows=script_json(rows),
        facets=_facets(rows),
        records=site.size,
        preview=not all(on_leaderboard(row.scale) for row in site.rows),
    )


def _compute(environment: Environment, site: Site) -> bytes:
    known = [row for row in site.rows if row.accuracy is not None and row.flops is not None]
    counts = Counter(row.track for row in known)
    rows = sorted(known, key=lambda row: -counts[row.track])  # the page opens with the track that has most
    return _render(
        environment,
        "compute.html",
        rows=script_json(rows),
        curves=script_json(site.curves),
        curves_present=bool(site.curves),
        spec=script_json(specification()),
    )


def _how(environment: Environment, site: Site) -> bytes:
    from harness.engine.protocol import PROTOCOLS
    from harness.report.protocols import in_words
    from harness.report.stats import FEW_SEEDS

    return _render(
        environment,
        "how.html",
        records=site.size,
        protocols=[(protocol, in_words(protocol)) for protocol in PROTOCOLS.values()],
        scales=list(SCALES.values()),
        few_seeds=FEW_SEEDS,
        plural=plural,
    )


def _methods(environment: Environment, described: Iterable[method.MethodPage]) -> bytes:
    listed = [
        {"name": one.name, "summary": one.summary, "measured": plural(len(one.shown), "cell")}
        for one in described
    ]
    return _render(environment, "methods.html", methods=listed)


def _method(environment: Environment, site: Site, described: method.MethodPage) -> bytes:
    """The page of a method, with the pictures of its first seeds that fit there."""
    pictured = [site.by_id[name] for name in described.shown if picture_id(site.by_id[name]) in site.pictures]
    gallery = [
        _shown(record, site.pictures[picture_id(record)])._asdict()
        | {"title": record.trial.distillation.label}
        for record in pictured
        if site.pictures[picture_id(record)].png
    ]
    return _render(environment, "method.html", root="../", method=described, gallery=gallery[:GALLERY])


def _record(
    environment: Environment, site: Site, record: Record, row: LeaderboardRow, described: Collection[str]
) -> bytes:
    base = method.base_of(record.trial.method)
    made, known = record.provenance, record.accuracies
    picture = site.pictures.get(picture_id(record), Picture())
    return _render(
        environment,
        "record.html",
        root="../",
        record=record,
        row=row,
        method=base if base in described else "",
        mean=percent(sum(known) / len(known)) if known else "",
        percent=percent,
        networks=plural(len(known), "network"),
        picture=_shown(record, picture),
        names=picture.class_names,
        drawing=detail.drawing(record),
        classes=detail.classes(record),
        costs=detail.costs(record),
        settings=detail.settings(record),
        circumstances=detail.circumstances(record),
        evaluation=detail.evaluation(record),
        asked=site.asked.get(record.trial.distillation.id, ()),
        provenance=detail.provenance(record),
        command=detail.command(record),
        commit=made.git_commit if made else None,
        dirty=made.git_dirty if made else None,
        folder=record.trial.dataset_source == "folder",
    )


def picture_id(record: Record) -> str:
    """What names the picture of a set, which all evaluations of the set share."""
    return record.trial.id if record.schema == FIRST_SCHEMA else record.trial.distillation.id


def _shown(record: Record, picture: Picture) -> Shown:
    file = f"pictures/{picture_id(record)}.png" if picture.png else ""
    return Shown(file, picture.width, picture.height, picture.caption)


def _facets(rows: Iterable[LeaderboardRow]) -> list[Facet]:
    """The filters, with values in the order of numbers or letters."""
    shown = list(rows)
    return [
        Facet(
            name,
            title,
            [str(value) for value in sorted({getattr(row, name) for row in shown} - {ALL_IMAGES})],
        )
        for name, title in FACETS
    ]


def _pictures(records: Iterable[Record], results: Path) -> dict[str, Picture]:
    """Pictures by `picture_id`, first seeds first, as long as all of them together stay small."""
    pictures, left = dict[str, Picture](), PICTURES_BYTES
    done = (record for record in records if record.status == "done")
    for record in sorted(done, key=lambda record: record.trial.seed):
        if picture_id(record) in pictures:
            continue
        picture = picture_of(record, results)
        if len(picture.png) > left:
            picture = Picture(caption=LEFT_OUT, class_names=picture.class_names)
        left -= len(picture.png)
        pictures[picture_id(record)] = picture
    return pictures
