"""Compute every score again from a file of predictions, and hold it against what an evaluation has reported.

    python tools/rescore.py runs/mine/predictions/test.npz --result runs/mine/result.json

A second opinion: nothing here but numpy and the standard library, and nothing shared with the package, whose
engine/predictions.py describes the file. --result takes the result.json of a training, of which the split that the file
is named after is looked at, or the --output of tools/evaluate.py. Besides the scores, what the result says about the
protocol, the videos that could not be read, their number and the confusion matrix has to be what the file says. Exit
code: 0 if all agree, scores to 1e-9, 1 if not.
"""

import argparse
import json
import sys
from itertools import groupby
from pathlib import Path

import numpy as np

TOLERANCE = 1e-9


def probabilities_of(logits, average, multi_label):
    """What the views of one video, (V, K), come to together, (K,)."""

    def squash(x):
        if multi_label:
            small = np.exp(-np.abs(x))
            return np.where(x >= 0, 1.0, small) / (1 + small)
        powers = np.exp(x - x.max())
        return powers / powers.sum()

    views = [row.astype(np.float64) for row in logits]
    if average == "logits":
        return squash(sum(views) / len(views))
    return sum(squash(row) for row in views) / len(views)


def nats_of(logits, label, average, multi_label):
    """Minus the logarithm of what one video's views, (V, K), give to what is true: a number, or one for every class."""

    def log_chance(x):
        if multi_label:
            x = np.where(label > 0, x, -x)
            return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))
        return x[label] - x.max() - np.log(np.exp(x - x.max()).sum())

    views = [row.astype(np.float64) for row in logits]
    if average == "logits":
        return -log_chance(sum(views) / len(views))
    chances = np.array([log_chance(row) for row in views])
    most = chances.max(axis=0)
    return np.log(len(views)) - most - np.log(np.exp(chances - most).sum(axis=0))


def settle(p):
    """Probabilities as they are compared: to ten decimals of their logarithm, so that no last bit decides."""
    return np.round(np.log(np.maximum(p, 1e-300)), 10)


def read(path):
    """The file as one dictionary a video."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if arrays["format"] != 1:
        sys.exit(f"error: {path} is of format {arrays['format']}; this script reads format 1")
    protocol = json.loads(str(arrays["protocol"]))
    multi_label = arrays["label"].ndim == 2
    rows = {}
    for row, video in enumerate(arrays["video"]):
        rows.setdefault(int(video), []).append(row)
    videos = []
    for number, name in enumerate(arrays["id"]):
        own = sorted(rows[number], key=lambda row: arrays["view"][row])
        if [int(arrays["view"][row]) for row in own] != list(range(protocol["num_clips"] * protocol["num_crops"])):
            sys.exit(f"error: {path}: video {name} has not every view once")
        is_read = all(arrays["status"][row] == 0 for row in own)
        logits, average, label = arrays["logits"][own], protocol["average"], arrays["label"][number]
        video = {"id": str(name), "label": label, "pair": str(arrays["pair"][number]), "p": None, "nats": None}
        if is_read:
            video["p"] = probabilities_of(logits, average, multi_label)
            video["nats"] = nats_of(logits, label, average, multi_label)
        videos.append(video | {"short": bool(arrays["short"][number]), "reason": str(arrays["reason"][number])})
    if len({video["id"] for video in videos}) < len(videos):
        sys.exit(f"error: {path} has a video twice")
    return videos, [str(name) for name in arrays["classes"]], protocol, multi_label


def single_label(videos, classes):
    """Scores where every video is of one class; an unreadable one is wrong, and has no say in loss and ece."""
    nats, sure, hits, by_class = [], [], {1: [], 5: []}, {}
    for video in videos:
        label, p = int(video["label"]), video["p"]
        ranking = [] if p is None else np.argsort(-settle(p), kind="stable").tolist()
        for k in hits:
            hits[k].append(label in ranking[:k])
        by_class.setdefault(label, []).append(hits[1][-1])
        if p is not None:
            nats.append(video["nats"])
            sure.append((max(p), hits[1][-1]))
    gap = 0.0
    for m in range(1, 16):  # bin m: confidence in ((m - 1) / 15, m / 15], the ends as exact as decimals go
        inside = [(c, hit) for c, hit in sure if m - 1 < round(float(c) * 15, 9) <= m]
        gap += abs(sum(hit for _, hit in inside) - sum(c for c, _ in inside))
    of_class = {classes[label]: float(np.mean(right)) for label, right in sorted(by_class.items())}
    scores = {"loss": float(np.mean(nats)), "top1": float(np.mean(hits[1])), "ece": float(gap / len(sure))}
    scores["mean_class_accuracy"] = float(np.mean(list(of_class.values())))
    scores |= {"top5": float(np.mean(hits[5]))} if len(classes) > 5 else {}
    return scores | {"per_class": of_class} | pairs({"pair": hits[1]}, videos)


def multi_label_scores(videos, classes):
    """Scores where every video has any number of classes."""
    scores, nats, precisions, accuracies, hits = {}, [], {}, {}, {}
    for k, name in enumerate(classes):
        truth = [bool(video["label"][k]) for video in videos]
        says = [None if video["p"] is None else float(video["p"][k]) for video in videos]
        # the unreadable ones: never right, and behind all others
        ranks = [-1000.0 if p is None else float(settle(p)) for p in says]
        both = list(zip(ranks, truth, strict=True))
        hits[f"pair/{name}"] = [r > -1000 and (r > settle(0.5)) == t for r, t in both]
        accuracies[f"accuracy/{name}"] = float(np.mean(hits[f"pair/{name}"]))
        nats += [video["nats"][k] for video in videos if video["nats"] is not None]
        if any(truth):  # the area under precision over recall, as a sum over the distinct scores
            area, found, seen = 0.0, 0, 0
            for _, equal in groupby(sorted(both, reverse=True), key=lambda row: row[0]):
                here = [t for _, t in equal]
                found, seen = found + sum(here), seen + len(here)
                area += sum(here) / sum(truth) * found / seen
            precisions[name] = area
    scores["loss"], scores["accuracy"] = float(np.mean(nats)), float(np.mean(list(accuracies.values())))
    if precisions:
        scores |= {"mean_average_precision": float(np.mean(list(precisions.values()))), "average_precision": precisions}
    of_pairs = pairs(hits, videos)
    scores |= {"pair": float(np.mean(list(of_pairs.values())))} if of_pairs else {}
    return scores | accuracies | of_pairs


def pairs(hits, videos):
    """Share of the pairs of which both are right, for each list of hits."""
    members = {}
    for i, video in enumerate(videos):
        if video["pair"]:
            members.setdefault(video["pair"], []).append(i)
    return {k: float(np.mean([all(h[i] for i in m) for m in members.values()])) for k, h in hits.items() if members}


def flat(scores):
    """Scores of single classes by ``NAME: CLASS``."""
    out = {}
    for name, value in scores.items():
        out |= {f"{name}: {key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    return out


def facts_of(videos, classes, protocol, multi_label):
    """What a result says besides scores."""
    unread = {video["id"]: video["reason"] for video in videos if video["p"] is None}
    confusion = {}
    for video in [] if multi_label else videos:
        guess = "(unreadable)" if video["p"] is None else classes[np.argsort(-settle(video["p"]), kind="stable")[0]]
        row = confusion.setdefault(classes[int(video["label"])], {})
        row[guess] = row.get(guess, 0) + 1
    return {
        "status": "some unreadable" if unread else "complete",
        "protocol": protocol,
        "unreadable": unread,
        "confusion": confusion,
        "videos: found": len(videos),
        "videos: short": sum(video["short"] for video in videos),
    }


def reported(path, split):
    """The scores that a result has for a split, and what it says besides."""
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"error: {path} cannot be read ({error})")
    facts = {}
    if isinstance(result, dict) and isinstance(result.get(split), dict) and "loss" in result[split]:
        scores = result[split]  # of a training, whose status is about the whole run
        facts = {name: result[name].get(split) for name in ("unreadable", "videos") if name in result}
        facts |= {"protocol": result["protocol"]} if "protocol" in result else {}
    elif isinstance(result, dict) and "loss" in result:
        names = {"status", "protocol", "unreadable", "confusion", "videos"}
        facts = {name: result[name] for name in names & result.keys()}
        scores = {name: value for name, value in result.items() if name not in names}
    else:
        sys.exit(f"error: {path} has no scores of {split!r}; name the split with --split")
    counts = facts.pop("videos", None) or {}
    return flat(scores), facts | {f"videos: {name}": counts[name] for name in ("found", "short") if name in counts}


def compare(facts, told):
    """Print what a result says besides scores and the file does not, and count it."""
    wrong = [name for name in told if told[name] != facts[name]]
    for name in wrong:
        print(f"{name} {json.dumps(facts[name])}  BUT REPORTED {json.dumps(told[name])}")
    return len(wrong)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path, help="the .npz that an evaluation has written")
    parser.add_argument("--result", type=Path, help="the JSON that it has written, to be checked")
    parser.add_argument("--split", help="which split of a training's result.json; the name of the file if not given")
    options = parser.parse_args()
    try:
        videos, classes, protocol, multi_label = read(options.predictions)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"error: {options.predictions} is no file of predictions ({error})")
    facts = facts_of(videos, classes, protocol, multi_label)
    unread = facts["unreadable"]
    scores = flat((multi_label_scores if multi_label else single_label)(videos, classes))
    told, besides = reported(options.result, options.split or options.predictions.stem) if options.result else ({}, {})
    wrong = 0
    for name in sorted(scores.keys() | told.keys(), key=lambda name: (":" in name, name)) if told else scores:
        own, other = scores.get(name), told.get(name)
        differs = bool(told) and (own is None or other is None or not abs(own - other) <= TOLERANCE * max(1, abs(own)))
        wrong += differs
        print(f"{name} {'-' if own is None else format(own, '.12g')}{f'  BUT REPORTED {other}' if differs else ''}")
    for name in unread:
        print(f"could not be read, counts as wrong: {name}")
    print(f"{len(videos)} videos, {len(unread)} unreadable; {protocol['name']}, {protocol['average']} averaged")
    others = compare(facts, besides)
    if told:
        print(f"{wrong} of {len(scores)} scores differ" if wrong else f"all {len(scores)} scores agree")
    sys.exit(1 if wrong or others else 0)


if __name__ == "__main__":
    main()
