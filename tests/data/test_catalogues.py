"""The named data sets, each on a small tree made true to its official files."""

import json
from pathlib import Path

import pytest

from timesformer_plus.data.catalogues import READERS, read_manifest


def touch(root: Path, *names: str) -> Path:
    """Files with one byte in them; a name ending in a slash is a folder with one frame."""
    for name in names:
        path = root / name / "00001.jpg" if name.endswith("/") else root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def rows(manifest) -> list[tuple]:
    return [(s.id, s.path.as_posix().split("videos/", 1)[-1], s.label) for s in manifest.samples]


# ---------------------------------------------------------------------------------------------------------- Kinetics

KINETICS = (
    "label,youtube_id,time_start,time_end,split,is_cc\r\n"
    '"petting animal (not cat)",-3B32lodo2M,59,69,train,0\r\n'
    "massaging person's head,_dbcJuKJQNs,0,10,train,0\r\n"
    "abseiling,aaaaaaaaaaa,9999,10009,train,1\r\n"
    "abseiling,bbbbbbbbbbb,3,13,train,1\r\n"
    "abseiling,gone0000000,3,13,train,1\r\n\r\n"
)


def test_kinetics_official_csv_in_every_layout(tmp_path):
    path = write(tmp_path / "train.csv", "\ufeff" + KINETICS)
    videos = touch(
        tmp_path / "videos",
        "petting_animal_(not_cat)/-3B32lodo2M_000059_000069.mp4",
        "massaging persons head/_dbcJuKJQNs_000000_000010.WEBM",
        "train/abseiling/aaaaaaaaaaa.mkv",
        "bbbbbbbbbbb_000003_000013.mp4",
        "bbbbbbbbbbb_000003_000014.mp4",
    )
    manifest = read_manifest(path, format="kinetics", videos=videos)
    assert manifest.classes == ("abseiling", "massaging person's head", "petting animal (not cat)")
    assert rows(manifest) == [
        ("-3B32lodo2M_000059_000069", "petting_animal_(not_cat)/-3B32lodo2M_000059_000069.mp4", 2),
        ("_dbcJuKJQNs_000000_000010", "massaging persons head/_dbcJuKJQNs_000000_000010.WEBM", 1),
        ("aaaaaaaaaaa_009999_010009", "train/abseiling/aaaaaaaaaaa.mkv", 0),
        ("bbbbbbbbbbb_000003_000013", "bbbbbbbbbbb_000003_000013.mp4", 0),
    ]
    assert manifest.missing == (str(videos / "gone0000000_000003_000013.mp4"),)


def test_kinetics_700_calls_its_validation_split_validate(tmp_path):
    path = write(tmp_path / "v.csv", "label,youtube_id,time_start,time_end,split\na b,xxxxxxxxxxx,84,94,validate\n")
    videos = touch(tmp_path / "videos", "val/a_b/xxxxxxxxxxx_000084_000094.mp4", "train/a b/xxxxxxxxxxx.mp4")
    assert rows(read_manifest(path, format="kinetics", videos=videos))[0][1] == "val/a_b/xxxxxxxxxxx_000084_000094.mp4"


def test_kinetics_with_several_splits(tmp_path):
    text = "label,youtube_id,time_start,time_end,split\na,x,0,10,train\nb,y,0,10,val\n"
    path = write(tmp_path / "all.csv", text)
    touch(tmp_path, "x.mp4", "y.mp4")
    with pytest.raises(ValueError, match=r"holds the splits \['train', 'val'\]; choose one with target"):
        read_manifest(path, format="kinetics")
    assert [s.id for s in read_manifest(path, format="kinetics", target="val").samples] == ["y_000000_000010"]
    with pytest.raises(ValueError, match="target='test'"):
        read_manifest(path, format="kinetics", target="test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("youtube_id,time_start,time_end,split\nx,0,10,test\n", "has no column 'label', as the test split"),
        ("label,youtube_id,time_start,split\na,x,0,train\n", "no column 'time_end'"),
        ("label,youtube_id,time_start,time_end,split\na,x,0,10\n", "row 2: expected the 5 fields .* found 4"),
        ("label,youtube_id,time_start,time_end,split\na,x,zero,10,train\n", "row 2: expected an id and whole seconds"),
        ("label,youtube_id,time_start,time_end\na,x,0,10\nb,x,0,10\n", "row 3: 'x_000000_000010' stands in row 2"),
        ("label,youtube_id,time_start,time_end\n", "no class name"),
    ],
)
def test_kinetics_bad_rows(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(write(tmp_path / "a.csv", text), format="kinetics")


@pytest.mark.parametrize("mark", [" ", ",", "\t", ", "])
@pytest.mark.parametrize("format", ["list", "kinetics"])
def test_lists_in_circulation(tmp_path, mark, format):
    names = ["a/x y.mp4", "b, c/z.mp4", "frames/v1/", "gone.mp4"]
    touch(tmp_path, *names[:-1])
    lines = "\r\n".join(f"{name.rstrip('/')}{mark}{i + 1}" for i, name in enumerate(names))
    manifest = read_manifest(write(tmp_path / "train.txt", f"\ufeff{lines}\r\n\r\n"), format=format)
    assert manifest.classes == ("0", "1", "2", "3", "4")
    assert [(s.id, s.label) for s in manifest.samples] == [("a/x y.mp4", 1), ("b, c/z.mp4", 2), ("frames/v1", 3)]
    assert manifest.missing == (str(tmp_path / "gone.mp4"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 walk\n", "row 1: 'a.mp4 walk' is not a path and the number of a class"),
        ("path,label\na.mp4,0\n", "row 1: .*read with format csv"),
        ("a.mp4 0\n/etc/passwd 0\n", "row 2: path '/etc/passwd' leaves"),
        ("a.mp4 0\n../x.mp4 0\n", "row 2: path .* leaves"),
        ("a.mp4 0\na.mp4 1\n", "row 2: 'a.mp4' stands in row 1 already"),
        ("a.mp4 2\n", "row 1: label '2' is not one of the 2 classes .* of `classes`"),
        ("a.mp4 9999999999999999999\n", "row 1: .* is not a path and the number of a class"),
        ("a.mp4 ٣\n", "row 1: .* is not a path and the number of a class"),
        ("\n", "lists no video"),
    ],
)
def test_bad_lists(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(write(tmp_path / "a.txt", text), format="list", classes=["walk", "run"])


# ------------------------------------------------------------------------------------- Something-Something and Jester

TEMPLATES = {"Putting something on a surface": "1", "Moving part of something": "0", "Something falling": "2"}


def something_v2(folder: Path, entries: list) -> Path:
    write(folder / "labels.json", json.dumps(TEMPLATES))
    return write(folder / "train.json", json.dumps(entries))


def entry(number: int, template: str) -> dict:
    return {"id": str(number), "label": "putting a cup on a table", "template": template, "placeholders": ["a cup"]}


def test_something_v2(tmp_path):
    entries = [entry(78687, "Putting [something] on a surface"), entry(2, "Moving [part] of [something]"),
               entry(30, "[Something] falling"), entry(4, "[Something] falling")]  # fmt: skip
    videos = touch(tmp_path / "videos", "78687.webm", "2.mp4", "30/", "4.txt")
    manifest = read_manifest(something_v2(tmp_path, entries), format="something_v2", videos=videos)
    assert manifest.classes == ("Moving part of something", "Putting something on a surface", "Something falling")
    assert rows(manifest) == [("78687", "78687.webm", 1), ("2", "2.mp4", 0), ("30", "30", 2)]
    assert manifest.missing == (str(videos / "4"),)
    given = read_manifest(tmp_path / "train.json", format="something_v2", videos=videos, classes=manifest.classes[::-1])
    assert [s.label for s in given.samples] == [1, 2, 0]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"id": "1"}, {"id": "2"}], "has no labels, as the test split"),
        ([entry(1, "Moving [part] of [something]"), {"id": "2"}], "entry 2: has no template"),
        ([entry(1, "Moving part of [somethin]")], "row 1: label .*did you mean 'Moving part of something'"),
        ([entry(1, "[Something] falling")] * 2, "row 2: '1' stands in row 1 already"),
        ([entry(1, "[Something] falling") | {"id": "../1"}], "id '../1' is not a number"),
        ({"1": "a"}, "expected a list of objects with an id"),
        ([], "lists no video"),
    ],
)
def test_something_v2_bad_files(tmp_path, entries, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(something_v2(tmp_path, entries), format="something_v2")


def test_something_v2_bad_labels(tmp_path):
    path = something_v2(tmp_path, [entry(1, "[Something] falling")])
    write(tmp_path / "labels.json", json.dumps({"a": "0", "b": "2"}))
    with pytest.raises(ValueError, match=r"labels.json: the 2 classes must have the numbers 0 to 1"):
        read_manifest(path, format="something_v2")
    (tmp_path / "labels.json").unlink()
    with pytest.raises(ValueError, match=r"there is no labels.json or something-something-v2-labels.json"):
        read_manifest(path, format="something_v2")
    with pytest.raises(ValueError, match="not a JSON file"):
        read_manifest(write(tmp_path / "bad.json", "[" * 100_000), format="something_v2", classes=["a"])


@pytest.mark.parametrize(
    ("format", "prefix", "label"),
    [("something_v1", "something-something-v1", "Closing something"), ("jester", "jester-v1", "Swiping Left")],
)
def test_semicolon_files(tmp_path, format, prefix, label):
    write(tmp_path / f"{prefix}-labels.csv", f"No, another\r\n{label}\r\n")
    path = write(tmp_path / f"{prefix}-train.csv", f"100218;{label}\r\n7;No, another\r\n8;{label}\r\n9;{label}\r\n")
    videos = touch(tmp_path / "videos", "100218/", "7/", "8.avi")
    (videos / "9").mkdir()  # no image in it
    manifest = read_manifest(path, format=format, videos=videos)
    assert manifest.classes == ("No, another", label)
    assert rows(manifest) == [("100218", "100218", 1), ("7", "7", 0), ("8", "8.avi", 1)]
    assert manifest.missing == (str(videos / "9"),)
    with pytest.raises(ValueError, match=r"row 1: '100218' has no label .*test split"):
        read_manifest(write(tmp_path / "test.csv", "100218\n7\n"), format=format, videos=videos)
    with pytest.raises(ValueError, match="row 1: label 'Swiping' is not one of"):
        read_manifest(write(tmp_path / "bad.csv", "7;Swiping\n"), format=format, videos=videos)


# ------------------------------------------------------------------------------------------------- UCF101 and HMDB51


def ucf101(folder: Path) -> Path:
    write(folder / "classInd.txt", "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n\r\n")
    names = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01", "HandstandPushups/v_HandStandPushups_g08_c01"
    write(folder / "trainlist01.txt", f"{names[0]}.avi 1\r\n{names[1]}.avi 2\r\n{names[1][:-1]}2.avi 2\r\n")
    write(folder / "testlist01.txt", f"{names[1][:-1]}3.avi\n{names[0][:-1]}4.avi\n")
    touch(folder / "videos", f"{names[0]}.avi", f"{names[1].split('/')[1]}.mp4", f"{names[1][:-1]}3/")
    return folder


def test_ucf101(tmp_path):
    ucf101(tmp_path)
    manifest = read_manifest(tmp_path / "trainlist01.txt", format="ucf101", videos=tmp_path / "videos")
    assert manifest.classes == ("ApplyEyeMakeup", "HandstandPushups")
    assert rows(manifest) == [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", 0),
        ("HandstandPushups/v_HandStandPushups_g08_c01.avi", "v_HandStandPushups_g08_c01.mp4", 1),
    ]
    assert [s.group for s in manifest.samples] == ["ApplyEyeMakeup/g08", "HandstandPushups/g08"]
    assert manifest.missing == (str(tmp_path / "videos/HandstandPushups/v_HandStandPushups_g08_c02.avi"),)
    test = read_manifest(tmp_path / "testlist01.txt", format="ucf101", videos=tmp_path / "videos")
    assert [s.label for s in test.samples] == [1]
    assert len(test.missing) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 2", "ApplyEyeMakeup is class 1 of .*classInd.txt, not 2"),
        ("Archery/v_Archery_g01_c01.avi 3", "label 'Archery' is not one of the 2 classes"),
        ("/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1", "leaves"),
        ("../v_ApplyEyeMakeup_g08_c01.avi 1", "leaves"),
        ("ApplyEyeMakeup/clip.avi 1", "is not of the form"),
        ("v_ApplyEyeMakeup_g08_c01.avi 1", "is not of the form"),
        ("HandstandPushups/v_HandStandPushups_g08_c01.avi 2", "stands in row 2 already"),
    ],
)
def test_ucf101_bad_rows(tmp_path, line, message):
    path = ucf101(tmp_path) / "trainlist01.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=f"row 4: .*{message}"):
        read_manifest(path, format="ucf101")


def hmdb51(folder: Path) -> Path:
    splits = folder / "splits"
    write(
        splits / "wave_test_split1.txt", "winKen_wave_u_cm_np1_ri_bad_1.avi 1 \nother_wave_f_nm_np1_fr_goo_0.avi 2 \n"
    )
    lines = [f"April_09_brush_hair_u_nm_np1_ba_goo_{i}.avi {i} " for i in range(3)]
    write(splits / "brush_hair_test_split1.txt", "\r\n".join(lines))
    write(splits / "brush_hair_test_split2.txt", "x_brush_hair_u_nm_np1_ba_goo_1.avi 1 \n")
    touch(folder / "videos", *(f"brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_{i}.avi" for i in range(3)))
    touch(folder / "videos", "winKen_wave_u_cm_np1_ri_bad_1.mp4")
    return splits


def test_hmdb51(tmp_path):
    splits, videos = hmdb51(tmp_path), tmp_path / "videos"
    train = read_manifest(splits / "split1/train", format="hmdb51", videos=videos)
    assert train.classes == ("brush_hair", "wave")
    assert rows(train) == [
        ("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_1.avi",) * 2 + (0,),
        ("wave/winKen_wave_u_cm_np1_ri_bad_1.avi", "winKen_wave_u_cm_np1_ri_bad_1.mp4", 1),
    ]
    assert [s.group for s in train.samples] == ["brush_hair/April_09_brush_hair", "wave/winKen_wave"]
    test = read_manifest(splits / "split1/test", format="hmdb51", videos=videos)
    assert [s.id[-5:] for s in test.samples] == ["2.avi"]
    assert test.missing == (str(videos / "wave/other_wave_f_nm_np1_fr_goo_0.avi"),)
    assert [s.id[-5:] for s in read_manifest(splits / "split1/unused", format="hmdb51", videos=videos).samples] == [
        "0.avi"
    ]


@pytest.mark.parametrize(
    ("path", "line", "message"),
    [
        ("splits", "", "give the folder of the split files, the split and the part"),
        ("splits/split4/train", "", "give the folder"),
        ("splits/split1/val", "", "give the folder"),
        ("splits/split3/train", "", "no file named like brush_hair_test_split3.txt"),
        ("splits/split1/train", "a_wave_u_cm_np1_ri_bad_1.avi 3", "row 3: .* is not a name and 0, 1 or 2"),
        ("splits/split1/train", "a.avi", "row 3: .* is not a name and 0, 1 or 2"),
        ("splits/split1/train", "../../x.avi 1", "row 3: path .* leaves"),
        ("splits/split1/train", "winKen_wave_u_cm_np1_ri_bad_1.avi 1", "stands in row"),
    ],
)
def test_hmdb51_bad_files(tmp_path, path, line, message):
    splits = hmdb51(tmp_path)
    with (splits / "wave_test_split1.txt").open("a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / path, format="hmdb51", videos=tmp_path / "videos")


# ------------------------------------------------------------------------------------ Diving48 and Moments in Time


def diving48(folder: Path, entries) -> Path:
    write(folder / "Diving48_vocab.json", '[["Back","15som","05Twis","FREE"],["Back","15som","15Twis","FREE"]]')
    return write(folder / "Diving48_V2_train.json", json.dumps(entries))


def test_diving48(tmp_path):
    entries = [{"vid_name": "-mXkyS8HVWg_00000", "label": 1, "start_frame": 0, "end_frame": 99},
               {"vid_name": "gone_00001", "label": 0, "start_frame": 0, "end_frame": 1}]  # fmt: skip
    videos = touch(tmp_path / "videos", "-mXkyS8HVWg_00000.mp4")
    manifest = read_manifest(diving48(tmp_path, entries), format="diving48", videos=videos)
    assert manifest.classes == ("Back 15som 05Twis FREE", "Back 15som 15Twis FREE")
    assert rows(manifest) == [("-mXkyS8HVWg_00000", "-mXkyS8HVWg_00000.mp4", 1)]
    assert manifest.missing == (str(videos / "gone_00001.mp4"),)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"vid_name": "a", "label": 2}], "entry 1: label '2' is not one of the 2 classes .*Diving48_vocab.json"),
        ([{"vid_name": "a", "label": "1"}], "entry 1: expected an object"),
        ([{"vid_name": "a", "label": True}], "entry 1: expected an object"),
        ([{"vid_name": "a"}], "entry 1: expected an object"),
        ([{"vid_name": "a", "label": 0}] * 2, "row 2: 'a' stands in row 1"),
        ({}, "expected a list"),
    ],
)
def test_diving48_bad_files(tmp_path, entries, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(diving48(tmp_path, entries), format="diving48")


@pytest.mark.parametrize("above", [True, False])
def test_moments(tmp_path, above):
    write(tmp_path / "moments_categories.txt", "playing+music,1\nclapping,0\n")
    text = (
        "clapping/getty-x.mp4,clapping,3,1\r\nplaying+music/yt-5of6ffo6-Bw_205.mp4,playing+music,4,0\r\na/b.mp4,1,3,0"
    )
    path = write(tmp_path / "trainingSet.csv", text)
    videos = tmp_path / "videos" / ("training" if above else "")
    touch(videos, "clapping/getty-x.mp4", "playing+music/yt-5of6ffo6-Bw_205.mp4")
    manifest = read_manifest(path, format="moments", videos=tmp_path / "videos")
    assert manifest.classes == ("clapping", "playing+music")
    assert [(s.id, s.path, s.label) for s in manifest.samples] == [
        ("clapping/getty-x.mp4", videos / "clapping/getty-x.mp4", 0),
        ("playing+music/yt-5of6ffo6-Bw_205.mp4", videos / "playing+music/yt-5of6ffo6-Bw_205.mp4", 1),
    ]
    assert manifest.missing == (str(videos / "a/b.mp4"),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.mp4", "row 2: expected path,label"),
        ("a.mp4,claping,1,1", "row 2: label 'claping'.*did you mean 'clapping'"),
        ("/a.mp4,clapping,1,1", "row 2: path .* leaves"),
        ("x.mp4,clapping,1,1", "row 2: 'x.mp4' stands in row 1"),
        (",clapping,1,1", "row 2: the path is empty"),
    ],
)
def test_moments_bad_rows(tmp_path, line, message):
    write(tmp_path / "moments_categories.txt", "clapping,0\n")
    path = write(tmp_path / "trainingSet.csv", f"x.mp4,clapping,3,1\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_manifest(path, format="moments")


# ------------------------------------------------------------------------------------------------- EPIC-KITCHENS-100

EPIC_HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)


def epic_row(part: str, video: str = "P03_02", start="00:00:03.29", stop="00:01:04.26", verb=1, noun=2) -> str:
    return (
        f"{part},{video[:3]},{video},00:00:04.310,{start},{stop},197,255,put lunch box,put-on,{verb},box:lunch,{noun},"
        f"\"['box:lunch', 'bin']\",\"[{noun}, 0]\"\n"
    )


def epic(folder: Path) -> Path:
    write(
        folder / "EPIC_100_verb_classes.csv",
        "id,key,instances,category\n0,take,\"['take', 'get']\",r\n1,put,['put'],l\n",
    )
    nouns = (
        '"id","key","instances","category"\n0,"tap","[\'tap\']","a"\n1,"spoon","[]","c"\n2,"board:chopping","[]","u"\n'
    )
    write(folder / "EPIC_100_noun_classes.csv", nouns)
    train = epic_row("P03_02_0") + epic_row("P03_02_1", start="01:00:00.5", stop="01:00:01", verb=0, noun=2)
    write(folder / "EPIC_100_train.csv", EPIC_HEADER + train + epic_row("P01_101_0", "P01_101", verb=0, noun=0))
    write(folder / "EPIC_100_validation.csv", EPIC_HEADER + epic_row("P02_05_7", "P02_05", verb=1, noun=1))
    touch(folder / "videos", "P03/videos/P03_02.MP4", "P02_05.mp4")
    return folder


def test_epic_kitchens(tmp_path):
    epic(tmp_path)
    options = {"format": "epic_kitchens", "videos": tmp_path / "videos"}
    verbs = read_manifest(tmp_path / "EPIC_100_train.csv", **options, target="verb")
    assert verbs.classes == ("take", "put")
    assert rows(verbs) == [("P03_02_0", "P03/videos/P03_02.MP4", 1), ("P03_02_1", "P03/videos/P03_02.MP4", 0)]
    assert [(s.start, s.end, s.group) for s in verbs.samples] == [(3.29, 64.26, "P03_02"), (3600.5, 3601.0, "P03_02")]
    assert verbs.missing == (str(tmp_path / "videos/P01/videos/P01_101.MP4"),)
    nouns = read_manifest(tmp_path / "EPIC_100_train.csv", **options, target="noun")
    assert nouns.classes == ("tap", "spoon", "board:chopping")
    assert [s.label for s in nouns.samples] == [2, 2]


def test_epic_kitchens_actions_are_the_same_in_both_splits(tmp_path):
    epic(tmp_path)
    options = {"format": "epic_kitchens", "videos": tmp_path / "videos", "target": "action"}
    train = read_manifest(tmp_path / "EPIC_100_train.csv", **options)
    val = read_manifest(tmp_path / "EPIC_100_validation.csv", **options)
    assert train.classes == val.classes == ("take tap", "take board:chopping", "put spoon", "put board:chopping")
    assert [s.label for s in train.samples] == [3, 1]
    assert [(s.path.name, s.label) for s in val.samples] == [("P02_05.mp4", 2)]
    (tmp_path / "EPIC_100_validation.csv").rename(tmp_path / "mine.csv")
    (tmp_path / "EPIC_100_train.csv").unlink()
    assert read_manifest(tmp_path / "mine.csv", **options).classes == ("put spoon",)
    with pytest.raises(ValueError, match="label 'put spoon' is not one of the 1 classes"):
        read_manifest(tmp_path / "mine.csv", **options, classes=["take tap"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uid,narration_id,participant_id,video_id,start_timestamp,stop_timestamp\n", "as the test split"),
        (EPIC_HEADER + epic_row("a", stop="00:00:03.29"), "row 2: the part from 3.29 s to 3.29 s has no length"),
        (EPIC_HEADER + epic_row("a", start="3.29"), "row 2: time '3.29' is not of the form"),
        (EPIC_HEADER + epic_row("a", verb=2), "row 2: there is no verb 2; .* has 2"),
        (EPIC_HEADER + epic_row("a", verb="put"), "row 2: verb_class 'put' and noun_class '2' must be numbers"),
        (EPIC_HEADER + epic_row("a") * 2, "row 3: 'a' stands in row 2"),
        (EPIC_HEADER + "a,b\n", "row 2: expected the 15 fields"),
        ("a,b\n", "no column 'narration_id'"),
    ],
)
def test_epic_kitchens_bad_files(tmp_path, text, message):
    epic(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_manifest(write(tmp_path / "a.csv", text), format="epic_kitchens", target="verb")


def test_epic_kitchens_needs_a_target_and_class_files(tmp_path):
    path = epic(tmp_path) / "EPIC_100_train.csv"
    with pytest.raises(ValueError, match=r"target=None: .* has the labels verb, noun, action"):
        read_manifest(path, format="epic_kitchens")
    (tmp_path / "EPIC_100_verb_classes.csv").unlink()
    with pytest.raises(ValueError, match=r"there is no EPIC_100_verb_classes\.csv"):
        read_manifest(path, format="epic_kitchens", target="action")


# ---------------------------------------------------------------------------------------------------------- Charades

CHARADES = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"


def charades(folder: Path, *rows: str) -> Path:
    write(folder / "Charades_v1_classes.txt", "c000 Holding some clothes\nc001 Putting clothes somewhere\nc147 A, b\n")
    return write(folder / "Charades_v1_train.csv", CHARADES + "".join(rows))


def charades_row(name: str, actions: str) -> str:
    return f'{name},HR43,Kitchen,6,7,Yes,"A person, cooks.",food,"He; stands, then ""sits""",{actions},24.83\n'


def test_charades(tmp_path):
    path = charades(tmp_path, charades_row("46GP8", "c147 11.90 21.20;c000 0.00 12.60;c000 20 30"),
                    charades_row("7UPGT", ""), charades_row("GONE1", "c001 0.00 1.00"))  # fmt: skip
    videos = touch(tmp_path / "videos", "46GP8.mp4", "7UPGT.mp4")
    manifest = read_manifest(path, format="charades", videos=videos, multi_label=True)
    assert manifest.multi_label
    assert manifest.classes == ("c000 Holding some clothes", "c001 Putting clothes somewhere", "c147 A, b")
    assert rows(manifest) == [("46GP8", "46GP8.mp4", (1, 0, 1)), ("7UPGT", "7UPGT.mp4", (0, 0, 0))]
    assert {s.group for s in manifest.samples} == {"HR43"}
    assert manifest.missing == (str(videos / "GONE1.mp4"),)
    with pytest.raises(ValueError, match="several labels each; set multi_label"):
        read_manifest(path, format="charades", videos=videos)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (charades_row("A", "c002 0.00 1.00"), "row 2: there is no action c002"),
        (charades_row("A", "c000"), "row 2: action 'c000' is not of the form"),
        (charades_row("A", "") * 2, "row 3: 'A' stands in row 2"),
        ("A,B\n", "row 2: expected the 11 fields"),
    ],
)
def test_charades_bad_rows(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(charades(tmp_path, row), format="charades", multi_label=True)


# ---------------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("format", sorted(READERS))
def test_no_option_is_ignored(tmp_path, format):
    """Every reader takes every option, and refuses those that it has no use for before it reads anything."""
    (tmp_path / "videos").mkdir()
    used = {"kinetics": {"target"}, "webdataset": {"target", "multi_label"}, "csv": {"multi_label"},
            "jsonl": {"multi_label"}, "epic_kitchens": {"target"}, "charades": {"multi_label"}}  # fmt: skip
    for option, value in {"target": "thing", "multi_label": True}.items():
        if option not in used.get(format, set()):
            path = write(tmp_path / "list.txt", "a.mp4 1\n")
            with pytest.raises(ValueError, match=f"{option}.*leave it out"):
                READERS[format](path, videos=tmp_path / "videos", **{option: value})


@pytest.mark.parametrize("format", sorted(READERS))
def test_annotations_or_videos_that_are_not_there(tmp_path, format):
    options = {"multi_label": True} if format == "charades" else {"target": "verb"} if format == "epic_kitchens" else {}
    with pytest.raises(ValueError, match=r"there is no|not there|give the folder"):
        read_manifest(tmp_path / "none.x", format=format, videos=tmp_path, **options)


def test_videos_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="there is no such folder; give the folder that the videos lie in"):
        read_manifest(write(tmp_path / "a.txt", "a.mp4 1\n"), format="list", videos=tmp_path / "none")


def test_formats_by_name(tmp_path):
    with pytest.raises(ValueError, match="format='imagenet' is unknown; allowed are auto, csv, jsonl, folder"):
        read_manifest(tmp_path, format="imagenet")
    with pytest.raises(ValueError, match="the format cannot be told from the name"):
        read_manifest(write(tmp_path / "a.parquet", "x"))


@pytest.mark.parametrize("name", ["my_videos", "a.parquet", "a/b/train.txt", "a.csv", "a.jsonl", "a.tar", "{a,b}.tar"])
def test_what_is_not_there_is_said_to_be_not_there(tmp_path, name):
    with pytest.raises(ValueError, match=r"there is no such|not there, first"):
        read_manifest(tmp_path / name)
