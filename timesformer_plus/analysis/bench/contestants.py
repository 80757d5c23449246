"""What is compared: our model, ``transformers``' with the same weights, the yardstick; checked first."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.export_hf import ATTENTION_TYPES, export_timesformer
from ...models.video_transformer import VideoTransformer
from ..counted_cost import evaluating, in_mode
from ..passes import Training
from .yardstick import CopyingModel

SIZES = {
    "test": ("timesformer_test_patch8_32", 32),
    "tiny": ("timesformer_tiny_patch16_224", 224),
    "small": ("timesformer_small_patch16_224", 224),
    "base": ("timesformer_base_patch16_224", 224),
}
"""Size -> name of the model and side of its frames in pixels."""

Who = Literal["ours", "ours_outputs", "ours_mlp", "transformers", "copies"]

CLASSES = 400
# of float32 logits, relative to the greatest
TOLERANCE = 1e-4

# the best first; transformers refuses what its TimeSformer has no code for
_ATTENTIONS = ("flash_attention_2", "flash_attention_3", "sdpa", "flex_attention", "eager")

NO_TRANSFORMERS = "transformers is not installed, so there is no comparison with it: pip install -e '.[dev]'"


@dataclass(frozen=True)
class Shape:
    """Which model on which clips.

    Attributes:
        size: A key of ``SIZES``.
        frames: Frames of a clip.
        side: Height and width of a frame in pixels.
        pattern: The interleaving.
    """

    size: str
    frames: int
    side: int
    pattern: str

    def __str__(self) -> str:
        return f"{self.size} {self.frames}x{self.side} {self.pattern}"

    @property
    def has_peer(self) -> bool:
        """Whether ``transformers`` is here and has this interleaving."""
        return self.pattern in ATTENTION_TYPES and importlib.util.find_spec("transformers") is not None

    def clips(self, batch: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
        """Random clips, (batch, 3, T, H, W)."""
        return torch.randn(batch, 3, self.frames, self.side, self.side, device=device, dtype=dtype)


class Peer(nn.Module):
    """``transformers``' TimeSformer, taking and giving what ours does.

    Of its space-only form, which scores every frame, the logits are averaged over the frames.

    Args:
        theirs: A ``TimesformerForVideoClassification``.
        attention: Its implementation of attention, in its words.
    """

    def __init__(self, theirs: nn.Module, attention: str) -> None:
        super().__init__()
        self.theirs, self.attention = theirs, attention

    def forward(self, x: Tensor) -> Tensor:
        """Classify clips (B, C, T, H, W); logits (B, classes)."""
        logits: Tensor = self.theirs(pixel_values=x.transpose(1, 2)).logits
        return logits if len(logits) == len(x) else logits.unflatten(0, (len(x), -1)).mean(dim=1)

    def averaged_before_norm(self, x: Tensor) -> Tensor:
        """As ``forward``, with class tokens of frames averaged where ours averages them: in front of the norm."""
        theirs = cast(Any, self.theirs)
        states = theirs(pixel_values=x.transpose(1, 2), output_hidden_states=True).hidden_states[-1]
        tokens = states[:, 0].unflatten(0, (len(x), -1)).mean(dim=1)
        return cast(Tensor, theirs.classifier(theirs.timesformer.layernorm(tokens)))


class Autocast(nn.Module):
    """A model under mixed precision, as training uses it.

    Args:
        model: In single precision.
        dtype: That of its matrix products.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Run the model on a GPU; logits in single precision."""
        with torch.autocast("cuda", self.dtype):
            logits: Tensor = self.model(x)
        return logits.float()


class TrainingStep(Training):
    """A training step in which the optimizer takes as little as it can: forward, loss, backward, fused AdamW.

    Gradients are freed after every step and made anew by the next, as ``Training`` and the trainer do.

    Args:
        model: Takes clips.
        clips: A batch.
    """

    def __init__(self, model: nn.Module, clips: Tensor) -> None:
        super().__init__(model, clips)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=0.0, fused=True)

    def forward_backward(self) -> None:
        """The step without its optimizer; gradients stay."""
        with in_mode(self.model, training=True), torch.enable_grad():
            F.cross_entropy(self.model(self.clips).flatten(1), self.labels).backward()


def make_ours(shape: Shape) -> VideoTransformer:
    """Our model, none of its parameters zero, so that a comparison of outputs sees every layer."""
    name, _ = SIZES[shape.size]
    model = timm.create_model(
        name, pattern=shape.pattern, num_frames=shape.frames, img_size=shape.side, num_classes=CLASSES
    )
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.02)
    return cast(VideoTransformer, model)


def make_peer(model: VideoTransformer) -> Peer:
    """``transformers``' TimeSformer with the weights of ours and the best attention that it has.

    Raises:
        ValueError: It has no such model, or refuses the weights.
    """
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    config, tensors, _ = export_timesformer(model)
    config = {key: value for key, value in config.items() if key not in ("architectures", "torch_dtype", "model_type")}
    refusals = []
    for attention in _ATTENTIONS:
        try:
            theirs: nn.Module = TimesformerForVideoClassification._from_config(  # type: ignore[no-untyped-call]
                TimesformerConfig(**config), attn_implementation=attention
            )
        except (ValueError, ImportError) as error:
            refusals.append(f"{attention}: {error}")
            continue
        theirs.load_state_dict({name: tensor.detach().clone() for name, tensor in tensors.items()})
        return Peer(theirs, attention)
    raise ValueError(f"transformers makes no TimeSformer with any attention: {'; '.join(refusals)}")


def make_copying(model: VideoTransformer) -> CopyingModel:
    """The yardstick, with a copy of the weights of ours."""
    return CopyingModel(model)


def build(who: Who, shape: Shape) -> nn.Module:
    """Make one of the models that are compared, and keep nothing of the others.

    Args:
        who: Which.
        shape: Of all of them.

    Raises:
        ValueError: ``transformers`` has no such model.
    """
    ours = make_ours(shape)
    if who == "transformers":
        return make_peer(ours)
    if who == "ours_outputs":
        ours.set_grad_checkpointing(("norm", "act"))
    if who == "ours_mlp":
        ours.set_grad_checkpointing(("norm", "mlp"))
    return make_copying(ours) if who == "copies" else ours


def make_fused(model: VideoTransformer) -> nn.Module | None:
    """A copy of ours with Linear layers that follow each other made one, if the model knows how to."""
    fused = copy.deepcopy(model).eval()
    fuse: Callable[[], Any] | None = getattr(fused, "fuse", None)
    if fuse is None:
        return None
    answer = fuse()
    return answer if isinstance(answer, nn.Module) else fused


def check_same(ours: nn.Module, other: nn.Module, clips: Tensor, what: str) -> float:
    """Refuse to compare models that do not compute the same.

    Args:
        ours: In single precision.
        other: Likewise.
        clips: What to show them.
        what: What the other one is.

    Returns:
        The greatest difference of the logits, relative to the greatest logit.

    Raises:
        ValueError: The logits differ.
    """
    with evaluating(ours), evaluating(other), torch.no_grad():
        wanted = ours(clips)
        is_by_frame = isinstance(other, Peer) and cast(Any, other.theirs).config.attention_type == "space_only"
        got = cast(Peer, other).averaged_before_norm(clips) if is_by_frame else other(clips)
    difference = float((wanted - got).abs().max() / wanted.abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{what} does not compute what ours does: logits differ by {difference:.1e} of the greatest, which is more "
            f"than {TOLERANCE:.0e}; a comparison of their speed would mean nothing"
        )
    return difference
