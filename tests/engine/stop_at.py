"""Run by python or torchrun: training in which process $STOP_RANK gets a SIGTERM while it does update $STOP_AT."""

import os
import signal

from timesformer_plus.engine import train
from timesformer_plus.engine.trainer import Trainer

before = Trainer._clips


def clips(self):
    if self.step == int(os.environ["STOP_AT"]) - 1 and os.environ.get("RANK", "0") == os.environ.get("STOP_RANK", "0"):
        signal.raise_signal(signal.SIGTERM)
    return before(self)


if __name__ == "__main__":
    Trainer._clips = clips
    train.main()
