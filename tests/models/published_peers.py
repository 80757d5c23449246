"""What the parity tests of the published families share: a peer moved away from its start, and the comparison."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from timesformer_plus import VideoTransformer
from timesformer_plus.models.weights import KeyReport, fit_checkpoint

TOLERANCE = {"rtol": 0.0, "atol": 1e-5}


def perturb(model: nn.Module) -> nn.Module:
    """Move every parameter off its initial value, so that none can be left out or swapped unseen."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * (0.15 if p.ndim > 1 else 0.3))
    return model.eval()


def load(ours: VideoTransformer, state: dict[str, Tensor]) -> KeyReport:
    """Through the key table and a strict load."""
    fitted, report = fit_checkpoint(state, ours)
    ours.load_state_dict(fitted, strict=True)
    ours.eval()
    return report


def assert_same_classifier(
    ours: VideoTransformer, theirs: nn.Module, x: Tensor, classify: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Hold logits, every block and every gradient against a classifier of transformers.

    Args:
        ours: Our model, filled with their weights.
        theirs: Theirs, which takes frames before channels.
        x: Clips (B, C, T, H, W).
        classify: Clips to our logits where that is not ``ours`` itself.
    """
    output = theirs(x.transpose(1, 2), output_hidden_states=True)
    mine = (classify or ours)(x)
    assert_same_outputs(ours, x, output.logits, mine, output.hidden_states)
    assert_same_gradients(ours, theirs, mine, output.logits)


def assert_same_outputs(
    ours: VideoTransformer, x: Tensor, logits: Tensor, mine: Tensor, hidden: tuple[Tensor, ...]
) -> None:
    """Hold logits, what enters the first block and what leaves every block against the peer's.

    Args:
        ours: Our model.
        x: Clips (B, C, T, H, W).
        logits: Theirs.
        mine: Ours.
        hidden: Their tokens, (B, P + T*H*W, C): those of the embedding, then of every block.
    """
    prefix = ours.num_prefix_tokens > 0
    blocks = ours.forward_intermediates(x, output_fmt="NLC", return_prefix_tokens=prefix, intermediates_only=True)
    if prefix:
        blocks = [torch.cat([tokens, patches], dim=1) for patches, tokens in blocks]
    assert len(hidden) == len(blocks) + 1 == len(ours.blocks) + 1
    for block, wanted in zip([ours._embed(x)[0], *blocks], hidden, strict=True):
        assert 0.2 < wanted.std() < 10, "outputs of order 1"
        torch.testing.assert_close(block, wanted, **TOLERANCE)
    assert 0.2 < logits.std() < 10
    torch.testing.assert_close(mine, logits, **TOLERANCE)


def assert_same_gradients(ours: VideoTransformer, theirs: nn.Module, mine: Tensor, logits: Tensor) -> None:
    """Hold the gradient of every parameter against the peer's, which goes through the key table as a weight does."""
    weights = torch.linspace(-1, 1, logits.numel()).view_as(logits) / logits.numel()
    (logits * weights).sum().backward()
    (mine * weights).sum().backward()
    grads = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in theirs.named_parameters()}
    wanted, _ = fit_checkpoint(grads, ours)
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert wanted[name].abs().max() > 1e-6 or "k" in name.split("."), f"{name} has no gradient to compare"
        torch.testing.assert_close(parameter.grad, wanted[name], **TOLERANCE, msg=lambda text, name=name: name + text)
