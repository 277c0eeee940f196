"""Protocols in words, taken from their parts: for BENCHMARKS.md, the site and `list protocols`."""

from __future__ import annotations

from harness.engine.parts import (
    KL,
    SGD,
    AdamW,
    ByClasses,
    ByIpc,
    CrossEntropy,
    CutMix,
    Epochs,
    LearnedLength,
    MatchedSteps,
    SetSize,
    SoftCrossEntropy,
    SquaredError,
    StepsByImages,
)
from harness.engine.protocol import Protocol, Recipe
from harness.engine.schedules import Cosine, Drops, Rule, Schedule

ANY_SET = SetSize.of(classes=10, ipc=10)
REGIMES = {"hard": "hard labels", "stored": "stored soft labels", "teacher": "a teacher asked at every batch"}


def in_words(protocol: Protocol) -> str:
    """All that decides how a network is trained, in a few sentences."""
    if protocol.needs_steps:
        factor = f"{protocol.recipe.optimiser.lr:g}"
        return (
            f"{length_in_words(protocol).capitalize()}: plain gradient steps in their order, each on its own "
            f"images at {factor} times its own size, from weights by Xavier's normal distribution with zero "
            "biases, or from the one initialisation that the set was made for. Training images are not "
            "augmented."
        )
    parts = [f"{_training(protocol)}; {_rate(protocol)}.", _labels(protocol.recipe)]
    if protocol.grid:
        factors = ", ".join(f"{factor:g}" for factor in protocol.grid)
        parts.append(f"The learning rate is the best of {factors} times that on a tenth of train.")
    return " ".join(part for part in (*parts, _augmentation(protocol.recipe)) if part)


def length_in_words(protocol: Protocol) -> str:
    """How long a training is: `1001 epochs (301 for sets that call for no augmentation)`."""
    length, extra = protocol.length, protocol.recipe.rule.extra
    match length:
        case Epochs(ByIpc(values)):
            return f"{_listed(ByIpc(tuple((ipc, count + extra) for ipc, count in values)), 'epochs')}"
        case Epochs(int(count), plain):
            fewer = f" ({plain + extra} for sets that call for no augmentation)" if plain is not None else ""
            return f"{count + extra} epochs{fewer}"
        case MatchedSteps(ByIpc() as epochs):
            return (
                f"the steps of {_listed(epochs, 'epochs')} of the stored images, however many they decode to"
            )
        case MatchedSteps(int(epochs)):
            return f"the steps of {epochs + extra} epochs of the stored images, however many they decode to"
        case LearnedLength():
            return "the steps that were learned with the set"
        case StepsByImages(values):
            steps = ", ".join(str(count) for _, count in values)
            return f"{steps} steps for {', '.join(str(images) for images, _ in values)} images"
    raise AssertionError(length)


def _training(protocol: Protocol) -> str:
    """Length, optimiser and batches: `21 epochs of SGD ... with learning rate 0.01 ... batches of 256`."""
    length, recipe = length_in_words(protocol), protocol.recipe
    unit, bracket, rest = length.partition(" (")
    optimiser = recipe.optimiser
    settings = f"weight decay {optimiser.weight_decay:g}"
    if isinstance(optimiser, SGD):
        settings = f"momentum {optimiser.momentum:g}, {settings}"
    elif optimiser.decayed == "matrices":
        settings += " of tensors with two dimensions or more"
    return (
        f"{unit} of {_optimiser(optimiser)}{bracket}{rest} with learning rate {optimiser.lr:g}, or the one"
        f" that was distilled along with the set, {settings} and batches of {_batch(recipe)}"
        f"{_gathered(recipe)}"
    )


def _gathered(recipe: Recipe) -> str:
    count = recipe.accumulation.batches
    return f", {count} to a step" if count > 1 else ""


def _optimiser(optimiser: SGD | AdamW) -> str:
    if isinstance(optimiser, SGD):
        return "SGD"
    return "AdamW" if optimiser.weight_decay else "Adam"


def _batch(recipe: Recipe) -> str:
    batch = recipe.batch
    if isinstance(batch, int):
        return str(batch)
    if isinstance(batch, ByIpc):
        return f"{_listed(batch)}"
    assert isinstance(batch, ByClasses)
    return "; ".join(
        f"{values if isinstance(values, int) else _listed(values)} for {classes} classes"
        for classes, values in batch.values
    )


def _listed(values: ByIpc, what: str = "") -> str:
    numbers = " ".join([", ".join(str(value) for _, value in values.values), *([what] if what else [])])
    return f"{numbers} at ipc {', '.join(str(ipc) for ipc, _ in values.values)}"


def _rate(protocol: Protocol) -> str:
    """How the rate goes: `from epoch index 12 (5) on the rate is multiplied by 0.1 ...`."""
    rule = protocol.recipe.rule
    unit = "step" if isinstance(protocol.length, StepsByImages) else "epoch"
    if isinstance(rule, Drops):
        restart = " and the optimiser starts afresh" if rule.restarts else ""
        return f"from {unit} index {_drops(protocol)} on the rate is multiplied by {rule.decay:g}{restart}"
    return _wave(rule, unit)


def _wave(rule: Cosine, unit: str) -> str:
    climb = f"the rate climbs for {rule.warmup} {unit}s and then" if rule.warmup else "the rate"
    end = 0.5 if rule.stretch == 2 else rule.floor
    return f"{climb} falls along a cosine to {end:g} of itself"


def _drops(protocol: Protocol) -> str:
    """Where the rate falls: `502 (152)`, `666 and again from 833`, `80, 40 at ipc 1, 10`."""
    if isinstance(protocol.length, (Epochs, MatchedSteps)) and isinstance(protocol.length.epochs, ByIpc):
        return _drops_by_ipc(protocol.recipe.rule, protocol.length.epochs)
    usual = _schedule(protocol, augmented=True)
    plain = _schedule(protocol, augmented=False)
    drops = " and again from ".join(map(str, usual.drops))
    return drops if plain == usual else f"{drops} ({' and again from '.join(map(str, plain.drops))})"


def _drops_by_ipc(rule: Rule, epochs: ByIpc) -> str:
    lengths = [count for _, count in epochs.values]
    drops = zip(*(Schedule(rule, length, 1.0).drops for length in lengths), strict=True)
    listed = " and again from ".join(", ".join(map(str, at)) for at in drops)
    return f"{listed} at ipc {', '.join(str(ipc) for ipc, _ in epochs.values)}"


def _schedule(protocol: Protocol, *, augmented: bool) -> Schedule:
    size = SetSize.of(ANY_SET.classes, ANY_SET.ipc, augmented=augmented)
    return protocol.course(size).schedule


def _labels(recipe: Recipe) -> str:
    """Labels and loss; nothing where the set's own labels meet the cross entropy."""
    if recipe.labels == "own":
        return ""
    return f"Labels: {REGIMES[recipe.labels]}{_teaching(recipe)}; loss: {_loss(recipe)}."


def _teaching(recipe: Recipe) -> str:
    """How a teacher is asked, where it is not in evaluation mode."""
    if recipe.labels != "teacher" or recipe.statistics == "remembered":
        return ""
    if recipe.statistics == "batch":
        return ", in train mode, by the statistics of the batch"
    size = recipe.batch * recipe.together if isinstance(recipe.batch, int) else "its size"
    return f", in train mode: about {size} images at once, in two halves, by the statistics of each"


def _loss(recipe: Recipe) -> str:
    match recipe.loss:
        case CrossEntropy():
            return "cross entropy"
        case SoftCrossEntropy(temperature, scaled):
            return f"soft cross entropy at temperature {temperature:g}{' times its square' if scaled else ''}"
        case KL(temperature, scaled):
            return f"KL divergence at temperature {temperature:g}{' times its square' if scaled else ''}"
        case SquaredError(weight, hard_weight):
            hard = f" and {hard_weight:g} times the cross entropy" if hard_weight else ""
            return f"{weight:g} times the squared error{hard}"
    raise AssertionError(recipe.loss)


def _augmentation(recipe: Recipe) -> str:
    if recipe.augmentation == "none":
        return "Training images are not augmented, whatever the set calls for."
    if recipe.augmentation is None:
        return (
            "Training images get the augmentation that the distilled set calls for: DSA's, one operation a"
            " batch, drawn for each image, or DC's own, where each image has an operation of its own."
        )
    if recipe.augmentation.startswith("dc:"):
        return (
            f"Training images get DC's own augmentation, `{recipe.augmentation}`, whatever the set calls for:"
            " each image has an operation of its own."
        )
    mixed = ""
    if recipe.mixing is not None:
        name = "CutMix" if isinstance(recipe.mixing, CutMix) else "Mixup"
        mixed = f", then {name} in {recipe.mixing.share:.0%} of the batches"
    crops = ""
    if recipe.smallest_crop is not None:
        crops = f"random resized crops of {recipe.smallest_crop:g} to 1 times their area and "
    return (
        f"Training images get {crops}`{recipe.augmentation}` whatever the set calls for (flip left out for"
        f" digits): of each stage one operation a batch, drawn for each image{mixed}."
    )
