"""Run by torchrun: training in which only the second process sees a loss that is not a number, at the second update."""

import math

from torch import nn

from timesformer_plus.engine import train, trainer


class Broken(nn.CrossEntropyLoss):
    updates = 0

    def forward(self, logits, targets):
        self.updates += 1
        loss = super().forward(logits, targets)
        return loss * math.nan if self.rank == 1 and self.updates == 2 else loss


def build_loss(**_):
    return Broken(reduction="none")


if __name__ == "__main__":
    import os

    Broken.rank = int(os.environ["RANK"])
    trainer.build_loss = build_loss
    train.main()
