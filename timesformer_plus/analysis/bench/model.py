"""Table ``model``: speed of ours against others with the same weights, and against the bare matrix products."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import psutil  # type: ignore[import-untyped]  # accelerate needs it too
import torch
from torch import Tensor, nn

from ...models.layers import AxisAttention
from ...models.tokens import LETTERS, Grid
from ..measured_cost import device_name
from ..passes import Inference
from .cases import (
    Case,
    Pass,
    bytes_of_forward,
    cases_on_cpu,
    cases_on_gpu,
    efficiency_target,
    peak_flops,
    speedup_target,
)
from .contestants import (
    NO_TRANSFORMERS,
    Autocast,
    TrainingStep,
    check_same,
    make_copying,
    make_fused,
    make_ours,
    make_peer,
)
from .limit import Limit, Product, products_of
from .rows import Progress, Row, make_row
from .timing import Seconds, medians, ratios, take_turns
from .yardstick import attend_by_copies

TABLE = "model"


def measure(
    *, rounds: int, quick: bool, progress: Progress, sizes: Sequence[str], device: torch.device | str = "cpu"
) -> list[Row]:
    """Time models and bare products in turn.

    Args:
        rounds: Rounds of a comparison; slow ones make fewer.
        quick: Whether to leave out what takes long: other numbers of frames, compiled models.
        progress: Is told what goes on.
        sizes: Keys of ``SIZES``.
        device: Where to run.

    Returns:
        For every model and pass: speed over ``transformers`` and over the yardstick (ratios of times, above 1 where
        ours is faster), and the time of the bare products in percent of ours.

    Raises:
        ValueError: Models that should compute the same do not.
    """
    device = torch.device(device)
    cases = (cases_on_gpu if device.type == "cuda" else cases_on_cpu)(quick=quick, sizes=sizes)
    if not any(case.shape.has_peer for case in cases):
        progress.say(NO_TRANSFORMERS)
    rows: list[Row] = []
    for case in cases:
        reason = _why_not(case, device)
        if reason:
            progress.say(f"{_label(case, device)}: left out, {reason}")
            continue
        progress(_label(case, device))
        rows += _Comparison(case, device, min(rounds, case.rounds or rounds), progress).rows()
        gc.collect()
    return rows + _attention_alone(rounds, quick, progress, sizes, device)


class _Comparison:
    def __init__(self, case: Case, device: torch.device, rounds: int, progress: Progress) -> None:
        self.case, self.device, self.rounds, self.progress = case, device, rounds, progress
        ours = make_ours(case.shape)
        models: dict[str, nn.Module] = {"ours": ours}
        clips = case.shape.clips(1)
        if case.rivals:
            models |= self._rivals(ours, clips)
        self.attention = getattr(models.get("transformers"), "attention", "")
        if self.attention:
            progress.say(f"transformers' TimeSformer computes attention as {self.attention!r}, the best that it has")
        self.models = {name: model.to(device) for name, model in models.items()}
        self.products = {
            name: products_of(model, clips.to(device).expand(case.batch, -1, -1, -1, -1))
            for name, model in self.models.items()
            if name in ("ours", "fused")
        }
        if self.products.get("fused") == self.products["ours"]:  # there was nothing to fuse
            del self.models["fused"], self.products["fused"]

    def _rivals(self, ours: Any, clips: Tensor) -> dict[str, nn.Module]:
        made: dict[str, nn.Module] = {}
        if self.case.shape.has_peer:
            made["transformers"] = make_peer(ours)
        if self.case.copies:
            made["copies"] = make_copying(ours)
        if "forward" in self.case.passes and self.case.rounds != 1:
            fused = make_fused(ours)
            if fused is not None:
                made["fused"] = fused
        if self.case.shape.frames <= 16:  # longer clips take the same way, and long
            for name, model in made.items():
                check_same(ours, model, clips, f"{self.case.shape}, {name}")
        return made

    def rows(self) -> list[Row]:
        rows: list[Row] = []
        for what in self.case.passes:
            models = {name: model for name, model in self.models.items() if what == "forward" or name != "fused"}
            rows += self._compare(what, models)
            if self.case.compiled and (what == "forward" or self.device.type == "cuda"):
                self.progress(f"{_label(self.case, self.device)} {what}, compiled")
                rows += self._compare_compiled(what, models)
        return rows

    def _compare(self, what: Pass, models: Mapping[str, nn.Module]) -> list[Row]:
        passes = {name: self._pass(what, model) for name, model in models.items()}
        for kind, is_attention in (("linear", False), ("attention", True)):
            passes[kind] = self._limit(what, self.products["ours"], is_attention).run
        if "fused" in passes:
            for kind, is_attention in (("fused_linear", False), ("fused_attention", True)):
                passes[kind] = self._limit(what, self.products["fused"], is_attention).run
        seconds = self._turns(what, passes)
        rows = self._rows_of("ours", "", what, seconds, _sum(seconds, "linear", "attention"))
        if "fused" in seconds:
            limit = _sum(seconds, "fused_linear", "fused_attention")
            rows += self._rows_of("fused", ", fused", what, seconds, limit)
        return rows

    def _rows_of(self, name: str, suffix: str, what: Pass, seconds: Seconds, limit: list[float]) -> list[Row]:
        detail = self._detail(seconds, limit)
        label = f"{_label(self.case, self.device)} {what}{suffix}"
        rows = []
        if "transformers" in seconds:
            target = speedup_target(self.case, self.device)
            reach = detail["transformers_s"] / detail["limit_s"]
            note = f"without anything but its matrix products ours would reach {reach:.2f}x" if target else ""
            values = ratios(seconds["transformers"], seconds[name])
            rows.append(
                make_row(TABLE, f"{label}: speed over transformers", values, target=target, note=note, detail=detail)
            )
        if "copies" in seconds:
            values = ratios(seconds["copies"], seconds[name])
            rows.append(make_row(TABLE, f"{label}: speed over fold by copies", values, detail=detail))
        target = efficiency_target(self.case, self.device, what)
        rest = detail[f"{name}_s"] - detail["limit_s"]
        note = f"{rest:.3g} s beside the products: norms, softmax, residuals, copies" if target else ""
        values = [100 * value for value in ratios(limit, seconds[name])]
        rows.append(
            make_row(TABLE, f"{label}: of the limit", values, unit="percent", target=target, note=note, detail=detail)
        )
        return rows

    def _compare_compiled(self, what: Pass, models: Mapping[str, nn.Module]) -> list[Row]:
        # copies: a compiled model that has been trained once would be compiled again for inference, and in place
        chosen = {n: copy.deepcopy(models[n]) for n in ("ours", "transformers") if n in models}
        passes = {name: self._pass(what, model, compiled=True) for name, model in chosen.items()}
        seconds = self._turns(what, passes)
        detail, label = medians(seconds), f"{_label(self.case, self.device)} {what}, compiled"
        rows = []
        if "transformers" in seconds:
            target = speedup_target(self.case, self.device) if self.device.type == "cuda" else None
            values = ratios(seconds["transformers"], seconds["ours"])
            rows.append(make_row(TABLE, f"{label}: speed over transformers", values, target=target, detail=detail))
        rows.append(make_row(TABLE, f"{label}: ours", seconds["ours"], unit="seconds", better="lower", detail=detail))
        return rows + self._utilisation(what, seconds["ours"], label, detail)

    def _utilisation(self, what: Pass, seconds: Sequence[float], label: str, detail: dict[str, Any]) -> list[Row]:
        if self.device.type != "cuda" or self.case.dtype != torch.bfloat16:
            return []
        peak = peak_flops(device_name(self.device))
        if peak is None:
            self.progress.say(f"{label}: the peak of {device_name(self.device)} is not known, so neither is its use")
            return []
        # by convention the backward pass is two forward passes, whatever is recomputed
        flops = 2 * sum(product.multiply_adds for product in self.products["ours"]) * (3 if what == "training" else 1)
        values = [100 * flops / t / peak for t in seconds]
        target = 45.0 if self.case.shape.size == "base" and self.case.shape.frames == 8 else None
        name, detail = f"{label}: of the GPU's FLOPs", {**detail, "peak_flops": peak}
        return [make_row(TABLE, name, values, unit="percent", target=target, detail=detail)]

    def _pass(self, what: Pass, model: nn.Module, *, compiled: bool = False) -> Callable[[], None]:
        low = self.case.dtype != torch.float32
        if what == "training":
            model = Autocast(model, self.case.dtype) if low else model
            clips = self.case.shape.clips(self.case.batch, self.device)
            return TrainingStep(_compile(model) if compiled else model, clips).run
        model = copy.deepcopy(model).to(self.case.dtype) if low else model
        clips = self.case.shape.clips(self.case.batch, self.device, self.case.dtype)
        return Inference(_compile(model) if compiled else model, clips).run

    def _limit(self, what: Pass, products: Sequence[Product], is_attention: bool) -> Limit:
        chosen = [product for product in products if product.is_attention == is_attention]
        return Limit(chosen, device=self.device, dtype=self.case.dtype, training=what == "training")

    def _turns(self, what: Pass, passes: Mapping[str, Callable[[], object]]) -> Seconds:
        budget, warmup = self.case.budget * (1.8 if what == "training" else 1), int(self.case.rounds != 1)
        return take_turns(passes, rounds=self.rounds, budget=budget, warmup=warmup, device=self.device)

    def _detail(self, seconds: Seconds, limit: list[float]) -> dict[str, Any]:
        products = sum(product.multiply_adds for product in self.products["ours"])
        detail: dict[str, Any] = {**medians({**seconds, "limit": limit}), "forward_gflops": products / 1e9}
        return {**detail, "batch": self.case.batch, **({"attention": self.attention} if self.attention else {})}


def _attention_alone(
    rounds: int, quick: bool, progress: Progress, sizes: Sequence[str], device: torch.device
) -> list[Row]:
    """One attention layer a letter, on the tokens of 8 frames and a class token, against the same one by copies."""
    size = "base" if "base" in sizes or not quick else sizes[0]
    dim, heads = {"base": (768, 12), "small": (384, 6), "tiny": (192, 3), "test": (64, 2)}[size]
    grid = Grid(8, 4, 4) if size == "test" else Grid(8, 14, 14)
    where = f"{size} 8x{grid.h}x{grid.w}" + (" on GPU" if device.type == "cuda" else "")
    target = 1.5 if device.type == "cuda" else 1.0
    rows = []
    for letter in LETTERS:
        progress(f"attention {letter!r} alone, {where}")
        attn = AxisAttention(dim, letter, heads, qkv_bias=True)
        x = torch.randn(8 if device.type == "cuda" else 1, 1 + grid.num_tokens, dim)
        by_copies = partial(attend_by_copies, attn)
        with torch.no_grad():
            difference = float((attn(x, grid) - by_copies(x, grid)).abs().max())
        if not difference <= 1e-5:
            raise ValueError(f"attention {letter!r} and the same one by copies differ by {difference:.1e}")
        attn, x = attn.to(device), x.to(device)
        passes = {"ours": _both_ways(attn, x, grid), "copies": _both_ways(by_copies, x, grid)}
        seconds = take_turns(passes, rounds=rounds, budget=2.0 if quick else 5.0, warmup=2, device=device)
        name = f"attention {letter} alone, {where}, forward and backward: speed over fold by copies"
        rows.append(
            make_row(
                TABLE,
                name,
                ratios(seconds["copies"], seconds["ours"]),
                target=target if letter == "t" and size == "base" else None,
                note="both project queries, keys, values and outputs, which takes most of the time",
                detail={**medians(seconds), "batch": len(x)},
            )
        )
    return rows


def _both_ways(attend: Callable[[Tensor, Grid], Tensor], x: Tensor, grid: Grid) -> Callable[[], None]:
    x = x.clone().requires_grad_()
    gradient = torch.randn_like(x)

    def run() -> None:
        attend(x, grid).backward(gradient)

    return run


def _label(case: Case, device: torch.device) -> str:
    where = f" {str(case.dtype).removeprefix('torch.')} on GPU" if device.type == "cuda" else ""
    return f"{case.shape}{where}"


def _why_not(case: Case, device: torch.device) -> str:
    """Why a case cannot be run here; empty if it can. A GPU is asked by trying."""
    if device.type == "cuda" or case.shape.size == "test":
        return ""
    channels = {"tiny": 192, "small": 384, "base": 768}[case.shape.size]
    needed = bytes_of_forward(case.shape, channels, 12, channels // 64, case.batch)
    there = psutil.virtual_memory().available
    return f"it needs about {needed / 1e9:.0f} GB and {there / 1e9:.0f} GB are free" if needed > 0.8 * there else ""


def _compile(model: nn.Module) -> nn.Module:
    torch.compiler.reset()
    compiled: nn.Module = torch.compile(model)  # type: ignore[assignment]  # called like the model, and has its modes
    return compiled


def _sum(seconds: Seconds, *names: str) -> list[float]:
    return [sum(values) for values in zip(*(seconds[name] for name in names), strict=True)]
