"""A data set of every format, as small as can be, for what is asked of all of them.

Training has a video of Walk, one of Run and two of Jump; validation one of Jump and one of Run, as a split may lack a
class. All videos are there. Numbers of classes follow ``order``, the order of the names in the set's own file.
"""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

SHOWN = {"train": ("Walk", "Run", "Jump", "Jump"), "val": ("Jump", "Run")}


class SmallSet(NamedTuple):
    """Annotations of the two splits, and what the reader is told.

    Attributes:
        train: Annotations of training.
        val: Annotations of validation.
        paths: Texts in the training annotations each of which stands for the place of its second video, or a part of
            it. None where paths are not written down.
        options: What ``read_manifest`` is given beside the annotations.
    """

    train: Path
    val: Path
    paths: tuple[str, ...]
    options: dict


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def videos(folder: Path, name: Callable[[str, int, str], str]) -> dict[str, list[tuple[str, str]]]:
    """Split -> (path, class) of its videos; they are numbered through."""
    listed: dict[str, list[tuple[str, str]]] = {}
    number = 0
    for split, shown in SHOWN.items():
        for label in shown:
            number += 1
            path = name(label, number, split)
            write(folder / "videos" / path, split + str(number))
            listed.setdefault(split, []).append((path, label))
    return listed


def lines(folder: Path, name: str, texts: Sequence[str], header: str = "") -> Path:
    return write(folder / name, "".join(f"{text}\n" for text in ([header] if header else []) + list(texts)))


def options(folder: Path, format: str, **more) -> dict:
    return {"format": format, "videos": folder / "videos", **more}


def of_rows(format: str, row: Callable[[str, str, list[str]], str], header: str = "", own: bool = True, **more):
    """A format with a path and a label in every row, and classes.txt beside it."""

    def build(folder: Path, order: list[str]) -> SmallSet:
        listed = videos(folder, lambda label, number, _: f"{label}/{number}.mp4")
        if own:
            lines(folder, "classes.txt", order)
        files = [lines(folder, f"{split}.txt", [row(path, label, order) for path, label in rows], header)
                 for split, rows in listed.items()]  # fmt: skip
        return SmallSet(*files, ("Run/2.mp4",), options(folder, format, **more))

    return build


def folder_per_class(folder: Path, _order: list[str]) -> SmallSet:
    videos(folder, lambda label, number, split: f"{split}/{label}/{number}.mp4")
    return SmallSet(folder / "videos/train", folder / "videos/val", (), {"format": "folder"})


def shards(folder: Path, order: list[str]) -> SmallSet:
    lines(folder, "classes.txt", order)
    for split, shown in SHOWN.items():
        with tarfile.open(folder / f"{split}.tar", "w") as tar:
            for number, label in enumerate(shown):
                for suffix, text in ((".mp4", split + str(number)), (".cls", str(order.index(label)))):
                    info = tarfile.TarInfo(str(number) + suffix)
                    info.size = len(text)
                    tar.addfile(info, io.BytesIO(text.encode()))
    return SmallSet(folder / "train.tar", folder / "val.tar", (), {"format": "webdataset"})


def kinetics(folder: Path, _order: list[str]) -> SmallSet:
    listed = videos(folder, lambda label, number, _: f"{label}/id{number}_000001_000011.mp4")
    rows = {split: [f"{label},{path.split('/')[1][:3]},1,11,{split}" for path, label in some]
            for split, some in listed.items()}  # fmt: skip
    header = "label,youtube_id,time_start,time_end,split"
    files = [lines(folder, f"{split}.csv", texts, header) for split, texts in rows.items()]
    return SmallSet(*files, ("id2",), options(folder, "kinetics"))


def something_v2(folder: Path, order: list[str]) -> SmallSet:
    listed = videos(folder, lambda _, number, __: f"{number}77.webm")
    write(folder / "labels.json", json.dumps({name: str(i) for i, name in enumerate(order)}))
    files = [write(folder / f"{split}.json", json.dumps([{"id": path[:-5], "template": f"[{label}]"}
             for path, label in rows])) for split, rows in listed.items()]  # fmt: skip
    return SmallSet(*files, ("277",), options(folder, "something_v2"))


def semicolons(format: str, prefix: str):
    def build(folder: Path, order: list[str]) -> SmallSet:
        listed = videos(folder, lambda _, number, __: f"{number}77/00001.jpg")
        lines(folder, f"{prefix}-labels.csv", order)
        files = [lines(folder, f"{prefix}-{split}.csv", [f"{path.split('/')[0]};{label}" for path, label in rows])
                 for split, rows in listed.items()]  # fmt: skip
        return SmallSet(*files, ("277",), options(folder, format))

    return build


def ucf101(folder: Path, order: list[str]) -> SmallSet:
    listed = videos(folder, lambda label, number, _: f"{label}/v_{label}_g0{number}_c01.avi")
    lines(folder, "classInd.txt", [f"{i} {name}" for i, name in enumerate(order, 1)])
    train = [f"{path} {order.index(label) + 1}" for path, label in listed["train"]]
    files = lines(folder, "trainlist01.txt", train), lines(folder, "testlist01.txt", [row[0] for row in listed["val"]])
    return SmallSet(*files, ("Run/v_Run_g02_c01.avi",), options(folder, "ucf101"))


def hmdb51(folder: Path, order: list[str]) -> SmallSet:
    listed = videos(folder, lambda label, number, _: f"{label}/film{number}_{label}_u_cm_np1_ri_bad_1.avi")
    marked = [(path, label, mark) for split, mark in (("train", 1), ("val", 2)) for path, label in listed[split]]
    for name in order:
        texts = [f"{path.split('/')[1]} {mark} " for path, label, mark in marked if label == name]
        lines(folder, f"splits/{name}_test_split1.txt", texts)
    split = folder / "splits/split1"
    return SmallSet(split / "train", split / "test", (), options(folder, "hmdb51"))


def diving48(folder: Path, order: list[str]) -> SmallSet:
    listed = videos(folder, lambda _, number, __: f"dive_{number}.mp4")
    write(folder / "Diving48_vocab.json", json.dumps([[name] for name in order]))
    files = [write(folder / f"{split}.json", json.dumps([{"vid_name": path[:-4], "label": order.index(label)}
             for path, label in rows])) for split, rows in listed.items()]  # fmt: skip
    return SmallSet(*files, ("dive_2",), options(folder, "diving48"))


def moments(folder: Path, order: list[str]) -> SmallSet:
    listed = videos(folder, lambda label, number, _: f"{label}/{number}.mp4")
    lines(folder, "moments_categories.txt", [f"{name},{i}" for i, name in enumerate(order)])
    files = [lines(folder, f"{split}.csv", [f"{path},{label},3,1" for path, label in rows])
             for split, rows in listed.items()]  # fmt: skip
    return SmallSet(*files, ("Run/2.mp4",), options(folder, "moments"))


def epic_kitchens(target: str):
    def build(folder: Path, order: list[str]) -> SmallSet:
        listed = videos(folder, lambda _, number, __: f"P0{number}/videos/P0{number}_01.MP4")
        lines(folder, "EPIC_100_verb_classes.csv", [f"{i},{name}" for i, name in enumerate(order)], "id,key")
        lines(folder, "EPIC_100_noun_classes.csv", ["0,tap", "1,cup"], "id,key")
        header = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class"
        files = []
        for split, name in (("train", "EPIC_100_train.csv"), ("val", "EPIC_100_validation.csv")):
            texts = [f"{split} {i},{path[:3]},{Path(path).stem},00:00:01.5,00:00:02,{order.index(label)},{i % 2}"
                     for i, (path, label) in enumerate(listed[split])]  # fmt: skip
            files.append(lines(folder, name, texts, header))
        return SmallSet(*files, ("P02_01", "P02"), options(folder, "epic_kitchens", target=target))

    return build


def charades(folder: Path, order: list[str]) -> SmallSet:
    listed = videos(folder, lambda _, number, __: f"ABC0{number}.mp4")
    codes = {"Walk": "c000", "Run": "c007", "Jump": "c156"}
    lines(folder, "Charades_v1_classes.txt", [f"{codes[name]} {name}" for name in order])
    files = [lines(folder, f"{split}.csv", [f"{path[:-4]},HR43,{codes[label]} 0.0 1.5" for path, label in rows],
             "id,subject,actions") for split, rows in listed.items()]  # fmt: skip
    return SmallSet(*files, ("ABC02",), options(folder, "charades", multi_label=True))


def _number(label: str, order: list[str]) -> str:
    return str(order.index(label))


# The folder of the set, the order of its own class names -> the set.
SETS: dict[str, Callable[[Path, list[str]], SmallSet]] = {
    "csv": of_rows("csv", lambda path, label, order: f"{path},{_number(label, order)}", "path,label"),
    "csv names": of_rows("csv", lambda path, label, _: f"{path},{label}", "path,label", own=False),
    "csv multi": of_rows(
        "csv", lambda path, label, order: f"{path},{_number(label, order)}", "path,label", multi_label=True
    ),
    "jsonl": of_rows("jsonl", lambda path, label, order: json.dumps({"path": path, "label": order.index(label)})),
    "list": of_rows("list", lambda path, label, order: f"{path} {_number(label, order)}"),
    "kinetics list": of_rows("kinetics", lambda path, label, order: f"{path} {_number(label, order)}"),
    "kinetics": kinetics,
    "folder": folder_per_class,
    "webdataset": shards,
    "something_v1": semicolons("something_v1", "something-something-v1"),
    "something_v2": something_v2,
    "jester": semicolons("jester", "jester-v1"),
    "ucf101": ucf101,
    "hmdb51": hmdb51,
    "diving48": diving48,
    "moments": moments,
    "epic_kitchens": epic_kitchens("verb"),
    "epic_kitchens actions": epic_kitchens("action"),
    "charades": charades,
}
