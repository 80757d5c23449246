"""The table of letters against token-by-token definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import groups, places

from timesformer_plus import LETTERS, Grid
from timesformer_plus.models.tokens import check_grid, fold, num_groups, unfold

side = st.integers(1, 4)


@pytest.mark.parametrize("letter", LETTERS)
@given(t=side, h=side, w=side)
def test_fold_collects_the_groups_and_unfold_undoes_it(letter: str, t: int, h: int, w: int) -> None:
    row = LETTERS[letter]
    grid = Grid(*(n * d for n, d in zip((t, h, w), row.divides, strict=True)))
    x = torch.arange(2 * grid.num_tokens * 3.0).reshape(2, grid.num_tokens, 3)
    rows = fold(x, grid, letter)
    assert num_groups(grid, letter) == rows.shape[0] // 2
    wanted = {tuple(group) for group in groups(letter, grid)}
    found = (rows.reshape(2, -1, *rows.shape[1:])[..., 0] / 3).long()
    assert {tuple(r) for r in found[0].tolist()} == wanted
    assert torch.equal(found[1], found[0] + grid.num_tokens)
    assert torch.equal(unfold(rows, grid, letter), x)


def test_the_docstring_example() -> None:
    x = torch.tensor([[[0.0], [10.0], [1.0], [11.0]]])
    assert fold(x, Grid(2, 1, 2), "t").squeeze(-1).tolist() == [[0.0, 1.0], [10.0, 11.0]]


def test_order_is_time_major_and_width_fastest() -> None:
    assert places(Grid(2, 1, 2)) == [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)]
    assert Grid(8, 14, 14).num_tokens == 1568


@pytest.mark.parametrize(
    ("letter", "grid", "side"),
    [
        ("g", (3, 4, 4), "t=3"),
        ("g", (2, 3, 4), "h=3"),
        ("g", (2, 4, 3), "w=3"),
        ("l", (3, 4, 5), "w=5"),
        ("l", (1, 1, 2), "h=1"),
    ],
)
def test_odd_sides_are_refused_by_name(letter: str, grid: tuple[int, int, int], side: str) -> None:
    with pytest.raises(ValueError, match=side):
        check_grid(Grid(*grid), letter)
    with pytest.raises(ValueError, match="choose num_frames"):
        fold(torch.zeros(1, Grid(*grid).num_tokens, 2), Grid(*grid), letter)


def test_unknown_letter_and_wrong_token_count() -> None:
    with pytest.raises(ValueError, match="'q' is not one of t c h w s j l g"):
        check_grid(Grid(2, 2, 2), "q")
    with pytest.raises(ValueError, match="9 patch tokens"):
        fold(torch.zeros(1, 9, 2), Grid(2, 2, 2), "t")
