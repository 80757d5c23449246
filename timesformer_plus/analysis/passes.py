"""One pass of a model over a batch, for whoever times it or watches its memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .counted_cost import in_mode


class Inference:
    """Forward passes in evaluation mode."""

    def __init__(self, model: nn.Module, clips: Tensor) -> None:
        self.model, self.clips = model, clips

    def run(self) -> None:
        """Run one."""
        with in_mode(self.model, training=False), torch.inference_mode():
            self.model(self.clips)


class Training:
    """Training steps in single precision: forward, backward, AdamW.

    The learning rate is zero: the arithmetic is that of a step, and the weights stay.
    """

    def __init__(self, model: nn.Module, clips: Tensor) -> None:
        self.model, self.clips = model, clips
        self.labels = torch.zeros(len(clips), dtype=torch.long, device=clips.device)
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=0.0)

    def run(self) -> None:
        """Make one; no gradients are left behind."""
        with in_mode(self.model, training=True), torch.enable_grad():
            F.cross_entropy(self.model(self.clips).flatten(1), self.labels).backward()
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
