"""Steps beside plain loops: what is kept of a measurement and how it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.core.errors import UserError
from harness.perf import profile, steps
from harness.report.benchmarks import speed_section


def measured(method: str, variant: str, device: str) -> dict[str, float]:
    assert device == "cpu"
    seconds = {"plain": 3.0, "fp32": 1.5, "bf16": 1.0}[variant]
    found = {"seconds": seconds, "warmup_seconds": 9.0, "peak_bytes": 2**30 / (1 + (variant != "plain"))}
    more = {"flops": 3e11, "peak_flops": 1e12, "keeps_memory": True}
    return found if variant == "plain" else found | more


def test_ratios_are_those_of_the_plain_loop_measured_along() -> None:
    sheet = steps.measure_steps(["dm", "idm"], "cpu", measured)
    assert [pair.speed for pair in steps.pairs(sheet)] == [1.0, 2.0, 3.0] * 2
    assert [pair.memory for pair in steps.pairs(sheet)] == [1.0, 0.5, 0.5] * 2
    assert "2.00x" in steps.as_text(sheet)


def test_a_method_measured_again_replaces_its_figures_only(tmp_path: Path) -> None:
    path = steps.keep(steps.measure_steps(["idm", "dm"], "cpu", measured), tmp_path)
    assert path.name.startswith("cpu-")
    steps.keep(steps.measure_steps(["dm"], "cpu", lambda *_: measured("dm", "bf16", "cpu")), tmp_path)
    kept = steps.load(path)
    assert [(step.method, step.variant) for step in kept.steps] == [
        (method, variant) for method in ("dm", "idm") for variant in steps.VARIANTS
    ]
    assert [step.seconds for step in kept.steps] == [1.0, 1.0, 1.0, 3.0, 1.5, 1.0]


def test_what_is_no_sheet_is_named(tmp_path: Path) -> None:
    (tmp_path / "cpu.json").write_text(json.dumps({"device": "cpu"}))
    with pytest.raises(UserError, match=r"cpu\.json holds no steps"):
        steps.load_sheets(tmp_path)


def test_the_section_has_a_table_for_each_device(tmp_path: Path) -> None:
    assert speed_section([]) == ""
    sheet = steps.measure_steps(["dm"], "cpu", measured)
    text = speed_section([sheet])
    assert "| dm " in text
    assert [cell.strip() for cell in text.splitlines()[-1].split("|")[1:-1]] == [
        *("dm", "3", "1.5", "2.00×", "20 %", "1.00 GiB", "512 MiB", "0.50×", "3.00×", "30 %", "0.50×")
    ]


def test_steps_of_before_memory_was_kept_are_named() -> None:
    def said(device: str, *kept: bool) -> bool:
        ours = [steps.MeasuredStep(f"m{k}", "fp32", 1, 1, 2, keeps_memory=one) for k, one in enumerate(kept)]
        plain = [steps.MeasuredStep(step.method, "plain", 2, 1, 2) for step in ours]
        sheet = steps.StepSheet(device, "A CPU", 2, "2.9", "2026-01-01T00:00:00+00:00", (*plain, *ours))
        text = speed_section([sheet])
        assert "| m0 " in text
        return "Measured before ours kept the memory that it frees: m1." in text.splitlines()

    assert said("cpu", True, False)
    assert not said("cpu", True, True)
    assert not said("NVIDIA H100", True, False)


def test_the_share_of_peak_is_told_where_it_was_measured(tmp_path: Path) -> None:
    sheet = steps.measure_steps(["dm"], "cpu", measured)
    assert [step.share_of_peak for step in sheet.steps] == [None, 0.2, 0.3]
    assert [line.split()[4:6] for line in steps.as_text(sheet).splitlines()[3:]] == [["20", "%"], ["30", "%"]]
    path = steps.keep(sheet, tmp_path)
    assert steps.load(path).steps == sheet.steps
    plain = json.loads(path.read_text())["steps"][0]
    assert set(plain) == {"method", "variant", "seconds", "warmup_seconds", "peak_bytes"}


@pytest.mark.parametrize(("flops", "text"), [(1.04e9, "104 %"), (9.6e8, "96 %"), (2e6, "0.2 %"), (None, "–")])
def test_a_share_is_told_in_whole_percent_or_one_digit(flops: float | None, text: str) -> None:
    assert steps.share_text(steps.MeasuredStep("dm", "fp32", 1.0, 1.0, 1.0, flops, 1e9)) == text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::linear", "arithmetic"),
        ("aten::baddbmm", "arithmetic"),
        ("aten::_scaled_mm", "arithmetic"),
        ("aten::convolution_backward", "arithmetic"),
        ("aten::upsample_bilinear2d_backward", "memory"),
        ("graph_0_cpp_fused_convolution_relu_0", "memory"),
        ("ampere_sgemm_128x64_tn", "arithmetic"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NTT", "arithmetic"),
        ("sm90_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x128x32", "arithmetic"),
        ("void cudnn::winograd_nonfused::winogradForwardOutput4x4<float, float>(...)", "arithmetic"),
        ("void cudnn::cnn::wgrad2d_grouped_direct_kernel<false, true>(...)", "arithmetic"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm_128x128_32x3_nn_align4>(...)", "arithmetic"),
        ("triton_tem_fused_mm_1", "arithmetic"),
        ("triton_poi_fused_convolution_relu_3", "memory"),
        ("triton_red_fused_native_group_norm_backward_mm_7", "memory"),
        ("void at::native::(anonymous namespace)::GammaBetaBackwardCUDAKernel1<float>(...)", "memory"),
        ("void at::native::(anonymous namespace)::upsample_bilinear2d_out_frame<float>(...)", "memory"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>(...)", "memory"),
        ("void cudnn::ops::nchwToNhwcKernel<float, float, float, true, false>(...)", "memory"),
        ("void at::native::unrolled_elementwise_kernel<convert_to_half>(...)", "memory"),
        ("ncclDevKernel_AllReduce_Sum_f32(ncclDevComm*, unsigned long)", "memory"),
        ("Memcpy DtoD (Device -> Device)", "memory"),
    ],
)
def test_what_operators_and_kernels_wait_for(name: str, kind: str) -> None:
    assert profile.Operator(name, 1, 1.0).kind == kind


def test_a_profile_tells_arithmetic_memory_and_host_apart() -> None:
    operators = [
        ("aten::mkldnn_convolution", "arithmetic"),
        ("aten::addmm", "arithmetic"),
        ("sm90_xmma_wgrad_f32", "arithmetic"),
        ("graph_0_cpp_fused_native_group_norm_relu_3", "memory"),
        ("aten::copy_", "memory"),
        ("autograd::engine::evaluate_function: ConvolutionBackward0", "host"),
        ("Torch-Compiled Region: 0/0", "host"),
    ]
    made = tuple(profile.Operator(name, 2, 1.0) for name, _ in operators)
    assert [one.kind for one in made] == [kind for _, kind in operators]
    found = profile.StepProfile("dm", "fp32", 10.0, made)
    assert found.shares() == pytest.approx({"arithmetic": 0.3, "memory": 0.2, "host": 0.5})
    text = profile.as_text([found])
    assert text.startswith(
        "dm, fp32: a step of 1e+04 ms under the profiler: arithmetic 30%, memory 20%, host 50%"
    )
    assert "aten::addmm" in text
    empty = profile.StepProfile("dm", "fp32", 0.0, ())
    assert empty.shares() == {"arithmetic": 0.0, "memory": 0.0, "host": 1.0}
