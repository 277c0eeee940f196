"""The teacher of the evaluation as a network that a method itself distils with: one recipe, one cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.core.settings import setting
from harness.core.teachers import RECIPES, TeacherRecipe


@dataclass(frozen=True)
class TeacherSettings:
    """How long the teacher is trained; the defaults are those of the paper scale's evaluation."""

    teacher_epochs: int = setting(200, "passes over the real images in training the teacher")
    teacher_steps: int | None = setting(None, "SGD steps at which such a pass is cut off; None: whole passes")


def teacher_row(scale: str) -> dict[str, Any]:
    """The settings with which the teacher is that of the evaluation at a scale."""
    recipe = RECIPES[scale]
    return {"teacher_epochs": recipe.epochs, "teacher_steps": recipe.steps}


def recipe_of(config: TeacherSettings, name: str) -> TeacherRecipe:
    """The teacher's training by these settings, under a name for people."""
    return TeacherRecipe(name, config.teacher_epochs, config.teacher_steps)
