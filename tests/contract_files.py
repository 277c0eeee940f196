"""The least file that is a method by its syntax, for tests to add to and to take from."""

METHOD = """from dataclasses import dataclass

from harness.core.settings import setting


@dataclass(frozen=True)
class Config:
    lr_img: float = setting(0.1, "learning rate of the images")


def distill(dataset, ipc, *, config=None, context=None): ...


"""
LOOPED = METHOD.replace(
    "    lr_img", '    iterations: int = setting(1000, "image updates", length=True)\n    lr_img'
)
SCALED = 'SCALED = {"cpu": {"iterations": 100}, "smoke": {"iterations": 10}}\n'
