"""Protocols: the published ones, and what is stored with a score."""

import dataclasses
import json

import pytest

from timesformer_plus.engine.build_data import ClipRecipe, choose_views
from timesformer_plus.engine.protocols import PROTOCOLS, Protocol, find_protocol

RECIPE = ClipRecipe(8, 32, "stride", (224, 224), (0.45,) * 3, (0.225,) * 3, multi_label=False, num_clips=2)


def test_the_published_ones():
    views = {name: (one.num_clips, one.num_crops, one.average) for name, one in PROTOCOLS.items()}
    assert views["paper_timesformer"] == (1, 3, "logits")
    assert views["videomae"] == (5, 3, "probabilities")
    assert views["videomae_ssv2"] == (2, 3, "probabilities")
    assert views["vivit"] == (4, 3, "logits")
    assert views["slowfast"] == (10, 3, "probabilities")
    assert all("arXiv" in one.source for one in PROTOCOLS.values())


def test_unknown_ones_are_told_the_nearest():
    with pytest.raises(
        ValueError, match=r"'videomea' is unknown; did you mean videomae\? known are paper_timesformer \(1x3"
    ):
        find_protocol("videomea")
    with pytest.raises(ValueError, match=r"'' is unknown; known are"):
        find_protocol("")


def test_a_protocol_goes_through_json_and_back():
    protocol = RECIPE.protocol
    assert Protocol.from_dict(json.loads(json.dumps(protocol.as_dict()))) == protocol
    for stored in ({**protocol.as_dict(), "warp": 9}, {"name": "x"}):
        with pytest.raises(ValueError, match="another version of timesformer_plus; keys differ: "):
            Protocol.from_dict(stored)


def test_a_protocol_of_before_precision_was_fp32():
    stored = RECIPE.protocol.as_dict()
    del stored["precision"]
    assert Protocol.from_dict(stored) == RECIPE.protocol
    half = dataclasses.replace(RECIPE, precision="bf16").protocol
    assert str(half).endswith("; computed in bf16")
    assert "computed" not in str(RECIPE.protocol)


def test_a_protocol_of_before_channel_orders_was_rgb():
    stored = RECIPE.protocol.as_dict()
    del stored["channel_order"]
    assert Protocol.from_dict(stored) == RECIPE.protocol
    reversed_ = dataclasses.replace(RECIPE, channel_order="bgr").protocol
    assert str(reversed_).endswith("; channels in the order bgr")
    assert "channels" not in str(RECIPE.protocol)


def test_a_protocol_says_all_that_a_score_depends_on():
    # whatever a recipe decides about the clips is in it, but that several labels are scored otherwise
    own = {field.name for field in dataclasses.fields(ClipRecipe)} - {"multi_label", "protocol_name"}
    assert own | {"name"} == {field.name for field in dataclasses.fields(Protocol)}
    changed = dataclasses.replace(RECIPE, num_frames=16, short_side=256, average="logits", decode_size=300)
    protocol = changed.protocol
    assert (protocol.num_frames, protocol.short_side, protocol.average, protocol.decode_size) == (
        16,
        256,
        "logits",
        300,
    )
    assert protocol.num_views == 2


def test_views_are_chosen_by_name():
    recipe = choose_views(RECIPE, protocol="paper_timesformer")
    assert (recipe.num_clips, recipe.num_crops, recipe.average) == (1, 3, "logits")
    assert recipe.protocol.name == "paper_timesformer"
    assert str(recipe.protocol) == (
        "paper_timesformer: 1 clips x 3 crops of 8 frames 32 apart, 224x224; logits averaged"
    )
    # the name holds only as long as the views are the published ones
    other = choose_views(recipe, num_clips=2)
    assert other.protocol.name == "2x3 logits"
    assert str(other.protocol) == "2 clips x 3 crops of 8 frames 32 apart, 224x224; logits averaged"
    assert choose_views(recipe, num_crops=3).protocol.name == "paper_timesformer"
    assert choose_views(other, num_clips=1).protocol.name == "paper_timesformer"
    assert choose_views(RECIPE) == RECIPE


def test_views_are_chosen_by_number():
    recipe = choose_views(RECIPE, num_clips=5, num_crops=1, average="logits")
    assert recipe.protocol.name == "5x1 logits"
    for name in ("num_clips", "num_crops"):
        with pytest.raises(ValueError, match=f"{name}=0: give at least 1, or leave it out"):
            choose_views(RECIPE, **{name: 0})


def test_a_name_and_numbers_may_not_contradict():
    assert choose_views(RECIPE, protocol="videomae", num_clips=5).protocol.name == "videomae"
    with pytest.raises(ValueError, match="protocol videomae has num_clips=5, but num_clips=4 is given as well"):
        choose_views(RECIPE, protocol="videomae", num_clips=4)
    with pytest.raises(ValueError, match="has average=probabilities, but average=logits"):
        choose_views(RECIPE, protocol="videomae", average="logits")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sampling": "seconds", "target_fps": 4.0}, "8 frames at 4.0 a second"),
        ({"sampling": "segments"}, "8 frames, one a segment"),
    ],
)
def test_every_sampling_has_words(changes, text):
    assert text in str(dataclasses.replace(RECIPE, **changes).protocol)
