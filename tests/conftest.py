"""What every test starts from: one thread, one seed, no network."""

import os
import signal
from collections.abc import Iterator
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

# how long an example takes says nothing on a machine that runs other tests beside it
settings.register_profile("shared_machine", deadline=None)
settings.load_profile("shared_machine")
torch.set_num_threads(1)
# a shell starts what runs in its background with Ctrl-C ignored, and children would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    # a tool that is run inside a test may set variables (tools/evaluate.py: MKL_CBWR), which change the last bits of
    # what processes compute that later tests start
    with mock.patch.dict(os.environ):
        yield
