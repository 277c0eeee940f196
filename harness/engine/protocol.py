"""Evaluation protocols: how a network is trained on a distilled set, under a name and a version.

A protocol is a recipe, put together from the small parts of `harness.engine.parts` and a rule of
`harness.engine.schedules`, and a length. Whatever the authors report (most: the best of many looks at the
test set), here it is the accuracy after the last step, with one look.

A name that ends in "@tuned" has its learning rate chosen, for each set and network, from GRID times its own
by one network each, tested on a tenth of the train split; the test split plays no part. (The set may have
been distilled from that tenth; it is the same for all methods.)
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from harness.core.errors import DivergedError, UnknownNameError, UserError
from harness.core.regime import Regime
from harness.engine import schedules
from harness.engine.parts import (
    KL,
    SGD,
    Accumulation,
    AdamW,
    ByClasses,
    ByIpc,
    CrossEntropy,
    CutMix,
    Epochs,
    LabelUse,
    LearnedLength,
    Length,
    Loss,
    MatchedSteps,
    Mixing,
    Mixup,
    Optimiser,
    SetSize,
    SquaredError,
    Statistics,
    StepsByImages,
)
from harness.engine.schedules import Rule, Schedule

PROTOCOL_VERSION = "1.0"
TUNED = "@tuned"
GRID = (0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Recipe:
    """How one family of code trains its networks.

    source: the repository and function, or the paper, that it follows, and what is different here.
    labels: what is trained on; "own": the set's labels, whether hard or stored soft ones.
    batch: images, never more than there are; augmentation: strategy in place of the one that the set calls
    for; None: that one. order: of the images, "learned" with the set. merges: whether a single image left
    over joins the batch before it, as its statistics alone are of no use to batch norm. statistics: of a
    teacher that is asked. together: batches that are drawn, mixed and labelled as one. smallest_crop: share
    of the image that the smallest random resized crop has, to which images are cut before all else; None:
    they are left whole.
    """

    source: str
    labels: LabelUse = "own"
    loss: Loss = field(default_factory=CrossEntropy)
    optimiser: Optimiser = field(default_factory=SGD)
    rule: Rule = schedules.DC
    batch: int | ByIpc | ByClasses = 256
    mixing: Mixing | None = None
    augmentation: str | None = None
    order: Literal["shuffled", "stored", "learned"] = "shuffled"
    accumulation: Accumulation = field(default_factory=Accumulation)
    merges: bool = False
    statistics: Statistics = "remembered"
    together: int = 1
    smallest_crop: float | None = None


@dataclass(frozen=True)
class Course:
    """What a protocol comes to for one set: `steps` batches, each of at most `batch` images.

    batches: of a pass over the set. stride: batches for each position of the schedule. together: batches that
    are drawn as one.
    """

    batch: int
    batches: int
    steps: int
    stride: int
    schedule: Schedule
    accumulation: Accumulation
    together: int = 1

    @property
    def passes(self) -> int:
        """How often the set is gone through; the last time perhaps not to its end."""
        return -(-self.steps // self.batches)

    @property
    def optimizer_steps(self) -> int:
        """Steps of the optimiser: of each batch one, unless gradients are accumulated."""
        whole, rest = divmod(self.steps, self.batches)
        return whole * self._made_of(self.batches) + self._made_of(rest)

    def images(self, decoded: int) -> float:
        """How many images go through a network in training, of a set of so many decoded ones."""
        return self.steps * decoded / self.batches

    def _made_of(self, batches: int) -> int:
        whole, rest = divmod(batches, self.accumulation.batches)
        return whole + (rest > 0 and self.accumulation.rest == "stepped")


@dataclass(frozen=True)
class Protocol:
    """A recipe under a name, with a length; `grid`: factors of the learning rate to choose from, if any."""

    name: str
    summary: str
    recipe: Recipe
    length: Length
    version: str = PROTOCOL_VERSION
    grid: tuple[float, ...] = ()

    @property
    def regime(self) -> Regime:
        """With which results its own may be compared; a set with stored soft labels is not "hard" there."""
        return "hard" if self.recipe.labels == "own" else self.recipe.labels

    @property
    def needs_steps(self) -> bool:
        """Whether it makes the steps that a set keeps, and no others."""
        return self.recipe.order == "learned"

    def networks(self, evals: int) -> int:
        """How many networks are trained to evaluate `evals` of them."""
        return evals + len(self.grid)

    def course(self, size: SetSize, *, lr: float | None = None) -> Course:
        """How a network is trained on a set of that size; `lr`: the rate that was distilled along, if any.

        DivergedError for a rate that is not positive.
        """
        if lr is not None and not (lr > 0 and math.isfinite(lr)):
            raise DivergedError(
                f"the distilled set asks for training at the learning rate {lr:g} that was distilled along, "
                "which is not positive; distil it again with a lower rate of the rate"
            )
        recipe = self.recipe
        batch = recipe.batch if isinstance(recipe.batch, int) else recipe.batch.at(size)
        extent = self.length.extent(size, batch, recipe.rule.extra, merged=recipe.merges)
        return Course(
            batch=extent.batch,
            batches=extent.batches,
            steps=extent.steps,
            stride=extent.stride,
            schedule=Schedule(recipe.rule, extent.length, recipe.optimiser.lr if lr is None else lr),
            accumulation=recipe.accumulation,
            together=recipe.together,
        )


DC = Recipe(
    source="VICO-UoE/DatasetCondensation `utils.evaluate_synset`; DC, DSA, DM, IDM, BACON, MTT share it",
)
PLAIN = dataclasses.replace(
    DC,
    source="dc-1000 without augmentation, DD-Ranking's for its augmentation-robust score, with as many steps "
    "as dc-1000 makes with augmentation",
    augmentation="none",
)
DC_DIGITS = dataclasses.replace(
    DC,
    source="VICO-UoE/DatasetCondensation `utils.get_daparam`: how networks for MNIST are trained",
    augmentation="dc:crop_scale_rotate",
)
MATCHED = dataclasses.replace(
    DC,
    source="this benchmark: dc-1000 with as many steps for every set as for undecoded images",
    labels="hard",
)
STORED = dataclasses.replace(
    DC, source="dc-1000 with stored soft labels, DD-Ranking's and no-distillation's loss", labels="stored"
)
NO_DISTILLATION = dataclasses.replace(
    STORED, source="sunnytqin/no-distillation `softlabel.utils.evaluate_synset`", rule=schedules.QUARTERS
)
DATM = dataclasses.replace(
    STORED, source="NUS-HPC-AI-Lab/DATM `utils_baseline.evaluate_synset`: the learned rate", batch=128
)
IDC = Recipe(
    source="snu-mllab/Efficient-Dataset-Condensation `train.train`, without its exceptions (no CutMix on "
    "MNIST with multi-formation, nor on SVHN at ipc 1 without it)",
    rule=schedules.IDC,
    batch=64,
    augmentation="flip>color>crop_scale_rotate",
    mixing=CutMix(share=0.5),
)
NCFM = Recipe(
    source="gszfwsb/NCFM `config/`, hard labels; 300 and 40 epochs of Tiny ImageNet at ipc 10, 50 left out",
    labels="hard",
    optimiser=AdamW(1e-3),
    rule=schedules.FIFTHS,
    batch=128,
    augmentation="flip>color>crop_scale_rotate>cutout",
    mixing=CutMix(share=0.5),
)
# Below 500 steps the usual rate of AdamW learns too little.
NCFM_SHORT = dataclasses.replace(NCFM, optimiser=AdamW(3e-3))
FREPO = Recipe(
    source="yongchaoz/FRePo `script/eval`; DSA in place of its own jitter, crops and shifts",
    labels="stored",
    loss=SquaredError(0.5, summed=True),
    optimiser=AdamW(3e-4, weight_decay=0.0),  # plain Adam
    rule=schedules.Cosine(warmup=500, floor=0.01),
    batch=500,
    order="stored",
)
FREPO_SHORT = dataclasses.replace(
    FREPO, optimiser=AdamW(3e-3, weight_decay=0.0), rule=schedules.Cosine(warmup=50, floor=0.01)
)
FREPO_SMOKE = dataclasses.replace(FREPO_SHORT, rule=schedules.Cosine(warmup=5, floor=0.01))
# Batches of RDED's commands, by classes and ipc.
RDED_BATCH = ByClasses(
    ((10, ByIpc(((1, 10), (10, 50), (50, 100)))), (100, ByIpc(((1, 20), (10, 100), (50, 200)))), (200, 100))
)
RDED = Recipe(
    source="LINs-lab/RDED `validation/main.py`, one forward pass a batch; tiles are decoded, not shuffled",
    labels="teacher",
    loss=KL(20.0),
    optimiser=AdamW(1e-3, decayed="matrices"),
    rule=schedules.HALF_COSINE,
    batch=RDED_BATCH,
    mixing=CutMix(),
    augmentation="flip",
    merges=True,
)
RDED_SHORT = dataclasses.replace(RDED, optimiser=AdamW(3e-3, decayed="matrices"))
SRE2L = Recipe(
    source="VILA-Lab/SRe2L `small_dataset/relabel_cifar.py`, whose teacher is in train mode",
    labels="teacher",
    loss=KL(30.0),
    optimiser=AdamW(1e-3),
    rule=schedules.COSINE,
    batch=128,
    mixing=Mixup(),
    augmentation="crop>flip",
    merges=True,
    statistics="batch",
)
SRE2L_SHORT = dataclasses.replace(SRE2L, optimiser=AdamW(3e-3))
SRE2L_TINY = Recipe(
    source="zeyuanyin/tiny-imagenet `classification/train_kd.py`: students of SRe2L and CDA on Tiny ImageNet",
    labels="teacher",
    loss=KL(20.0, scaled=True),
    optimiser=SGD(0.2, weight_decay=1e-4),
    rule=schedules.Cosine(warmup=5, start=0.01),
    batch=256,
    augmentation="crop>flip",
    merges=True,
)
CV_DD = Recipe(
    source="Jiacheng8/CV-DD `relabel/`, `validate/`: labels that they store for each batch of each epoch are "
    "asked as it comes, in half precision too; eta 2 at every ipc",
    labels="teacher",
    loss=KL(20.0),
    optimiser=AdamW(1e-3, decayed="matrices"),
    rule=schedules.HALF_COSINE,
    batch=8,
    accumulation=Accumulation(2),
    mixing=CutMix(),
    augmentation="flip",
    statistics="half",
    together=2,
    smallest_crop=0.08,
)
CIM = Recipe(
    source="LINs-lab/CIM `main.py`, `data/utils/evaluator.py`, as many steps of the same size; tiles alone "
    "are shown, where one in four of their images is a whole mosaic",
    labels="teacher",
    loss=SquaredError(),
    optimiser=AdamW(1e-3, weight_decay=1e-4),
    rule=schedules.IDC,
    batch=ByClasses(((10, ByIpc(((1, 50), (100, 100)))), (100, ByIpc(((1, 50), (10, 100)))), (200, 100))),
    augmentation="flip>color>crop_scale_rotate>cutout",
    merges=True,
)
G_VBSM = Recipe(
    source="shaoshitong/G_VBSM_Dataset_Condensation `Branch_CIFAR_10/`: one teacher, asked as images come, "
    "in place of five whose answers are stored; CIFAR-10's optimiser for all data",
    labels="teacher",
    loss=SquaredError(hard_weight=0.15),
    optimiser=AdamW(1e-3, weight_decay=0.0),
    rule=schedules.COSINE,
    batch=ByClasses(((10, 100), (100, 64), (200, 100))),
    mixing=CutMix(),
    augmentation="flip",
    merges=True,
    smallest_crop=0.08,
)
CIM_SHORT, G_VBSM_SHORT = (
    dataclasses.replace(recipe, optimiser=dataclasses.replace(recipe.optimiser, lr=3e-3))
    for recipe in (CIM, G_VBSM)
)
CV_DD_SHORT = dataclasses.replace(CV_DD, optimiser=AdamW(3e-3, decayed="matrices"))

KD_CPU = ByIpc(((1, 120), (10, 60), (50, 30)))  # epochs
# Squared errors are learned from more slowly: after 60 steps networks are right on a quarter of the images.
MSE_CPU = ByIpc(((1, 300), (10, 150), (50, 60)))

DD = Recipe(
    source="ssnl/dataset-distillation `train_distilled_image.py`: the learned steps and nothing else",
    optimiser=SGD(1.0, momentum=0.0, weight_decay=0.0),
    rule=schedules.CONSTANT,
    augmentation="none",
    order="learned",
)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("dc-1000", "the field's: SGD 0.01, 1001 epochs, DSA", DC, Epochs(1000, plain=300)),
        Protocol("dc-cpu", "dc-1000 cut to 151 epochs for the cpu scale", DC, Epochs(150, plain=45)),
        Protocol("dc-smoke", "dc-1000 cut to 21 epochs for smoke runs", DC, Epochs(20, plain=6)),
        Protocol("dc-plain", "dc-1000 without augmentation, and as long", PLAIN, Epochs(1000)),
        Protocol("dc-plain-cpu", "dc-plain cut to 151 epochs for the cpu scale", PLAIN, Epochs(150)),
        Protocol("dc-plain-smoke", "dc-plain cut to 21 epochs for smoke runs", PLAIN, Epochs(20)),
        Protocol("dc-digits", "dc-1000 under DC's own augmentation of digits", DC_DIGITS, Epochs(1000)),
        Protocol(
            "dc-steps", "dc-1000 at equal steps, whatever a set decodes to", MATCHED, MatchedSteps(1000)
        ),
        Protocol("dc-steps-cpu", "dc-steps cut to those of 151 epochs", MATCHED, MatchedSteps(150)),
        Protocol("dc-steps-smoke", "dc-steps cut to those of 21 epochs", MATCHED, MatchedSteps(20)),
        Protocol(
            "idc-1000",
            "that of IDC and DREAM: SGD 0.01, 1000 epochs, CutMix; last epoch, not the best",
            IDC,
            Epochs(1000),
        ),
        Protocol("idc-cpu", "idc-1000 cut to 150 epochs for the cpu scale", IDC, Epochs(150)),
        Protocol("ncfm-2000", "that of NCFM: AdamW 0.001, 2000 epochs, CutMix", NCFM, Epochs(2000)),
        Protocol("ncfm-cpu", "ncfm-2000 cut to 150 epochs with rate 0.003", NCFM_SHORT, Epochs(150)),
        Protocol(
            "sl-1000", "dc-1000 on the soft labels that lie with the set", STORED, Epochs(1000, plain=300)
        ),
        Protocol("sl-cpu", "sl-1000 cut to 151 epochs for the cpu scale", STORED, Epochs(150, plain=45)),
        Protocol("sl-smoke", "sl-1000 cut to 21 epochs for smoke runs", STORED, Epochs(20, plain=6)),
        Protocol(
            "sl-3000",
            "that of random images with soft labels: rate times 0.3 at each quarter",
            NO_DISTILLATION,
            Epochs(3000),
        ),
        Protocol("datm", "that of DATM: sl-1000 in batches of 128", DATM, Epochs(1000)),
        Protocol("datm-cpu", "datm cut to 151 epochs for the cpu scale", DATM, Epochs(150)),
        Protocol("datm-smoke", "datm cut to 21 epochs for smoke runs", DATM, Epochs(20)),
        Protocol(
            "frepo",
            "that of FRePo: Adam 0.0003, squared error to learned labels, warm-up and cosine",
            FREPO,
            StepsByImages(
                ((10, 1000), (100, 2000), (200, 20_000), (400, 5000), (1000, 10_000), (2000, 40_000))
            ),
        ),
        Protocol(
            "frepo-cpu",
            "frepo cut to a tenth of its steps at ten times the rate",
            FREPO_SHORT,
            StepsByImages(((10, 100), (100, 200), (200, 2000), (400, 500), (1000, 1000), (2000, 4000))),
        ),
        Protocol("dd", "that of DD: the steps that a set keeps, at their sizes, once", DD, LearnedLength()),
        Protocol(
            "frepo-smoke", "frepo-cpu cut to 30 steps for smoke runs", FREPO_SMOKE, StepsByImages(((10, 30),))
        ),
        Protocol(
            "kd-300",
            "students of RDED: a teacher labels each CutMix batch, AdamW 0.001, 300 epochs",
            RDED,
            Epochs(300),
        ),
        Protocol(
            "kd-cpu",
            "kd-300 cut to 120, 60, 30 epochs at ipc 1, 10, 50 with rate 0.003, for the cpu scale",
            RDED_SHORT,
            Epochs(KD_CPU),
        ),
        Protocol("kd-smoke", "kd-cpu cut to 10 epochs for smoke runs", RDED_SHORT, Epochs(10)),
        Protocol(
            "kd-mixup",
            "students of SRe2L on CIFAR: a teacher labels each Mixup batch, AdamW 0.001, 400 epochs",
            SRE2L,
            Epochs(400),
            version="1.1",  # before, the teacher went by the statistics that it remembers
        ),
        Protocol("kd-mixup-cpu", "kd-mixup cut as kd-cpu is, with rate 0.003", SRE2L_SHORT, Epochs(KD_CPU)),
        Protocol("kd-mixup-smoke", "kd-mixup-cpu cut to 10 epochs for smoke runs", SRE2L_SHORT, Epochs(10)),
        Protocol(
            "kd-sgd",
            "students of SRe2L on Tiny ImageNet: a teacher labels each batch, SGD 0.2, 100 epochs",
            SRE2L_TINY,
            Epochs(100),
        ),
        Protocol(
            "kd-bssl",
            "students of SRe2L++, FADRM: a teacher labels half batches by their own statistics, 300 epochs",
            CV_DD,
            Epochs(300),
        ),
        Protocol("kd-bssl-cpu", "kd-bssl cut as kd-cpu is, with rate 0.003", CV_DD_SHORT, Epochs(KD_CPU)),
        Protocol("kd-bssl-smoke", "kd-bssl-cpu cut to 10 epochs for smoke runs", CV_DD_SHORT, Epochs(10)),
        Protocol(
            "kd-mse",
            "students of CIM: squared error to a teacher's logits, AdamW 0.001, the steps of 1000 epochs",
            CIM,
            MatchedSteps(1000),
        ),
        Protocol(
            "kd-mse-cpu",
            "kd-mse cut to 300, 150, 60 epochs at ipc 1, 10, 50 with rate 0.003, for the cpu scale",
            CIM_SHORT,
            MatchedSteps(MSE_CPU),
        ),
        Protocol("kd-mse-smoke", "kd-mse-cpu cut to 10 epochs for smoke runs", CIM_SHORT, MatchedSteps(10)),
        Protocol(
            "kd-mse-gt",
            "students of G-VBSM: squared error to a teacher's logits of CutMix batches and cross entropy, "
            "AdamW 0.001, 1000 epochs",
            G_VBSM,
            Epochs(1000),
        ),
        Protocol(
            "kd-mse-gt-cpu", "kd-mse-gt cut as kd-mse-cpu is, with rate 0.003", G_VBSM_SHORT, Epochs(MSE_CPU)
        ),
        Protocol(
            "kd-mse-gt-smoke", "kd-mse-gt-cpu cut to 10 epochs for smoke runs", G_VBSM_SHORT, Epochs(10)
        ),
    )
}
# What the protocols without augmentation are compared with, for the augmentation-robust score.
WITHOUT_AUGMENTATION = {"dc-1000": "dc-plain", "dc-cpu": "dc-plain-cpu", "dc-smoke": "dc-plain-smoke"}


def without_augmentation(name: str) -> str | None:
    """The protocol that is the one of that name without augmentation, asked for in the same way, if any."""
    base, at, way = name.partition("@")
    return f"{WITHOUT_AUGMENTATION[base]}{at}{way}" if base in WITHOUT_AUGMENTATION else None


def protocol_named(name: str) -> Protocol:
    """The protocol of that name, with its learning rate tuned if "@tuned" follows.

    UnknownNameError lists the choices; UserError where no rate can be tuned.
    """
    base, at, way = name.partition("@")
    if base not in PROTOCOLS:
        raise UnknownNameError("protocol", base, PROTOCOLS)
    if not at:
        return PROTOCOLS[base]
    if f"@{way}" != TUNED:
        raise UnknownNameError(f"way to ask for protocol {base}:", f"{base}@{way}", (f"{base}{TUNED}",))
    if PROTOCOLS[base].needs_steps:
        raise UserError(f"protocol {base} takes the step sizes of the set: there is no rate to choose")
    summary = f"{PROTOCOLS[base].summary}; rate chosen on a tenth of train"
    return dataclasses.replace(PROTOCOLS[base], name=name, summary=summary, grid=GRID)


def regime_named(name: str) -> Regime | None:
    """The regime of the protocol of that name; None for one that old records name, and that is no more."""
    try:
        return protocol_named(name).regime
    except UserError:
        return None
