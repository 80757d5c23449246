"""Out of memory: recognised as what it is, and advice that is true."""

import re

import pytest
import torch

from timesformer_plus.engine.memory import MemoryShortageError, explain_out_of_memory, is_out_of_memory, memory_advice
from timesformer_plus.engine.watch import PeerFailedError

RUN = {"batch_size": 64, "accumulate": 1, "world_size": 2, "grad_checkpointing": False}


def on_gpu():
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.2 GiB is "
        "free."
    )


def on_cpu():
    torch.empty(2**45)  # half a petabyte: the allocator of torch says so itself


def in_python():
    bytearray(2**62)


@pytest.mark.parametrize("fail", [on_gpu, on_cpu, in_python])
def test_recognised(fail):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        fail()
    assert is_out_of_memory(caught.value)
    advice = r"try accumulate=2 \(passes of 16 clips; the global batch stays 64\)"
    with pytest.raises(MemoryShortageError, match=advice), memory_advice(**RUN):
        fail()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        ValueError("out of memory"),
        OSError(12, "x"),
        PeerFailedError("process 1 failed first: OutOfMemoryError: CUDA out of memory"),
    ],
)
def test_other_errors_are_left_alone(error):
    assert explain_out_of_memory(error, **RUN) is None
    with pytest.raises(type(error)) as caught, memory_advice(**RUN):
        raise error
    assert caught.value is error


def test_the_message_in_full():
    with pytest.raises(torch.OutOfMemoryError) as caught:
        on_gpu()
    text = explain_out_of_memory(caught.value, **RUN)
    assert text == (
        "the GPU's memory does not hold a forward and backward pass of 32 clips in each of 2 processes "
        "(2.50 GiB more were asked for); nothing was changed: try accumulate=2 (passes of 16 clips; the global batch "
        "stays 64); or grad_checkpointing=true (the same numbers, about a third more time); or fewer "
        "data.num_frames, a smaller data.img_size or a smaller model (other numbers)"
    )


@pytest.mark.parametrize("batch_size", [1, 6, 24, 60, 64])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("grad_checkpointing", [False, ("norm", "act"), True])
@pytest.mark.parametrize("pairs", [False, True])
def test_what_is_advised_can_be_done(batch_size, world_size, accumulate, grad_checkpointing, pairs):
    micro, rest = divmod(batch_size, world_size * accumulate)
    if rest or (pairs and micro % 2):
        return
    text = explain_out_of_memory(
        MemoryError(),
        batch_size=batch_size,
        accumulate=accumulate,
        world_size=world_size,
        grad_checkpointing=grad_checkpointing,
        pairs=pairs,
    )
    advised = re.search(r"accumulate=(\d+) \(passes of (\d+) clips", text)
    if advised:
        more, clips = int(advised[1]), int(advised[2])
        assert more > accumulate
        assert clips * more * world_size == batch_size
        assert not (pairs and clips % 2)
    else:
        assert micro <= (3 if pairs else 1)  # nothing smaller than a clip, or two that are mixed
        assert "more processes" in text or world_size > 1
    assert ("grad_checkpointing=true" in text) == (grad_checkpointing is not True)
    assert "\n" not in text
