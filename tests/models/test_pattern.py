"""The grammar: every spelling has one canonical form, every mistake is shown in place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timesformer_plus import LETTERS, SCHEMES, format_pattern, parse_pattern
from timesformer_plus.models.pattern import Step, parse_block

letters = st.sampled_from(sorted(LETTERS))
single = letters.map(lambda a: (a,)).map(Step)
several = st.builds(Step, st.lists(letters, min_size=2, max_size=4).map(tuple), st.booleans())
block = st.lists(single | several, min_size=1, max_size=3).map(tuple)
stages = st.lists(st.lists(block, min_size=1, max_size=5).map(tuple), min_size=1, max_size=3).map(tuple)


def spelled(steps: tuple[Step, ...], repeat: int) -> str:
    return "".join(("&" if step.share_heads else "+").join(step.letters) for step in steps) + (
        f"*{repeat}" if repeat else ""
    )


@given(stages, st.randoms(use_true_random=False))
def test_round_trip_over_random_spellings(wanted: tuple, random) -> None:
    text = ""
    for i, stage in enumerate(wanted):
        text += random.choice(["|", " | ", "  |"]) if i else ""
        words, left = [], list(stage)
        while left:
            run = 1
            while run < len(left) and left[run] == left[0] and random.random() < 0.5:
                run += 1
            words.append(spelled(left[0], run if run > 1 else random.choice([0, 1])))
            left = left[run:]
        text += random.choice([" ", "  "]).join(words)
    parsed = parse_pattern(text)
    assert parsed.stages == wanted
    canonical = format_pattern(parsed)
    assert parse_pattern(canonical) == parsed
    assert format_pattern(parse_pattern(canonical)) == canonical


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("s s s j", "s*3 j"),
        ("s*2 s", "s*3"),
        ("ts*1", "ts"),
        ("  s*8|j*4 ", "s*8 | j*4"),
        ("s | s", "s | s"),
        ("t s t s", "t s t s"),
        ("t+s+h", "t+s+h"),
        ("t&st", "t&st"),
        ("divided", "ts"),
        ("factorised_encoder", "s*8 | j*4"),
    ],
)
def test_canonical_form(text: str, canonical: str) -> None:
    assert format_pattern(parse_pattern(text)) == canonical


def test_every_scheme_parses_and_no_scheme_name_is_itself_a_pattern() -> None:
    for name, text in SCHEMES.items():
        assert format_pattern(parse_pattern(name)) == text
        assert not set(name) <= set(LETTERS), f"{name} could be read as letters"


def test_steps_inside_a_block() -> None:
    assert parse_block("t&st+w") == (Step(("t", "s"), True), Step(("t", "w")))
    assert Step(("t", "s"), True).attentions == (("t", "s"),)
    assert Step(("t", "s")).attentions == (("t",), ("s",))
    with pytest.raises(ValueError, match="describes 2 blocks"):
        parse_block("t s")


@pytest.mark.parametrize(
    ("text", "place", "fix"),
    [
        ("tx", 2, "the letters are t c h w s j l g"),
        ("s T", 3, "the letters are"),
        ("", 1, "write a block"),
        ("   ", 1, "write a block"),
        ("s |", 3, "both sides"),
        ("| s", 1, "both sides"),
        ("s || j", 4, "both sides"),
        ("s*0", 3, "from 1 to 999"),
        ("s*", 3, "from 1 to 999"),
        ("s*x", 3, "from 1 to 999"),
        ("s*1000", 3, "from 1 to 999"),
        ("s*99999999999999999999", 3, "from 1 to 999"),
        ("s*٣", 3, "from 1 to 999"),
        ("s*2*2", 3, "from 1 to 999"),
        ("*3", 1, "before '\\*'"),
        ("t+", 2, "join two letters"),
        ("+t", 1, "join two letters"),
        ("t++s", 3, "join two letters"),
        ("t + s", 3, "join two letters"),
        ("t+s&w", 4, "use one of them"),
        ("t&s+w", 4, "use one of them"),
    ],
)
def test_mistakes_are_shown_in_place(text: str, place: int, fix: str) -> None:
    with pytest.raises(ValueError, match=fix) as caught:
        parse_pattern(text)
    message, shown, caret = str(caught.value).split("\n")
    assert repr(text) in message
    assert f"at character {place}:" in message
    assert shown == f"  {text}"
    assert caret == " " * (place + 1) + "^"


def test_a_pattern_is_a_string() -> None:
    with pytest.raises(ValueError, match="a pattern is a string"):
        parse_pattern(["t", "s"])  # type: ignore[arg-type]


def test_tiling_and_depth() -> None:
    assert [str(p.steps[0]) for p in parse_pattern("t s").plan(4)] == ["t", "s", "t", "s"]
    with pytest.raises(ValueError, match=r"'t s' describes 2 blocks, which does not divide depth=5; write 5 blocks"):
        parse_pattern("t s").plan(5)
    with pytest.raises(ValueError, match=r"'s \| j' describes 2 blocks and cannot be tiled .* depth=4"):
        parse_pattern("s | j").plan(4)
    plan = parse_pattern("s*2 | j").plan(3)
    assert [p.starts_stage for p in plan] == [False, False, True]


@pytest.mark.parametrize(
    ("text", "per_frame"),
    [
        ("s", [True]),
        ("hw", [True]),
        ("cs", [True]),
        ("c s", [True, True]),
        ("s j", [False, False]),
        ("ts", [False]),
        ("lg", [False]),
        ("s | j", [True, False]),
        ("s | c", [True, True]),
        ("ts | s", [False, False]),
        ("s | j | s", [True, False, False]),
    ],
)
def test_whose_prefix_tokens_belong_to_frames(text: str, per_frame: list[bool]) -> None:
    assert [p.per_frame_prefix for p in parse_pattern(text).plan(len(per_frame))] == per_frame


@pytest.mark.parametrize(
    ("text", "seen"),
    [("s", [True]), ("c", [False]), ("t c", [False, False]), ("cs", [True]), ("c s | c", [False, True, True])],
)
def test_whether_prefix_tokens_have_seen_anything(text: str, seen: list[bool]) -> None:
    assert [p.prefix_has_seen for p in parse_pattern(text).plan(len(seen))] == seen


def test_which_patterns_know_time() -> None:
    assert not any(parse_pattern(text).uses_time for text in ("s", "h", "w", "hw", "s*2 | s*2", "h&w"))
    assert all(parse_pattern(text).uses_time for text in ("c", "t", "j", "ts", "s j", "l", "g", "s | c"))
