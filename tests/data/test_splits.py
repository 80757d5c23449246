"""What is asked of splits before training: that they are whole, and that they share no recording."""

from pathlib import Path

import pytest

from timesformer_plus.data.manifests import Manifest, Member, Sample, without
from timesformer_plus.data.splits import (
    Coverage,
    Leak,
    check_classes,
    check_coverage,
    check_leaks,
    coverage,
    find_leaks,
)


def manifest(*samples: Sample, missing: tuple[str, ...] = ()) -> Manifest:
    return Manifest(samples, ("a", "b"), multi_label=False, missing=missing)


def sample(name: str, **fields) -> Sample:
    return Sample(name, Path("videos") / name, 0, **fields)


def test_coverage_is_reported():
    one = manifest(*(sample(str(i)) for i in range(195)), missing=tuple(f"/v/{i}.mp4" for i in range(5)))
    assert check_coverage(one, "train", 0.025) == "train: 200 expected, 195 found, 5 missing"
    assert check_coverage(manifest(sample("a")), "val") == "val: 1 expected, 1 found, 0 missing"


def test_too_much_missing_is_refused_with_the_first_and_the_remedy():
    one = manifest(*(sample(str(i)) for i in range(195)), missing=tuple(f"/v/{i}.mp4" for i in range(5)))
    with pytest.raises(
        ValueError, match=r"200 expected, 195 found, 5 missing; first /v/0.mp4; /v/1.mp4; /v/2.mp4; \.\.\."
    ):
        check_coverage(one, "train", 0.0249)
    with pytest.raises(ValueError, match=r"raise max_missing to at least 0\.025 "):
        check_coverage(one, "train")
    with pytest.raises(ValueError, match="none is there: the folder of the videos is probably another one"):
        check_coverage(manifest(missing=("/v/0.mp4",)), "train", 1.0)


def test_nothing_left_of_a_split_says_so():
    one = without(manifest(sample("a"), sample("b")), ["a", "b"])
    with pytest.raises(
        ValueError, match=r"^test: 0 expected, 0 found, 0 missing\. Nothing is left in the split"
    ) as caught:
        check_coverage(one, "test", 1.0)
    assert "folder" not in str(caught.value)


def test_coverage_as_numbers():
    assert coverage(manifest(sample("a"), missing=("b", "c"))) == Coverage(expected=3, found=1, missing=2)
    assert coverage(manifest()) == Coverage(0, 0, 0)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), 5])
def test_max_missing_is_a_share(value):
    with pytest.raises(ValueError, match="is not a share"):
        check_coverage(manifest(sample("a")), "train", value)


@pytest.mark.parametrize(("missing", "expected"), [(1, 3), (1, 7), (2, 3), (333, 1000), (1, 1001)])
def test_the_share_that_the_remedy_names_is_enough(missing, expected):
    one = manifest(*(sample(str(i)) for i in range(expected - missing)), missing=("x",) * missing)
    with pytest.raises(ValueError, match="at least") as caught:
        check_coverage(one, "train")
    share = float(str(caught.value).split("at least ")[1].split()[0])
    assert check_coverage(one, "train", share)


def test_leaks_by_file_by_group_and_by_member():
    train = manifest(sample("a"), sample("b", group="g"), sample("c"), sample("d", group=""))
    val = manifest(sample("e", group="g"), sample("f", group="g"), sample("c"))
    assert find_leaks({"train": train, "val": val}) == [
        Leak("group 'g'", "train", "val"),
        Leak("videos/c", "train", "val"),
    ]
    with pytest.raises(ValueError, match="2 leaks between splits: group 'g' is in train and val; videos/c is in train"):
        check_leaks({"train": train, "val": val})
    check_leaks({"train": train, "test": manifest(sample("g"), sample("h"))})


def test_a_shard_may_serve_two_splits_but_a_member_may_not():
    shard = Path("a.tar")
    first, second = (Sample(n, shard, 0, member=Member(n, i, 1)) for i, n in enumerate(("0.mp4", "1.mp4")))
    check_leaks({"train": manifest(first), "val": manifest(second)})
    with pytest.raises(ValueError, match=r"a\.tar 0\.mp4 is in train and val"):
        check_leaks({"train": manifest(first), "val": manifest(second, first)})


def test_parts_of_one_video_in_two_splits_are_a_leak():
    first = Sample("a#t=0,1", Path("a"), 0, start=0, end=1)
    second = Sample("a#t=1,2", Path("a"), 0, start=1, end=2)
    with pytest.raises(ValueError, match="a is in train and val"):
        check_leaks({"train": manifest(first), "val": manifest(second)})


def test_leaks_by_content():
    """A copy under another name is a leak; what one split holds twice, or what was never hashed, is none."""
    contents = {"a": "1", "copy of a": "1", "b": "2", "again b": "2", "c": "", "d": None}
    train = manifest(sample("a"), sample("b"), sample("again b"), sample("c"))
    val = manifest(sample("copy of a"), sample("d"), sample("e"))
    splits = {"train": train, "val": val}
    assert find_leaks(splits) == []
    leak = Leak("the content of videos/a and videos/copy of a", "train", "val")
    assert find_leaks(splits, lambda sample: contents.get(sample.id)) == [leak]
    check_leaks(splits)
    with pytest.raises(
        ValueError, match="1 leaks between splits: the content of videos/a and videos/copy of a is in tra"
    ):
        check_leaks(splits, lambda sample: contents.get(sample.id))


def test_a_file_in_two_splits_is_one_leak_and_its_copy_another():
    splits = {"train": manifest(sample("a")), "val": manifest(sample("a"), sample("b"))}
    assert find_leaks({"train": splits["train"], "val": manifest(sample("a"))}, lambda _: "1") == [
        Leak("videos/a", "train", "val")
    ]
    assert find_leaks(splits, lambda _: "1") == [
        Leak("videos/a", "train", "val"),
        Leak("the content of videos/a and videos/b", "train", "val"),
    ]


def test_members_with_the_same_content_are_a_leak():
    first, second = (Sample(n, Path("a.tar"), 0, member=Member(n, i, 1)) for i, n in enumerate(("0.mp4", "1.mp4")))
    leaks = find_leaks({"train": manifest(first), "test": manifest(second)}, lambda _: "1")
    assert leaks == [Leak("the content of a.tar 0.mp4 and a.tar 1.mp4", "train", "test")]


def test_without():
    one = manifest(
        sample("a", pair="p"), sample("b", pair="p"), sample("c", pair="q"), sample("d", pair="q"), sample("e")
    )
    rest = without(one, ["b", "e", "of another split"])
    assert [(s.id, s.pair) for s in rest.samples] == [("a", ""), ("c", "q"), ("d", "q")]
    assert rest.classes == one.classes
    assert without(one, []) == one


def test_class_without_a_video_is_refused_by_name():
    samples = (sample("0"), Sample("1", Path("1"), 1))
    check_classes(Manifest(samples, ("a", "b"), multi_label=False), "train")
    with pytest.raises(ValueError, match=r"^train: 8 of 10 classes have no video: c, d, e, f, g and 3 more; add some"):
        check_classes(Manifest(samples, tuple("abcdefghij"), multi_label=False), "train")
    bits = (Sample("0", Path("0"), (1, 0)),)
    with pytest.raises(ValueError, match="1 of 2 classes have no video: b; add"):
        check_classes(Manifest(bits, ("a", "b"), multi_label=True), "train")


def test_every_copy_of_a_video_is_a_leak_by_itself():
    train, val = manifest(sample("a.mp4")), manifest(sample("b.mp4"), sample("c.mp4"))
    leaks = find_leaks({"train": train, "val": val}, lambda _: "the same bytes")
    assert [leak.what for leak in leaks] == [
        f"the content of {Path('videos/a.mp4')} and {Path('videos') / name}" for name in ("b.mp4", "c.mp4")
    ]
