"""`.safetensors`: of this harness, with all that belongs to a set in the file, or plain named tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from harness.core.distilled import Distilled
from harness.submit.importers.common import Imported, SetFacts, refuse_large
from harness.submit.importers.layouts import from_content
from harness.submit.importers.sniff import damaged


def read(path: Path, wanted: SetFacts) -> list[Imported]:
    """The one set in the file."""
    refuse_large(path, path.stat().st_size, wanted.limit, "the file")
    try:
        with safe_open(str(path), framework="pt") as file:
            ours = "distilled" in (file.metadata() or {})
            content = {} if ours else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise damaged(path, error) from None
    return [_own(path)] if ours else from_content(content, path, "safetensors", wanted)


def _own(path: Path) -> Imported:
    distilled = Distilled.load(path)
    return Imported(
        "safetensors",
        distilled.images,
        distilled.labels,
        classes=distilled.classes,
        learned_lr=distilled.learned_lr,
        transform=distilled.transform,
        class_names=distilled.class_names,
        factor=distilled.factor,
        augmentation=distilled.augmentation,
        steps=distilled.steps,
        notes=tuple(
            f"only networks are measured, which leaves out {loss}"
            for loss in replace(distilled, steps=None).beyond_pairs()
        ),
    )
