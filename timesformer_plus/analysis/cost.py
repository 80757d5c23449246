"""What a model costs: counted (``counted_cost``), and measured on the machine at hand (``measured_cost``)."""

from __future__ import annotations

from .counted_cost import Cost, activation_bytes, clip_shape, count_multiply_adds, evaluating, measure_cost
from .measured_cost import CostError, Speed, device_name, measure_saved_models, measure_speed

__all__ = [
    "Cost",
    "CostError",
    "Speed",
    "activation_bytes",
    "clip_shape",
    "count_multiply_adds",
    "device_name",
    "evaluating",
    "measure_cost",
    "measure_saved_models",
    "measure_speed",
]
