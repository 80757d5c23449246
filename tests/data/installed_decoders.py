"""The decoders as parameters of a test: those that this machine lacks are skipped, and say why."""

import importlib
from importlib.util import find_spec

import pytest

NAMES = ("decord", "pyav", "pytorchvideo", "torchcodec")


def _lacking() -> dict[str, str]:
    """Why a decoder is not here; found out without the code under test, which would hide its own failure."""
    reasons = {}
    if find_spec("decord") is None:
        reasons["decord"] = "decord has no wheel for this platform"
    try:
        if importlib.import_module("torchcodec").ffmpeg_major_version is None:
            reasons["torchcodec"] = "torchcodec finds no FFmpeg libraries"
    except (ImportError, RuntimeError) as error:
        reasons["torchcodec"] = f"torchcodec cannot be imported: {type(error).__name__}"
    return reasons


LACKING = _lacking()
# for parametrisation
DECODERS = tuple(
    pytest.param(name, marks=pytest.mark.skipif(name in LACKING, reason=LACKING.get(name, ""))) for name in NAMES
)
# for loops
INSTALLED = tuple(name for name in NAMES if name not in LACKING)
