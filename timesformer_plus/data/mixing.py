"""Mix the clips of a batch with each other, and their labels by exactly as much: mixup and cutmix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision import tv_tensors
from torchvision.transforms import v2


class ClipMixer:
    """Mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019) of a batch of clips, drawn once for it or for every pair.

    A call mixes clip i with clip i-1 (the first with the last). ``mix_pairs`` mixes neighbours with each other, every
    pair by a draw of its own, so that nothing depends on what else is in the batch. Mixup adds two clips up, frame by
    frame. Cutmix cuts one box out of all frames of a clip, at the same place, and fills it with the other clip; its
    label counts by the share of the box that lies inside the picture.

    The mixing is torchvision's. (timm's ``Mixup`` takes the last two of *four* dimensions for height and width: on
    (B, C, T, H, W) it cuts through time and height while its labels count height and width.)

    Args:
        num_classes: Number of classes K.
        mixup_alpha: Of the Beta(alpha, alpha) distribution that mixup's share is drawn from; 0 for no mixup.
        cutmix_alpha: Of cutmix's; 0 for no cutmix.
        prob: Probability of mixing a batch at all.
        switch_prob: Probability of cutmix rather than mixup where both are on.
        label_smoothing: Share of a single label that is spread evenly over all classes before mixing, in 0..1.

    Raises:
        ValueError: A number outside its range, or neither of the two is on.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        label_smoothing: float = 0.0,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: must be at least 1")
        for name, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
            if not 0 <= alpha < float("inf"):
                raise ValueError(f"{name}={alpha}: must be at least 0; 0 turns it off")
        if not mixup_alpha and not cutmix_alpha:
            raise ValueError("mixup_alpha and cutmix_alpha are both 0: set one above 0, or use no mixer")
        for name, share in (("prob", prob), ("switch_prob", switch_prob)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share}: a probability lies in 0..1")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: must be at least 0 and below 1")
        self.num_classes = num_classes
        self.mixup = v2.MixUp(alpha=mixup_alpha, num_classes=num_classes) if mixup_alpha else None
        self.cutmix = v2.CutMix(alpha=cutmix_alpha, num_classes=num_classes) if cutmix_alpha else None
        self.prob = prob
        self.switch_prob = switch_prob
        self.label_smoothing = label_smoothing

    def __call__(self, video: Tensor, target: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        """Mix a batch, or leave it as it is with probability ``1 - prob``.

        Args:
            video: (B, C, T, H, W), uint8 or floats. Cutmix is exact for both. Mixup of uint8 is computed in float32 and
                rounded to the nearest grey level; mix after ``Normalize`` to lose nothing.
            target: Class indices, int64 (B,), or one number in 0..1 for every class, (B, K); the latter are mixed as
                they are.
            seed: Decides everything random; make it a function of the run's seed, the step and the rank. Torch's
                global generator is left as it was, and drawn from on no device.

        Returns:
            The mixed batch, of the same shape, type and device, and its targets, float32 (B, K). The arguments are left
            alone.

        Raises:
            ValueError: Another layout, clips and targets that do not match, a class outside ``range(K)``, or smoothing
                of (B, K) targets.
        """
        soft = self._soft(video, target)
        # torchvision draws from torch's global CPU generator. torch.manual_seed would reseed the GPUs as well, which
        # fork_rng(devices=[]) does not restore.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            mixing = self._choose()
            if mixing is None:
                return video, soft
            rounds = mixing is self.mixup and not video.is_floating_point()
            # a Video tensor, for torchvision would refuse five dimensions of anything else; that it calls the second
            # and third time and channels is of no consequence, for it looks at the first and the last two only
            mixed, soft = mixing(tv_tensors.Video(video.float() if rounds else video), soft)
        mixed = mixed.as_subclass(Tensor)
        return mixed.round_().to(video.dtype) if rounds else mixed, soft

    def mix_pairs(self, video: Tensor, target: Tensor, *, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Mix clips 0 and 1, 2 and 3, … with each other: what a call does to each of these pairs alone.

        Args:
            video: (B, C, T, H, W), uint8 or floats. With an odd B the last clip stays as it is.
            target: Class indices, int64 (B,), or one number in 0..1 for every class, (B, K).
            seeds: One for each of the B // 2 pairs, deciding everything random about it; make them functions of the
                run's seed, the update and the pair's place in the global batch.

        Returns:
            The mixed batch and its targets, float32 (B, K); those of a clip that stays are smoothed too.

        Raises:
            ValueError: As for a call, or another number of seeds.
        """
        soft = self._soft(video, target)
        starts = range(0, len(video) - 1, 2)
        if len(seeds) != len(starts):
            raise ValueError(f"{len(seeds)} seeds for {len(video)} clips: give one for each of the {len(starts)} pairs")
        mixed = [self(video[i : i + 2], target[i : i + 2], seed=seed) for i, seed in zip(starts, seeds, strict=True)]
        alone = 2 * len(starts)
        clips, targets = [pair[0] for pair in mixed], [pair[1] for pair in mixed]
        return torch.cat([*clips, video[alone:]]), torch.cat([*targets, soft[alone:]])

    def _choose(self) -> v2.Transform | None:
        # always two draws, so that a batch's mixing does not depend on which of the two are on
        mixes, switches = (torch.rand(2) < torch.tensor([self.prob, self.switch_prob])).tolist()
        if not mixes:
            return None
        return self.mixup if self.cutmix is None or (self.mixup is not None and not switches) else self.cutmix

    def _soft(self, video: Tensor, target: Tensor) -> Tensor:
        if video.ndim != 5 or not (video.is_floating_point() or video.dtype == torch.uint8):
            raise ValueError(
                f"video must be uint8 or floats (B, C, T, H, W), not {video.dtype} {tuple(video.shape)}; mix batches, "
                "not single clips"
            )
        if target.shape == (len(video), self.num_classes):
            if self.label_smoothing:
                raise ValueError(
                    f"label_smoothing={self.label_smoothing} is for class indices (B,), not for targets "
                    f"{tuple(target.shape)} that give every class a number; set it to 0"
                )
            return target.float()
        if target.shape != (len(video),) or target.dtype != torch.int64:
            raise ValueError(
                f"target must be int64 ({len(video)},) or ({len(video)}, {self.num_classes}) for clips "
                f"{tuple(video.shape)}, not {target.dtype} {tuple(target.shape)}"
            )
        # not on a GPU: looking at the values would make the host wait for it, and there one_hot fails loudly
        if target.is_cpu and len(target) and not (target.min() >= 0 and target.max() < self.num_classes):
            raise ValueError(
                f"target holds classes {int(target.min())} to {int(target.max())}, but num_classes={self.num_classes}"
            )
        hard = one_hot(target, self.num_classes).float()
        return hard * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
