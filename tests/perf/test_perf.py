"""The commands of `perf`: what they refuse, and that whole steps are measured."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import pytest
from loops import all_loops
from measure_step import spent
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent

from harness import perf
from harness.core.errors import UnknownNameError, UserError
from methods import resolve


@pytest.mark.parametrize("method", sorted(name for name, loop in all_loops().items() if loop.ours is None))
def test_plain_loops_are_of_methods_and_their_settings(method: str) -> None:
    settings = all_loops()[method].settings
    config = asdict(resolve(method, "cifar10", 10, overrides=settings).config)
    assert {name: config[name] for name in settings} == dict(settings)


@pytest.mark.slow
def test_methods_without_a_plain_loop_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown plain loop 'baco'; did you mean 'bacon'"):
        perf.command("step", methods=("baco",))
    with pytest.raises(UnknownNameError, match="unknown precision 'fp16'"):
        perf.command("step", methods=("bacon",), precisions=("fp16",))


def test_unknown_command_names_the_choices() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'check'"):
        perf.command("chek")


def test_options_of_the_other_command_are_refused() -> None:
    with pytest.raises(UserError, match="--against goes with `perf check`, not with `perf step`"):
        perf.command("step", against="HEAD")
    with pytest.raises(UserError, match="--methods goes with `perf step`, not with `perf check`"):
        perf.command("check", methods=("bacon",))
    for device in ("cuda", "cpu"):
        with pytest.raises(UserError, match="--device goes with `perf step`, not with `perf check`"):
            perf.command("check", device=device)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "fp32"])
def test_steps_are_measured(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf.steps, "REPEATS", 1)
    monkeypatch.setattr(perf.steps, "THREADS", 1)
    measured = perf._measure_step("sre2l", variant, "cpu")
    assert set(measured) == {"seconds", "warmup_seconds", "peak_bytes", "flops", "peak_flops", "keeps_memory"}
    assert measured["seconds"] > 0
    assert measured["keeps_memory"] == (variant != "plain")
    if variant == "plain":
        assert measured["flops"] is None
        assert measured["peak_flops"] is None
    else:
        # 100 images there and back through a ConvNet of 128 filters.
        assert 1e10 < measured["flops"] < 1e12
        # Some 0.7 on a quiet machine; either may be measured while another process takes its share.
        assert 0.01 < measured["flops"] / measured["seconds"] / measured["peak_flops"] < 3


@pytest.mark.slow
def test_a_step_says_where_its_time_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(perf.steps, "THREADS", 1)
    assert perf.command("step", methods=("sre2l",), precisions=("fp32",), device="cpu", profiled=True) == 0
    out = capsys.readouterr().out
    assert out.startswith("sre2l, fp32: a step of ")
    (shares,) = re.findall(r"arithmetic (\d+)%, memory (\d+)%, host (-?\d+)%", out)
    arithmetic, memory, host = map(int, shares)
    assert arithmetic > 20
    assert memory > 0
    assert host >= 0
    assert 98 <= arithmetic + memory + host <= 102
    assert re.search(r"conv\w* +arithmetic", out)


def test_time_on_a_gpu_is_that_of_its_kernels_alone() -> None:
    """Operators hold the time of the kernels that they start, and annotations that of all within."""

    def event(k: int, name: str, seconds: float, **more: Any) -> FunctionEvent:
        made = {"thread": 0, "start_us": 0, "end_us": 1e6 * seconds, "use_device": "cuda", "stack": []}
        return FunctionEvent(k, name, **(made | more))

    operator = event(1, "aten::addmm", 0.1)
    operator.append_kernel("ampere_sgemm_128x64_tn", 0, 3e6)
    kernels = [event(k, "ampere_sgemm_128x64_tn", 1.5, device_type=DeviceType.CUDA) for k in (2, 3)]
    marked = event(4, "step", 5.0, device_type=DeviceType.CUDA, is_user_annotation=True)
    found = EventList([operator, *kernels, marked], use_device="cuda")
    found._build_tree()
    averages = found.key_averages()
    assert sum(one.self_device_time_total for one in averages) == 11e6
    assert list(spent(averages, cuda=True)) == [("ampere_sgemm_128x64_tn", 2, 3.0)]
    on_cpu = EventList([event(1, "aten::addmm", 0.1)])
    on_cpu._build_tree()
    assert list(spent(on_cpu.key_averages(), cuda=False)) == [("aten::addmm", 1, pytest.approx(0.1))]


@pytest.mark.slow
def test_a_profile_is_not_kept() -> None:
    with pytest.raises(UserError, match="type one of them"):
        perf.command("step", methods=("dm",), precisions=("fp32",), device="cpu", profiled=True, keep=True)
    with pytest.raises(UserError, match="--profile goes with `perf step`, not with `perf check`"):
        perf.command("check", profiled=True)
