"""From options to trials: everything is checked, and the data are there, before the first second of work.

A `Plan` is in canonical form: the same wishes in any order give the same trials, ids and order.
"""

from __future__ import annotations

import dataclasses
import errno
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

import methods
from harness.core.data.catalog import FOLDER_PREFIX, KNOWN, DatasetSpec, parse
from harness.core.errors import DataError, UnknownNameError, UserError
from harness.core.nets.names import canonical, convnet_spec
from harness.core.regime import Regime
from harness.core.settings import lengths, values_of
from harness.engine.options import Options, Setting
from harness.engine.parts import SGD
from harness.engine.protocol import protocol_named
from harness.engine.record_files import existing_record
from harness.engine.records import CEILING, FLOOR, SOFT_FLOOR, Distillation, Record, Trial, trial_of
from harness.engine.scales import Scale, scale_named

RATE_OF_RATE = "lr_lr"  # the setting of each method that learns the rate of SGD along
# What every method is compared with, by the regimes in which it is run along.
COMPANIONS: Mapping[str, tuple[Regime, ...]] = {
    FLOOR: ("hard", "teacher"),
    SOFT_FLOOR: ("stored",),
    CEILING: ("hard",),
}


@dataclass(frozen=True)
class DatasetFacts:
    """What planning needs to know of a dataset; `shape` is (C, H, W), `train` counts images.

    `remarks` are what a person should hear of its images before they are used, `fingerprints` those of the
    train and test split; None if these are part of the package.
    """

    spec: DatasetSpec
    shape: tuple[int, int, int]
    classes: int
    smallest_class: int
    train: int
    remarks: tuple[str, ...] = ()
    fingerprints: tuple[str, str] | None = None

    @property
    def size(self) -> int:
        """Pixel values in the train split."""
        return self.train * math.prod(self.shape)


@dataclass(frozen=True)
class Plan:
    """The trials, cheap ones first within each dataset, small datasets first.

    `datasets` maps the name of each dataset to the text from which a worker parses it again; `remarks` are
    lines about the data for a person, `along` methods that were not asked for and are run for comparison,
    `fingerprints` those of the train and test images by dataset.
    """

    trials: tuple[Trial, ...]
    datasets: Mapping[str, str]
    remarks: tuple[str, ...] = ()
    along: tuple[str, ...] = ()
    fingerprints: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def make_plan(options: Options) -> Plan:
    """Check all that can be checked, fetch the data, list the trials; UserError names the first mistake."""
    check_consistency(options)
    check_methods(options)
    check_writable(options.results)
    specs = dataset_specs(options)
    facts = [dataset_facts(spec, options.data_dir, options.ipc) for spec in specs]
    for fact in facts:
        for arch in dict.fromkeys((options.arch or scale_named(options.scale).arch, *options.eval_arch)):
            check_network(arch, fact)
    return expand(options, facts)


def expand(options: Options, facts: Sequence[DatasetFacts]) -> Plan:
    """All trials that the options ask for on these datasets, in canonical order."""
    asked = asked_of_each(options)
    settings = settings_by_method(tuple(asked), options.set)
    trials = {
        trial.id: trial
        for fact in facts
        for method, wishes in asked.items()
        for ipc in _ipcs(method, wishes.ipc)
        for trial in _trials(wishes, fact, method, ipc, settings[method])
    }
    sizes = {fact.spec.name: fact.size for fact in facts}
    # Asked of one trial of a cell: whatever the seed and the question, its settings are the same.
    cells = {(trial.dataset, trial.method, trial.ipc): trial for trial in trials.values()}
    steps = {key: methods.steps_of(trial.method, trial.config).count for key, trial in cells.items()}
    ordered = sorted(
        trials.values(),
        key=lambda trial: _cost_order(
            trial, sizes[trial.dataset], steps[trial.dataset, trial.method, trial.ipc]
        ),
    )
    return Plan(
        tuple(ordered),
        {fact.spec.name: worker_text(fact.spec) for fact in facts},
        tuple(remark for fact in facts for remark in fact.remarks),
        tuple(method for method in asked if method not in options.methods),
        {fact.spec.name: fact.fingerprints for fact in facts if fact.fingerprints is not None},
    )


def asked_of_each(options: Options) -> dict[str, Options]:
    """What is asked of each method: under the protocols that are named, or else the one that it calls for.

    With `Options.gains` the methods that others are compared with are asked all that they are needed for.
    """
    scale = scale_named(options.scale)
    under = {method: protocols_of(method, options, scale) for method in options.methods}
    if options.gains:
        every = dict.fromkeys(name for names in under.values() for name in names)
        # Sets that they are compared with keep no steps of training.
        everything = tuple(name for name in every if not protocol_named(name).needs_steps)
        for method, regimes in COMPANIONS.items():
            needed = [name for name in everything if protocol_named(name).regime in regimes]
            if needed:
                under[method] = tuple(dict.fromkeys((*under.get(method, ()), *needed)))
    return {method: dataclasses.replace(options, protocol=protocols) for method, protocols in under.items()}


def protocols_of(method: str, options: Options, scale: Scale) -> tuple[str, ...]:
    """Those that are named, or else the scale's that the method's sets call for.

    That is the one for hard labels if the method is no more.
    """
    if options.protocol:
        return options.protocol
    try:
        found = methods.find(method)
        return (scale.protocol_for(found, found.regime),)
    except UserError:
        return (scale.protocol,)


def _ipcs(method: str, asked: tuple[int, ...]) -> tuple[int, ...]:
    """Images per class to run a method at: one that ignores them makes the same set each time."""
    return (1,) if methods.load(method).IGNORES_IPC else asked


def finished(trials: Iterable[Trial], results: Path, known: Iterable[Record] = ()) -> dict[str, Record]:
    """Records of these trials that lie under `results`, by id; UserError for one that cannot be read.

    `known` are records under `results` that have been read already.
    """
    at_hand = {record.id: record for record in known}
    found: dict[str, Record] = {}
    for trial in trials:
        record = at_hand.get(trial.id) or existing_record(trial, results)
        if record is not None:
            found[record.id] = record
    return found


def check_data(plan: Plan, records: Iterable[Record]) -> None:
    """Refuse to go on with records of the plan's trials that were made from other images than lie there."""
    for record in records:
        trial = record.trial
        here = plan.fingerprints.get(trial.dataset)
        made = record.dataset_fingerprint, record.test_fingerprint
        # With a curve a part of the train split is left out, of which the fingerprint is another one.
        if here is not None and not trial.curve and None not in made and made != here:
            raise DataError(
                f"the record of {trial.label} was made from other images of {trial.dataset} than lie there "
                f"now (fingerprints {' and '.join(map(str, made))}, now {' and '.join(here)}); restore the "
                "files, or pass another folder with --results"
            )


def check_consistency(options: Options) -> None:
    """Refuse options that contradict one another."""
    if options.image_size is not None and not any(map(_is_folder, options.dataset)):
        raise UserError(
            "--image-size is for folder:PATH datasets; "
            f"{', '.join(options.dataset)} cannot be resized: leave it out"
        )
    for arch in (*((options.arch,) if options.arch else ()), *options.eval_arch):
        canonical(arch)
    if options.curve and max(len(options.eval_arch), len(options.protocol)) > 1:
        raise UserError(
            "--curve judges a set while it is made, by one network and one protocol; ask it more afterwards: "
            "python -m harness evaluate"
        )


def check_methods(options: Options) -> None:
    """Refuse methods that are unknown or broken, settings that no selected method has, and two lengths."""
    for name in options.methods:
        methods.load(name)
        if options.budget is not None and (uncounted := methods.find(name).uncounted):
            raise UserError(
                f"--budget buys steps by their FLOPs, which leave out the {uncounted} that {name} takes; "
                "drop one of the two"
            )
    for name, values in settings_by_method(options.methods, options.set).items():
        typed = methods.checked(name, values)  # whether they fit the others shows where all are known
        doubled = [key for key in lengths(methods.load(name).Config) if key in values]
        for key in doubled:
            if typed[key] < 0:
                raise UserError(f"--set {name}.{key}={values[key]}: a loop has no fewer than 0 steps")
        if options.budget is not None and doubled:
            raise UserError(
                f"--budget decides the number of steps of {name}, and so does --set {name}.{doubled[0]}; "
                "drop one"
            )


def settings_by_method(selected: Sequence[str], settings: Iterable[Setting]) -> dict[str, dict[str, Any]]:
    """Settings for each selected method; `*` goes to all that have the key, a method's own go before it."""
    keys = {
        name: {field.name for field in dataclasses.fields(methods.load(name).Config)} for name in selected
    }
    general: dict[str, dict[str, Any]] = {name: {} for name in selected}
    own: dict[str, dict[str, Any]] = {name: {} for name in selected}
    for method, key, value in settings:
        if method == "*":
            takers = [name for name in selected if key in keys[name]]
            if not takers:
                raise UnknownNameError("setting of the selected methods", key, set().union(*keys.values()))
            for name in takers:
                general[name][key] = value
        elif method in own:
            own[method][key] = value
        else:
            raise UserError(
                f"--set {method}.{key}: method {method!r} is not selected; expected one of "
                f"{', '.join(selected)} or *"
            )
    return {name: general[name] | own[name] for name in selected}


def check_writable(results: Path) -> None:
    """Refuse a results folder that cannot be written, by writing and removing a file; creates no folder."""
    existing = next(folder for folder in (results, *results.resolve().parents) if folder.exists())
    try:
        if not existing.is_dir():
            raise OSError(errno.ENOTDIR, "it is not a folder")
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        raise UserError(
            f"cannot write results under {existing}: {error.strerror}; pass another folder with --results"
        ) from None


def dataset_specs(options: Options) -> list[DatasetSpec]:
    """Specs of the datasets asked for, each once; UserError if two would share a name in results."""
    named: dict[str, DatasetSpec] = {}
    for text in options.dataset:
        size = options.image_size if _is_folder(text) else None
        spec = parse(text, options.data_dir, size, options.zca)
        other = named.setdefault(spec.name, spec)
        if (other, other.path) != (spec, spec.path):
            raise UserError(
                f"{other.path or other.name} and {spec.path or spec.name} would both be called "
                f"{spec.name!r} in results; rename one of the folders"
            )
    for name, known in ((spec.name, KNOWN.get(spec.source)) for spec in named.values()):
        if known is not None:
            # No class can be smaller than all of them, so this needs no download.
            refuse_ipc(name, options.ipc, known.train // known.classes)
    return list(named.values())


def worker_text(spec: DatasetSpec) -> str:
    """What `parse` turns into this spec in any working directory."""
    return f"{FOLDER_PREFIX}{spec.path}" if spec.path is not None else spec.name


def dataset_facts(spec: DatasetSpec, data_dir: Path, ipcs: Iterable[int]) -> DatasetFacts:
    """What a dataset is like, which is there or else downloaded; refuses an ipc above its smallest class."""
    facts = _embedded_facts(spec) or _loaded_facts(spec, data_dir)
    refuse_ipc(spec.name, ipcs, facts.smallest_class)
    return facts


def _embedded_facts(spec: DatasetSpec) -> DatasetFacts | None:
    known = KNOWN.get(spec.source)
    if known is None or known.smallest_class is None:
        return None
    return DatasetFacts(spec, known.shape, known.classes, known.smallest_class, known.train)


def _loaded_facts(spec: DatasetSpec, data_dir: Path) -> DatasetFacts:
    from harness.core.data import load

    # Without whitening, which may take minutes to fit and tells nothing here.
    data = load(dataclasses.replace(spec, zca=False), data_dir)
    test = data.test()  # so that a test split that will not do is found out before hours of distillation
    found: list[str] = []
    if spec.source == "folder":
        from harness.core.data.folder import remarks

        found = remarks(spec, {"train": data.images, "test": test.images})
    prints = data.fingerprint, test.fingerprint
    smallest = min(data.index.counts)
    return DatasetFacts(spec, data.shape, data.num_classes, smallest, len(data), tuple(found), prints)


def refuse_ipc(dataset: str, wanted: Iterable[int], smallest_class: int) -> None:
    """DataError if more images per class are wanted than the smallest class has."""
    largest = max(wanted)
    if largest > smallest_class:
        raise DataError(
            f"--ipc {largest} is impossible: {dataset} has a class of no more than {smallest_class} training "
            f"images; choose an ipc of at most {smallest_class}"
        )


def check_network(arch: str, facts: DatasetFacts) -> None:
    """Refuse a network that cannot take the dataset's images, and tiles that do not fit them."""
    channels, height, width = facts.shape
    spec = convnet_spec(arch)
    if spec is not None and min(height, width) >= 2**spec.depth:
        return  # each block halves the images at most, and torch's first meta network takes seconds
    import torch

    from harness.core.nets import build

    build(
        arch,
        channels=channels,
        image_size=(height, width),
        classes=facts.classes,
        generator=torch.Generator(),
        device="cpu",
    )


def _trials(
    options: Options, facts: DatasetFacts, method: str, ipc: int, settings: Mapping[str, Any]
) -> list[Trial]:
    """The trials of one cell of the grid: for each seed one set, and all that is asked about it."""
    scale, spec = scale_named(options.scale), facts.spec
    resolved = methods.resolve(method, spec.name, ipc, scale.name, settings)
    config = msgspec.to_builtins(values_of(resolved.config))
    zca = _whitened(method, config, spec, settings)
    config = config | {"zca": zca} if "zca" in config else config
    steps = methods.steps_of(method, config)
    _refuse_uneven_tiles(method, steps.factor, facts)
    seeds = range(scale.seeds) if options.seeds is None else options.seeds
    refuse_hard_labels(f"{method} makes", steps.labels, options.protocol)
    refuse_missing_steps(method, steps.learned, options.protocol)
    if RATE_OF_RATE in config:
        refuse_other_rates(f"sets of {method} keep", options.protocol)
    _refuse_taught_curve(options)
    _refuse_uneven_steps(method, ipc, steps.multiple)
    made = Distillation(
        method=method,
        dataset=spec.name,
        dataset_source=spec.source,
        ipc=ipc,
        seed=0,
        scale=scale.name,
        arch=canonical(options.arch or scale.arch),
        precision=options.precision,
        config=config,
        budget_flops=options.budget,
        curve=options.curve,
        zca=zca,
        image_size=spec.image_size,
        listing=spec.listing,
        settings_from=resolved.source,
    )
    return [
        trial_of(msgspec.structs.replace(made, seed=seed), **asked)
        for seed in seeds
        for asked in asked_of(options, scale)
    ]


def _refuse_taught_curve(options: Options) -> None:
    taught = [name for name in options.protocol if protocol_named(name).regime == "teacher"]
    if options.curve and taught:
        raise UserError(
            f"--curve judges a set by networks that no teacher tells, and protocol {taught[0]} asks one; "
            f"name another, such as --protocol {scale_named(options.scale).protocol}"
        )


def asked_of(options: Options, scale: Scale) -> list[dict[str, Any]]:
    """What is to be asked of each set: each network under each named protocol, as facts of a trial."""
    networks = dict.fromkeys(map(canonical, options.eval_arch)) or {"": None}
    return [
        {
            "eval_arch": network,
            "protocol": protocol,
            "protocol_version": protocol_named(protocol).version,
            "evals": options.evals or scale.evals,
        }
        for network in networks
        for protocol in options.protocol
    ]


def _whitened(method: str, config: Mapping[str, Any], spec: DatasetSpec, settings: Mapping[str, Any]) -> bool:
    """Whether a trial's images are ZCA whitened: by the run's wish, or by the method's settings.

    UserError if whitening is asked for and refused at once.
    """
    own = bool(config.get("zca", False))
    if spec.zca and "zca" in settings and not own:
        raise UserError(f"--zca whitens the images of every method, --set {method}.zca refuses it; drop one")
    return spec.zca or own


def refuse_hard_labels(whose: str, kind: str | None, protocols: Iterable[str]) -> None:
    """UserError if sets are to be asked under a protocol of stored soft labels and have hard ones.

    `whose` begins the sentence: "dm makes". A kind that is not known, None, may be soft.
    """
    stored = [name for name in protocols if protocol_named(name).regime == "stored"]
    if stored and kind == "hard":
        raise UserError(
            f"protocol {stored[0]} trains on soft labels that lie with the set, and {whose} hard ones alone; "
            "choose a protocol for hard labels or with a teacher (`python -m harness list protocols`), or a "
            "method that makes soft labels, such as random@soft"
        )


def refuse_missing_steps(method: str, learned: int, protocols: Iterable[str]) -> None:
    """UserError if sets are to be asked under a protocol of learned steps and keep none."""
    needing = [name for name in protocols if protocol_named(name).needs_steps]
    if needing and not learned:
        raise UserError(
            f"protocol {needing[0]} makes the steps that were learned with a set, and sets of {method} keep "
            "none; choose another protocol (`python -m harness list protocols`), or a method that learns "
            "steps, such as dd"
        )


def refuse_other_rates(whose: str, protocols: Iterable[str]) -> None:
    """UserError if sets that keep a learned rate are to be asked under a protocol that cannot go by it.

    Such a rate is of plain training by SGD: it says nothing of Adam's steps, nor of losses to a teacher.
    `whose` stands in the sentence: "sets of mtt keep".
    """
    for protocol in map(protocol_named, protocols):
        if protocol.regime == "teacher" or not isinstance(protocol.recipe.optimiser, SGD):
            trains = "by what a teacher says" if protocol.regime == "teacher" else "by another optimiser"
            raise UserError(
                f"protocol {protocol.name} trains {trains}, and {whose} the rate of SGD that was learned for "
                "their own labels; choose one of SGD, such as the method's own (leave --protocol off, or see "
                "`python -m harness list protocols`)"
            )


def _refuse_uneven_steps(method: str, ipc: int, multiple: int) -> None:
    if ipc % multiple:
        raise UserError(
            f"{method} shares the images of a class out to {multiple} steps, and {ipc} are no multiple of "
            f"that; choose --ipc {-(-ipc // multiple) * multiple} or another --set {method}.steps"
        )


def _refuse_uneven_tiles(method: str, factor: int, facts: DatasetFacts) -> None:
    height, width = facts.shape[1:]
    if height % factor or width % factor:
        raise UserError(
            f"{method} cuts images into {factor}x{factor} tiles, which do not fit {facts.spec.name} at "
            f"{height}x{width} pixels; try --image-size {height - height % factor} or --set {method}.factor=1"
        )


def _cost_order(trial: Trial, dataset_size: int, steps: int) -> tuple[Any, ...]:
    """Sorting key: datasets by size, then methods without steps, then few steps, then small sets."""
    asked = trial.eval_arch, trial.protocol
    return dataset_size, trial.dataset, steps, trial.ipc, trial.method, trial.seed, *asked, trial.id


def _is_folder(text: str) -> bool:
    return text.lower().startswith(FOLDER_PREFIX)
