"""Networks trained on the real images once and used by many runs: "experts", "buffers", "teachers".

MTT and its kin match the trajectories of such networks, others their embeddings or logits. Expert k is drawn
and trained from k alone and not from the seed of the run, so that runs with other seeds and ipcs use it
again, as the authors' runs use their buffers again. A context with a `cache` keeps experts in

    <cache>/experts/<key>/<k>.safetensors

where the key stands for all that decides their weights. Runs side by side share the work: each expert is
under a lock while it is trained, and goes on from its checkpoint if that was cut short. What an expert cost
is kept with it and charged to every run that uses it, so that the cost of a run does not depend on what was
in the cache.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.core.augment import augment_batch, cutmix_batch
from harness.core.checkpoint import State
from harness.core.clock import Cost
from harness.core.context import Context
from harness.core.curriculum import Curriculum, Syllabus
from harness.core.data import Dataset, Normalization, RegularisedZCA
from harness.core.errors import UserError
from harness.core.faults import passing
from harness.core.files import replacing
from harness.core.gsam import Gsam, gsam_step
from harness.core.loop import StoppedEarly
from harness.core.nets import Network, canonical
from harness.core.passes import Forward, logits_forward, rows_per_piece, train_step
from harness.core.seeds import seed_for
from harness.core.sgd import SGD

# Part of the key; to be raised when a change of the code gives experts other weights.
FORMAT = "experts-1"
BASE_SEED = 0  # of all experts of all runs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExpertSettings:
    """How experts are trained and which of their snapshots are kept.

    Snapshots are numbered by the passes made: 0 is the fresh network, `epochs` the last one.
    """

    count: int  # networks
    epochs: int  # passes over the training images
    batch: int = 256  # images per SGD step; the last step of a pass gets what is left
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    decay_epochs: tuple[int, ...] = ()  # indices of the passes before which the rate is multiplied by `decay`
    decay: float = 0.1
    cosine: bool = False  # from pass to pass, from the whole rate towards nothing; instead of `decay`
    strategy: str = ""  # DSA, drawn plainly: one operation a batch, parameters for each image
    align_corners: bool = False  # of the resampling in DSA
    steps_per_epoch: int | None = None  # ends each pass early, for small scales; None: whole passes
    snapshots: Literal["all", "ends", "last"] = "all"  # after each pass; first and last; last only
    arch: str | None = None  # None: the context's
    cutmix: float = 0.0  # probability that a batch is mixed by CutMix, after the augmentation
    gsam: Gsam | None = None  # None: plain SGD
    curriculum: Curriculum | None = None  # None: each pass sees every image
    half: bool = False  # snapshots are kept in half precision: float16

    @property
    def kept(self) -> tuple[int, ...]:
        """Numbers of the snapshots that are kept."""
        if self.snapshots == "all":
            return tuple(range(self.epochs + 1))
        return (self.epochs,) if self.snapshots == "last" else (0, self.epochs)


class Store(Protocol):
    """Where an expert's tensors are, in memory or in a file."""

    def get_tensor(self, name: str, /) -> Tensor:
        """The tensor of that name, on the CPU."""


class Experts:
    """Trained networks, whose weights are read when they are asked for."""

    def __init__(
        self, settings: ExpertSettings, names: Sequence[str], experts: Sequence[_Expert], device: torch.device
    ) -> None:
        self.settings = settings
        self.costs = tuple(expert.cost for expert in experts)
        self._names = tuple(names)
        self._stores = tuple(expert.store for expert in experts)
        self._device = device

    def __len__(self) -> int:
        """Number of experts."""
        return len(self._stores)

    def parameters(self, expert: int, epoch: int) -> list[Tensor]:
        """Copies of an expert's weights after `epoch` passes, in the order of `Network.parameters`."""
        return [self._read(expert, epoch, name) for name in self._names]

    @torch.no_grad()
    def load_into(self, net: Network, expert: int, epoch: int) -> None:
        """Set a network's weights and running statistics to an expert's after `epoch` passes."""
        for name, target in net.state_dict().items():
            target.copy_(self._read(expert, epoch, name))

    def _read(self, expert: int, epoch: int, name: str) -> Tensor:
        if epoch not in self.settings.kept:
            raise ValueError(f"snapshot {epoch} was not kept, only {self.settings.kept}")
        tensor = self._stores[expert].get_tensor(_entry(epoch, name))
        whole = torch.float32 if tensor.is_floating_point() else tensor.dtype
        # Sent as it is stored, and made whole there.
        sent = tensor.to(self._device, copy=True, non_blocking=True)
        return sent.to(whole)


def train_experts(
    context: Context, data: Dataset, settings: ExpertSettings, *, difficulty: Tensor | None = None
) -> Experts:
    """The experts of these settings: from the context's cache as far as they are there, else trained now.

    Their cost is charged to the context, whoever trained them. Draws nothing from the context's generators.
    A curriculum goes by the `difficulty` (N,) of each image.
    """
    settings = replace(settings, arch=canonical(settings.arch or context.arch))
    with context.off_the_clock():
        trainer = _ExpertTrainer(context, data, settings, _syllabus(settings, difficulty, data))
        if context.rehearsing:
            experts = [_stand_in(trainer)] * settings.count
        elif context.cache is None:
            experts = [trainer.train(k, trainer.context_of(k)) for k in range(settings.count)]
        else:
            experts = _cached(trainer, context.cache / "experts" / trainer.key)
        names = [name for name, _ in trainer.fresh(0).named_parameters()]
    for expert in experts:
        context.charge(expert.cost)
    return Experts(settings, names, experts, context.device)


@dataclass(frozen=True)
class _Expert:
    """One expert's tensors and what training it cost, whenever that was."""

    store: Store
    cost: Cost


def _syllabus(settings: ExpertSettings, difficulty: Tensor | None, data: Dataset) -> Syllabus | None:
    if settings.curriculum is None:
        return None
    if difficulty is None:
        raise ValueError("a curriculum needs the difficulty of each image")
    return Syllabus(settings.curriculum, difficulty, data)


class _Snapshots(dict[str, Tensor]):
    """Weights and running statistics by `_entry`, on the CPU; a store and part of a loop's state."""

    def take(self, epoch: int, net: Network, *, half: bool) -> None:
        """Copy what the network holds now, real numbers in half precision if `half`."""
        for name, tensor in net.state_dict().items():
            kept = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            self[_entry(epoch, name)] = kept.half() if half and kept.is_floating_point() else kept

    def get_tensor(self, name: str) -> Tensor:
        """The tensor of that name."""
        return self[name]

    def state_dict(self) -> dict[str, Any]:
        """All tensors, by name."""
        return dict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint holds."""
        self.clear()
        self.update(state)


@dataclass(frozen=True)
class _ExpertTrainer:
    """Trains the experts of the settings, one at a time; where they are kept is `_cached`'s matter."""

    context: Context
    data: Dataset
    settings: ExpertSettings
    syllabus: Syllabus | None = None

    @property
    def key(self) -> str:
        """16 hex digits for all that decides an expert's weights, but for its number."""
        settings = asdict(self.settings)
        del settings["count"]
        for name in ("cosine", "cutmix", "gsam", "curriculum", "half"):
            if not settings[name]:
                del settings[name]  # so that experts keep the keys that they had before there was one
        transform = self.data.transform
        values: list[Any] = []  # the dataset's own whitening follows from the images alone
        if isinstance(transform, Normalization):
            values = [transform.mean.tolist(), transform.std.tolist()]
        elif isinstance(transform, RegularisedZCA):
            values = [hashlib.sha256(transform.whiten.cpu().numpy().tobytes()).hexdigest()]
        identity = {
            "format": FORMAT,
            "dataset": self.data.fingerprint,
            "transform": [type(transform).__name__, values],
            "settings": settings,
            "precision": self.context.precision,
            **_circumstances(self.context.device),
        }
        if self.syllabus is not None:
            order = {f"{c:06d}": rows.cpu() for c, rows in enumerate(self.syllabus.sorted_classes)}
            identity["order"] = _digest(_Snapshots(order), order)
        return hashlib.sha256(msgspec.json.encode(identity, order="sorted")).hexdigest()[:16]

    @property
    def entries(self) -> set[str]:
        """Names of all tensors that are kept of an expert."""
        names = self.fresh(0).state_dict()
        return {_entry(epoch, name) for epoch in self.settings.kept for name in names}

    def fresh(self, k: int) -> Network:
        """The network that expert k is before its training."""
        return self.context_of(k).network(self.data, arch=self.settings.arch)

    def context_of(self, k: int, work: Path | None = None) -> Context:
        """The context that expert k is trained in; its checkpoint lies under `work`."""
        return self.context.apart(seed_for(BASE_SEED, f"expert-{k}"), work)

    def train(self, k: int, context: Context) -> _Expert:
        """Train expert k in its own context."""
        settings, data = self.settings, self.data
        net = context.network(data, arch=settings.arch)
        optimizer = SGD(
            net.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        forward = context.accelerate(logits_forward(context))
        distort, rows_at_once = self._augmenter(context), rows_per_piece(net, data.shape)
        order = torch.arange(len(data), device=data.device)
        snapshots = _Snapshots()
        self._keep(snapshots, 0, net)

        state: State = {"net": net, "optimizer": optimizer, "order": order, "snapshots": snapshots}
        for step in context.steps(self._starts[-1], state, name=f"expert {k + 1}", budgeted=False):
            epoch = bisect_right(self._starts, step) - 1
            position = step - self._starts[epoch]
            if position == 0:
                self._begin_pass(epoch, order, context)
                self._set_rate(optimizer, epoch)
            batch = order[: self._shown(epoch)][position * settings.batch : (position + 1) * settings.batch]
            images, labels = distort(data.batch(batch), data.labels[batch])
            loss = self._step(epoch, (forward, net, optimizer), (images, labels), rows_at_once)
            context.log(loss)
            if step == self._starts[epoch + 1] - 1:
                self._keep(snapshots, epoch + 1, net)
        return _Expert(snapshots, context.cost())

    def _step(
        self,
        epoch: int,
        student: tuple[Forward, Network, SGD],
        batch: tuple[Tensor, Tensor],
        rows_at_once: int | None,
    ) -> Tensor:
        """One step of SGD, or of GSAM if the settings ask for it; returns the loss."""
        gsam = self.settings.gsam
        if gsam is None:
            return train_step(*student, *batch, rows_at_once)[0]
        rho = gsam.rho(self._rates[epoch], self._rates)
        return gsam_step(*student, batch, rows_at_once, gsam, rho)

    @cached_property
    def _starts(self) -> list[int]:
        """The SGD step with which each pass begins, and at last the number of all steps."""
        most = self.settings.steps_per_epoch
        whole = [math.ceil(self._shown(epoch) / self.settings.batch) for epoch in range(self.settings.epochs)]
        return [0, *accumulate(min(steps, most or steps) for steps in whole)]

    def _shown(self, epoch: int) -> int:
        """How many images a pass sees."""
        return len(self.data) if self.syllabus is None else self.syllabus.count(epoch)

    def _begin_pass(self, epoch: int, order: Tensor, context: Context) -> None:
        """Shuffle the images into `order` (N,), those that a pass sees before the others."""
        shuffled = self._order(context)
        if self.syllabus is not None:
            left_out = ~self.syllabus.shown(epoch)[shuffled]
            shuffled = shuffled[left_out.to(torch.uint8).argsort(stable=True)]
        order.copy_(shuffled)

    def _keep(self, snapshots: _Snapshots, epoch: int, net: Network) -> None:
        if epoch in self.settings.kept:
            snapshots.take(epoch, net, half=self.settings.half)

    def _set_rate(self, optimizer: SGD, epoch: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self._rates[epoch]

    @cached_property
    def _rates(self) -> list[float]:
        """The learning rate of each pass."""
        return [self._rate(epoch) for epoch in range(self.settings.epochs)]

    def _rate(self, epoch: int) -> float:
        settings = self.settings
        falls = sum(decay_epoch <= epoch for decay_epoch in settings.decay_epochs)
        share = settings.decay**falls
        if settings.cosine:
            share = 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
        return settings.lr * share

    def _order(self, context: Context) -> Tensor:
        """The images of a pass, shuffled."""
        generator, device = context.generator("order"), self.data.device
        return torch.randperm(len(self.data), generator=generator, device=device)

    def _augmenter(self, context: Context) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        settings, classes = self.settings, self.data.num_classes

        def distort(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            generator = context.generator("augment", on_cpu=True)
            images = augment_batch(images, settings.strategy, generator, align_corners=settings.align_corners)
            if not settings.cutmix:
                return images, labels
            return cutmix_batch(images, labels, classes, settings.cutmix, generator)

        return distort


def _cached(trainer: _ExpertTrainer, folder: Path) -> list[_Expert]:
    """All experts; first those that are there or that nobody else is training, then the others."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[int, _Expert] = {}
    for patience in (0, -1):
        for k in range(trainer.settings.count):
            expert = found.get(k) or _obtain(trainer, folder, k, patience)
            if expert is not None:
                found[k] = expert
    return [found[k] for k in range(trainer.settings.count)]


def _obtain(trainer: _ExpertTrainer, folder: Path, k: int, patience: float) -> _Expert | None:
    """Expert k from its file, or trained and written there.

    None if another process trains it and does not finish within `patience` seconds; -1 waits for as long as
    it lives.
    """
    path = folder / f"{k}.safetensors"
    expert = _read(path, trainer)
    if expert is not None:
        return expert
    lock = FileLock(folder / f"{k}.lock", timeout=patience)
    try:
        lock.acquire()
    except Timeout:
        return None
    try:
        expert = _read(path, trainer)
        if expert is None:
            work = folder / f"{k}.work"
            expert = trainer.train(k, trainer.context_of(k, work))
            _write(path, expert, trainer.key)
            shutil.rmtree(work, ignore_errors=True)
        return expert
    finally:
        lock.release()


def _write(path: Path, expert: _Expert, key: str) -> None:
    """Write an expert aside and move it to its place."""
    assert isinstance(expert.store, _Snapshots)
    about = {"format": FORMAT, "key": key, "digest": _digest(expert.store, expert.store), "cost": expert.cost}
    with replacing(path) as aside:
        save_file(dict(expert.store), aside, {"expert": msgspec.json.encode(about).decode()})


def _read(path: Path, trainer: _ExpertTrainer) -> _Expert | None:
    """The expert in a file that is whole; its tensors stay in the file until they are asked for.

    UserError for one of another recipe, network or dataset, which somebody put there.
    """
    try:
        store: Any = safe_open(str(path), framework="pt")
        about = msgspec.json.decode((store.metadata() or {})["expert"])
        digest = _digest(store, store.keys())
        if (about["format"], about["digest"]) != (FORMAT, digest):
            raise ValueError("it does not hold what was written")
        expert = _Expert(store, msgspec.convert(about["cost"], Cost))
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
        if passing(error) is not None:
            raise
        logger.warning("expert %s is unreadable (%s); training it again", path, error)
        return None
    # Older files do not say what they are of, but by the tensors that they hold.
    if about.get("key", trainer.key) != trainer.key or set(store.keys()) != trainer.entries:
        raise UserError(
            f"the network in {path} was trained by another recipe, or is of another kind or for another "
            "dataset than its folder is for; move it away, and the right one is trained"
        )
    return expert


def _digest(store: Store, names: Iterable[str]) -> str:
    """SHA-256 of tensors that are read one at a time, as all together may be larger than memory."""
    content = hashlib.sha256()
    for name in sorted(names):
        content.update(name.encode())
        content.update(store.get_tensor(name).contiguous().numpy().data)
    return content.hexdigest()


def _circumstances(device: torch.device) -> dict[str, Any]:
    """What decides the last digits of sums."""
    threads = torch.get_num_threads() if device.type == "cpu" else None
    return {"device": device.type, "threads": threads, "torch": str(torch.__version__)}


def _stand_in(trainer: _ExpertTrainer) -> _Expert:
    """A few steps of an expert's training are timed; fresh networks stand in for its snapshots."""
    snapshots = _Snapshots()
    for epoch in trainer.settings.kept:
        snapshots.take(epoch, trainer.fresh(epoch), half=trainer.settings.half)
    context = trainer.context_of(0)
    try:
        trainer.train(0, context)
    except StoppedEarly as stopped:
        whole = stopped.total / stopped.step
        cost = msgspec.structs.replace(
            context.cost(),
            seconds=stopped.seconds,
            steps=stopped.total,
            flops=whole * context.cost().flops,
            images_forwarded=round(whole * context.cost().images_forwarded),
        )
        return _Expert(snapshots, cost)
    return _Expert(snapshots, context.cost())


def _entry(epoch: int, name: str) -> str:
    """Name of a tensor in a store."""
    return f"{epoch:04d}.{name}"
