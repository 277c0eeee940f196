"""Experts: what they are, where they are kept, who shares them, and what they cost."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import shutil
import threading
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from scripted import ScriptedData
from support import assert_close, golden, golden_convnet, tensor
from torch import Tensor

from harness.core import augment
from harness.core import experts as experts_module
from harness.core.augment import cutmix_window
from harness.core.context import Context
from harness.core.data import ZCA, Dataset
from harness.core.data.toy import toy
from harness.core.errors import UserError
from harness.core.experts import BASE_SEED, Experts, ExpertSettings, train_experts
from harness.core.gsam import Gsam
from harness.core.loop import StoppedEarly
from harness.core.seeds import seed_for
from harness.engine.surroundings import with_threads
from methods.shared.idc_line import Pretraining, expert_settings

ARCH = "ConvNetW4D2"
SETTINGS = ExpertSettings(count=2, epochs=2, batch=8, lr=0.1, strategy="color_crop_scale")
STEPS = 2 * 4  # of one expert: two passes over thirty images


class Killed(Exception):
    """Ends a run as a kill would."""


class Steps:
    """Counts the SGD steps of experts; `before` is called with the number of each."""

    def __init__(self) -> None:
        self.made = 0
        self.before: Callable[[int], None] = lambda step: None

    def kill_at(self, step: int) -> None:
        """End the run before that step."""

        def kill(now: int) -> None:
            if now == step:
                raise Killed

        self.before = kill


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    counter, original = Steps(), experts_module.train_step

    def counted(*arguments: Any) -> Any:
        counter.before(counter.made)
        counter.made += 1
        return original(*arguments)

    monkeypatch.setattr(experts_module, "train_step", counted)
    return counter


@pytest.fixture(scope="module")
def data() -> Dataset:
    return toy(num_classes=3, shape=(3, 8, 8), per_class=10)


def context(cache: Path | None = None, **named: Any) -> Context:
    return Context(arch=named.pop("arch", ARCH), cache=cache, **named)


def weights(experts: Experts) -> list[Tensor]:
    """All weights of all kept snapshots, expert by expert."""
    kept, count = experts.settings.kept, len(experts)
    return [weight for k in range(count) for epoch in kept for weight in experts.parameters(k, epoch)]


def same(a: Experts, b: Experts) -> bool:
    """Whether all weights are equal to the last bit."""
    pairs = zip(weights(a), weights(b), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.safetensors"))


def test_an_expert_is_what_plain_sgd_makes_of_its_draws(data: Dataset) -> None:
    settings = ExpertSettings(
        count=1, epochs=3, batch=8, lr=0.1, momentum=0.9, weight_decay=1e-2, decay_epochs=(1, 2), decay=0.5
    )
    experts = train_experts(context(), data, settings)

    plain = Context(seed_for(BASE_SEED, "expert-0"), arch=ARCH)
    net = plain.network(data)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    assert all(map(torch.equal, net.parameters(), experts.parameters(0, 0)))
    for epoch, rate in enumerate((0.1, 0.05, 0.025)):
        optimizer.param_groups[0]["lr"] = rate
        order = torch.randperm(len(data), generator=plain.generator("order"))
        for rows in order.split(8):
            optimizer.zero_grad()
            F.cross_entropy(net(data.batch(rows)), data.labels[rows]).backward()
            optimizer.step()
        for weight, kept in zip(net.parameters(), experts.parameters(0, epoch + 1), strict=True):
            torch.testing.assert_close(weight.detach(), kept)


def test_passes_may_be_cut_short(data: Dataset, steps: Steps) -> None:
    settings = dataclasses.replace(SETTINGS, count=1, epochs=3, steps_per_epoch=2)
    experts = train_experts(context(), data, settings)
    assert steps.made == 3 * 2
    assert settings.kept == (0, 1, 2, 3)
    assert not torch.equal(experts.parameters(0, 2)[0], experts.parameters(0, 3)[0])


@pytest.mark.slow
@pytest.mark.parametrize(("snapshots", "kept"), [("all", (0, 1, 2)), ("ends", (0, 2)), ("last", (2,))])
def test_only_the_snapshots_asked_for_are_kept(data: Dataset, snapshots: Any, kept: tuple[int, ...]) -> None:
    experts = train_experts(context(), data, dataclasses.replace(SETTINGS, snapshots=snapshots))
    every = train_experts(context(), data, SETTINGS)
    for epoch in range(3):
        if epoch in kept:
            assert all(map(torch.equal, experts.parameters(1, epoch), every.parameters(1, epoch)))
        else:
            with pytest.raises(ValueError, match=f"snapshot {epoch} was not kept"):
                experts.parameters(1, epoch)


@pytest.mark.parametrize("told", [True, False], ids=["says whose it is", "tells by its tensors"])
def test_a_cached_network_of_another_recipe_is_one_clear_line(
    data: Dataset, tmp_path: Path, told: bool
) -> None:
    other = dataclasses.replace(SETTINGS, count=1, epochs=1 if not told else 2, lr=0.3)
    wanted = dataclasses.replace(SETTINGS, count=1)
    train_experts(context(tmp_path / "other"), data, other)
    train_experts(context(tmp_path), data, wanted)
    (strange,), (place,) = files(tmp_path / "other"), files(tmp_path / "experts")
    with safe_open(str(strange), framework="pt") as file:
        about = json.loads(file.metadata()["expert"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert about.pop("key") != place.parent.name
    if told:
        shutil.copyfile(strange, place)
    else:  # as they were written before they had keys
        save_file(tensors, place, {"expert": json.dumps(about)})
    with pytest.raises(UserError, match="was trained by another recipe") as found:
        train_experts(context(tmp_path), data, wanted)
    assert "\n" not in str(found.value)


def test_a_cached_network_that_does_not_say_whose_it_is_is_taken(
    data: Dataset, tmp_path: Path, steps: Steps
) -> None:
    wanted = dataclasses.replace(SETTINGS, count=1)
    made = train_experts(context(tmp_path), data, wanted)
    (place,) = files(tmp_path)
    with safe_open(str(place), framework="pt") as file:
        about = json.loads(file.metadata()["expert"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert about.pop("key") == place.parent.name
    save_file(tensors, place, {"expert": json.dumps(about)})
    before = steps.made
    assert same(train_experts(context(tmp_path), data, wanted), made)
    assert steps.made == before


def test_a_cached_expert_trained_otherwise_is_refused_in_a_line(data: Dataset, tmp_path: Path) -> None:
    plain = dataclasses.replace(SETTINGS, count=1)
    flat = dataclasses.replace(plain, gsam=Gsam(0.01, 0.01, 0.3), half=True)
    train_experts(context(tmp_path), data, plain)
    (other,) = files(tmp_path)
    train_experts(context(tmp_path), data, flat)
    (place,) = set(files(tmp_path)) - {other}
    shutil.copy(other, place)
    with pytest.raises(UserError, match="was trained by another recipe") as found:
        train_experts(context(tmp_path), data, flat)
    assert "\n" not in str(found.value)


def test_half_precision_halves_the_file_and_keeps_the_weights(data: Dataset, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, count=1, arch="ConvNetW4D2BN")
    whole = train_experts(context(tmp_path / "whole"), data, settings)
    halved = train_experts(context(tmp_path / "half"), data, dataclasses.replace(settings, half=True))
    for a, b in zip(weights(whole), weights(halved), strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(b, a.half().float())
    sizes = [
        sum(value.nbytes for value in tensors(*files(tmp_path / name)).values()) for name in ("whole", "half")
    ]
    assert 0.5 <= sizes[1] / sizes[0] < 0.6
    counts = [value for name, value in tensors(*files(tmp_path / "half")).items() if "num_batches" in name]
    assert {value.dtype for value in counts} <= {torch.int64}


def test_a_cached_expert_is_never_wholly_in_memory(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_experts(context(tmp_path), data, SETTINGS)
    held, original = [0, 0], experts_module.safe_open

    class Counting:
        """A file whose tensors are counted while they live."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            self._file = original(*arguments, **named)

        def get_tensor(self, name: str) -> Tensor:
            found = self._file.get_tensor(name)
            held[0] += 1
            held[1] = max(held)
            weakref.finalize(found, lambda: held.__setitem__(0, held[0] - 1))
            return found  # type: ignore[no-any-return]

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    monkeypatch.setattr(experts_module, "safe_open", Counting)
    experts = train_experts(context(tmp_path), data, SETTINGS)
    assert held[1] <= 2
    held[1] = 0
    for epoch in range(3):
        experts.parameters(0, epoch)
    assert held[1] <= 2


def test_a_network_gets_weights_and_running_statistics(data: Dataset) -> None:
    settings = dataclasses.replace(SETTINGS, count=1, arch="ConvNetW4D2BN")
    experts = train_experts(context(), data, settings)
    net = context(arch="ConvNetW4D2BN", seed=9).network(data)
    experts.load_into(net, 0, 2)
    assert all(map(torch.equal, net.parameters(), experts.parameters(0, 2)))
    statistics = [value for name, value in net.named_buffers() if name.endswith("running_mean")]
    assert statistics
    assert all(float(value.abs().sum()) > 0 for value in statistics)


def test_weights_handed_out_are_copies(data: Dataset, tmp_path: Path) -> None:
    for cache in (None, tmp_path):
        experts = train_experts(context(cache), data, SETTINGS)
        before = experts.parameters(0, 1)[0].clone()
        experts.parameters(0, 1)[0].zero_()
        assert torch.equal(experts.parameters(0, 1)[0], before)


def test_runs_share_experts_whatever_their_seed(data: Dataset, steps: Steps, tmp_path: Path) -> None:
    first = train_experts(context(tmp_path, seed=0), data, SETTINGS)
    assert steps.made == 2 * STEPS
    again = train_experts(context(tmp_path, seed=1), data, SETTINGS)
    assert steps.made == 2 * STEPS, "read, not trained"
    assert same(first, again)
    assert same(first, train_experts(context(), data, SETTINGS)), "the same as without a cache"
    assert [path.name for path in files(tmp_path)] == ["0.safetensors", "1.safetensors"]
    assert not list(tmp_path.rglob("*.work")), "checkpoints are gone"


def test_more_experts_are_added_to_those_that_are_there(data: Dataset, steps: Steps, tmp_path: Path) -> None:
    train_experts(context(tmp_path), data, SETTINGS)
    three = dataclasses.replace(SETTINGS, count=3)
    more = train_experts(context(tmp_path), data, three)
    assert steps.made == 3 * STEPS
    assert same(more, train_experts(context(), data, three))
    assert not torch.equal(more.parameters(0, 0)[0], more.parameters(1, 0)[0])
    assert len(train_experts(context(tmp_path), data, SETTINGS)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 3},
        {"batch": 16},
        {"lr": 0.2},
        {"momentum": 0.9},
        {"weight_decay": 0.1},
        {"decay_epochs": (1,)},
        {"strategy": "color"},
        {"align_corners": True},
        {"steps_per_epoch": 2},
        {"snapshots": "last"},
        {"arch": "ConvNetW8D2"},
        {"gsam": Gsam(0.01, 0.01, 0.3)},
        {"half": True},
    ],
)
def test_other_settings_are_other_experts(data: Dataset, tmp_path: Path, change: dict[str, Any]) -> None:
    few = dataclasses.replace(SETTINGS, count=1)
    train_experts(context(tmp_path), data, few)
    train_experts(context(tmp_path), data, dataclasses.replace(few, **change))
    assert len({path.parent for path in files(tmp_path)}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("what", ["precision", "threads", "images", "whitening", "architecture of the run"])
def test_other_circumstances_are_other_experts(data: Dataset, tmp_path: Path, what: str) -> None:
    few, named = dataclasses.replace(SETTINGS, count=1), {}
    train_experts(context(tmp_path), data, few)
    if what == "precision":
        named["precision"] = "bf16"
    elif what == "architecture of the run":
        named["arch"] = "ConvNetW8D2"
    elif what == "images":
        data = toy(num_classes=3, shape=(3, 8, 8), per_class=10, seed=1)
    elif what == "whitening":
        data = copy.copy(data)
        data.transform = ZCA.fit(data.images)
    with with_threads(torch.get_num_threads() + (what == "threads")):
        train_experts(context(tmp_path, **named), data, few)
    assert len({path.parent for path in files(tmp_path)}) == 2


def test_names_of_one_network_are_one_expert(data: Dataset, steps: Steps, tmp_path: Path) -> None:
    train_experts(context(tmp_path), data, SETTINGS)
    for named in ({"arch": "convnetd2w4"}, {}):
        train_experts(
            context(tmp_path, **named), data, dataclasses.replace(SETTINGS, arch=named.get("arch") or ARCH)
        )
    assert steps.made == 2 * STEPS


def test_training_draws_nothing_from_the_run(data: Dataset, tmp_path: Path) -> None:
    run, untouched = context(tmp_path), context()
    train_experts(run, data, SETTINGS)
    for role in ("net", "order", "augment"):
        pair = [one.generator(role, on_cpu=True).get_state() for one in (run, untouched)]
        assert torch.equal(*pair)


def test_cost_is_charged_whatever_the_cache_holds(data: Dataset, tmp_path: Path) -> None:
    runs, costs = [], []
    for seed in range(3):
        runs.append(context(tmp_path, seed=seed))
        train_experts(runs[-1], data, SETTINGS)
        costs.append(runs[-1].cost())
    assert {cost.steps for cost in costs} == {2 * STEPS}
    assert costs[0].flops == costs[1].flops == costs[2].flops > 0
    # Eight images in each counted step, and the pass that follows it.
    assert {cost.images_forwarded for cost in costs} == {2 * STEPS * 8}
    trained = runs[0]._costs.charged_seconds
    assert trained > 0
    for run, cost in zip(runs, costs, strict=True):
        assert run._costs.charged_seconds == trained, "the seconds of whoever trained"
        # The run's own clock stands still meanwhile.
        assert trained <= cost.seconds < 1.5 * trained + 0.5


def test_experts_spend_the_budget_but_have_none(data: Dataset, steps: Steps, tmp_path: Path) -> None:
    run = context(tmp_path, budget_flops=1.0)
    train_experts(run, data, SETTINGS)
    assert steps.made == 2 * STEPS
    assert run.cost().flops > 1.0


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, STEPS // 2, STEPS - 1])
def test_a_killed_expert_goes_on_and_ends_in_the_same_bytes(
    data: Dataset, steps: Steps, tmp_path: Path, step: int
) -> None:
    undisturbed = train_experts(context(tmp_path / "whole"), data, SETTINGS)
    steps.made = 0
    steps.kill_at(STEPS + step)  # of the second expert
    with pytest.raises(Killed):
        train_experts(context(tmp_path / "cut", checkpoint_seconds=0.0), data, SETTINGS)
    assert [path.name for path in files(tmp_path / "cut")] == ["0.safetensors"]
    steps.before = lambda step: None
    resumed = train_experts(context(tmp_path / "cut", seed=5, checkpoint_seconds=0.0), data, SETTINGS)
    assert steps.made == 2 * STEPS, "no step was made twice"
    assert same(resumed, undisturbed)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    assert not list(tmp_path.rglob("*.work"))


def digests(cache: Path) -> list[str]:
    """What the files say of their tensors."""
    return [about(path)["digest"] for path in files(cache)]


def about(path: Path) -> dict[str, Any]:
    """What a file says of itself."""
    with safe_open(str(path), framework="pt") as file:
        return json.loads(file.metadata()["expert"])  # type: ignore[no-any-return]


def tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def strip(path: Path) -> None:
    save_file(tensors(path), path)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, strip])
def test_a_damaged_file_is_trained_again_with_a_line(
    data: Dataset,
    steps: Steps,
    tmp_path: Path,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    sound = train_experts(context(), data, SETTINGS)
    train_experts(context(tmp_path), data, SETTINGS)
    assert not caplog.records, "files that are not there are nothing to warn of"
    steps.made = 0
    damage(files(tmp_path)[1])
    with caplog.at_level(logging.WARNING):
        mended = train_experts(context(tmp_path), data, SETTINGS)
    assert steps.made == STEPS
    assert same(mended, sound)
    messages = {record.getMessage() for record in caplog.records}
    assert len(messages) == 1
    assert "1.safetensors is unreadable" in messages.pop()
    train_experts(context(tmp_path), data, SETTINGS)
    assert steps.made == STEPS, "mended for good"


def test_runs_side_by_side_share_the_work(data: Dataset, steps: Steps, tmp_path: Path) -> None:
    four = dataclasses.replace(SETTINGS, count=4)
    results: list[Experts] = []
    barrier = threading.Barrier(2)

    def run(seed: int) -> None:
        barrier.wait()
        results.append(train_experts(context(tmp_path, seed=seed), data, four))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert steps.made == 4 * STEPS, "each expert was trained once"
    assert same(*results)


def test_an_expert_in_work_elsewhere_is_left_for_last(data: Dataset, steps: Steps, tmp_path: Path) -> None:
    train_experts(context(tmp_path), data, SETTINGS)
    first, second = files(tmp_path)
    first.unlink(), second.unlink()
    at_second = threading.Event()
    steps.made, steps.before = 0, lambda step: at_second.set() if step == STEPS - 1 else None
    elsewhere = FileLock(first.with_suffix(".lock"))
    elsewhere.acquire()
    thread = threading.Thread(target=train_experts, args=(context(tmp_path), data, SETTINGS))
    thread.start()
    assert at_second.wait(timeout=600)
    assert not first.exists()
    elsewhere.release()  # as the kernel does if that process dies
    thread.join()
    assert files(tmp_path) == [first, second]
    assert steps.made == 2 * STEPS


def test_a_rehearsal_keeps_nothing_and_knows_the_cost(data: Dataset, steps: Steps, tmp_path: Path) -> None:
    whole = context()
    train_experts(whole, data, SETTINGS)
    steps.made = 0
    run = context(tmp_path, stop_after=2)
    experts = train_experts(run, data, SETTINGS)
    assert steps.made == 2
    assert files(tmp_path) == []
    assert len(experts) == SETTINGS.count
    assert not torch.equal(experts.parameters(0, 0)[0], experts.parameters(0, 1)[0]), "a segment has a length"
    assert run.cost().steps == whole.cost().steps
    assert run.cost().flops == whole.cost().flops
    assert run.cost().seconds > 0
    with pytest.raises(StoppedEarly) as stopped:
        for _ in run.steps(10, {}):
            pass
    assert stopped.value.charged_seconds > 0


@pytest.mark.golden("train_cutmix", "dance", "tgdd", "dsdm")
def test_training_with_cutmix_is_that_of_idcs_line(
    monkeypatch: pytest.MonkeyPatch, losses: list[Tensor]
) -> None:
    arrays = golden("train_cutmix")
    trained, size = golden_convnet(arrays), int(arrays["batch"])
    orders = deque(tensor(order) for order in arrays["order"])
    draws = deque(np.ndindex(*arrays["lam"].shape))

    def drawn(share: float, count: int, window: tuple[int, int], generator: torch.Generator) -> Any:
        place = draws.popleft()
        if arrays["u"][place] >= share:
            return None
        partner, centre = tensor(arrays["perm"][place][:count]), arrays["centre"][place].tolist()
        return partner, cutmix_window(window, 1 - float(arrays["lam"][place]), centre)

    monkeypatch.setattr(augment, "draw_cutmix", drawn)
    monkeypatch.setattr(experts_module._ExpertTrainer, "_order", lambda self, context: orders.popleft())
    monkeypatch.setattr(Context, "network", lambda *arguments, **named: trained.net)
    pretraining = Pretraining(
        networks=1,
        train_epochs=int(arrays["E"]),
        train_batch=size,
        train_lr=float(arrays["lr"]),
        train_momentum=float(arrays["mom"]),
        train_weight_decay=float(arrays["wd"]),
        train_strategy="",
        train_cutmix=float(arrays["p"]),
    )
    settings = expert_settings(pretraining)
    shapes = {"images": arrays["x"], "labels": arrays["y"], "init_idx": np.zeros((1, 1)), "real_idx": []}
    data: Any = ScriptedData(shapes)
    data.num_classes = trained.net.classifier.out_features
    train_experts(Context(), data, settings)
    assert not orders
    assert_close(torch.stack(losses).reshape(arrays["batch_loss"].shape), arrays["batch_loss"])
    rates = [
        settings.lr * settings.decay ** sum(d <= e for d in settings.decay_epochs)
        for e in range(settings.epochs)
    ]
    assert_close(torch.tensor(rates, dtype=torch.float64), arrays["lrs"])
    for k, parameter in enumerate(trained.parameters):
        assert_close(parameter, arrays[f"wf{k:02d}"])


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The loss of every step of every expert."""
    seen, original = [], experts_module.train_step

    def noted(*arguments: Any) -> Any:
        loss, hits = original(*arguments)
        seen.append(loss.detach())
        return loss, hits

    monkeypatch.setattr(experts_module, "train_step", noted)
    return seen


def test_experts_without_cutmix_keep_their_keys_and_with_it_have_others(data: Dataset) -> None:
    def key(**changes: Any) -> str:
        settings = dataclasses.replace(SETTINGS, arch=ARCH, **changes)
        return experts_module._ExpertTrainer(context(), data, settings).key

    keys = [key(), key(cutmix=0.5), key(cutmix=1.0)]
    assert len(set(keys)) == 3
    assert key(cutmix=0.0) == keys[0]


@pytest.mark.slow
def test_cutmix_comes_at_its_share_of_the_steps(monkeypatch: pytest.MonkeyPatch, data: Dataset) -> None:
    soft, original = [], experts_module.train_step

    def noted(*arguments: Any) -> Any:
        soft.append(arguments[4].ndim == 2)
        return original(*arguments)

    monkeypatch.setattr(experts_module, "train_step", noted)
    for share in (0.0, 0.5, 1.0):
        soft.clear()
        train_experts(context(), data, dataclasses.replace(SETTINGS, count=1, epochs=15, cutmix=share))
        assert abs(sum(soft) / len(soft) - share) < 0.2 * (0 < share < 1) + 1e-9
