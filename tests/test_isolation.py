"""What a test does to the process stays in that test."""

import os
import runpy
import sys
from pathlib import Path

import pytest

EVALUATE = Path(__file__).parents[1] / "tools" / "evaluate.py"


@pytest.mark.parametrize("_turn", [1, 2])
def test_variables_that_a_tool_sets_are_gone_in_the_next_test(_turn, monkeypatch):
    assert "MKL_CBWR" not in os.environ
    monkeypatch.setattr(sys, "argv", [str(EVALUATE), "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(EVALUATE), run_name="__main__")
    assert os.environ["MKL_CBWR"] == "AUTO,STRICT"
