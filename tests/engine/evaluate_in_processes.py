"""Started by torchrun or alone: score manifests of many lengths, each in an order of its own, and write what came out.

evaluate_in_processes.py VIDEOS OUTPUT SEED
"""

import json
import multiprocessing
import os
import random
import socket
import sys
from pathlib import Path

import torch
from tiny_runs import TINY

from timesformer_plus.data.dataset import VideoDataset
from timesformer_plus.data.manifests import Manifest, Sample
from timesformer_plus.engine import views
from timesformer_plus.engine.build import build_model
from timesformer_plus.engine.build_data import ClipRecipe, build_normalize, build_test_dataset
from timesformer_plus.engine.clip_loading import UnreadableVideosError
from timesformer_plus.engine.data_config import DataConfig
from timesformer_plus.engine.evaluation import evaluate
from timesformer_plus.engine.processes import join_processes
from timesformer_plus.engine.views import Interrupted

SIZES = (1, 3, 9, 10, 17, 33)
CLASSES = tuple("abcdef")
MEAN, STD = (0.45,) * 3, (0.225,) * 3
RECIPE = ClipRecipe(4, 2, "stride", (16, 16), MEAN, STD, multi_label=False, num_clips=2, num_crops=3)


class Noted(VideoDataset):
    """Writes down what it is asked for."""

    asked: list

    def __getitem__(self, key):
        self.asked.append((self.manifest.samples[key[1]].id, key[2]))
        return super().__getitem__(key)


def everywhere(item):
    if not torch.distributed.is_initialized():
        return [item]
    items = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(items, item)
    return items


def main(videos, output, seed):
    torch.set_num_threads(1)
    state = join_processes()
    data = DataConfig(root=videos, num_frames=4, img_size=16)
    torch.manual_seed(0)
    model = build_model(TINY, data, len(CLASSES))
    with torch.no_grad():
        model.head.weight.normal_(std=2.0)
    results = {}
    for size in SIZES:
        # of the pairs the partners are far apart; every fifth file is not there
        names = [f"{i}.npy" for i in range(size)]
        samples = [Sample(n, videos / n, i % 6, pair=str(i % 4) if size > 8 else "") for i, n in enumerate(names)]
        random.Random(f"{seed} {size}").shuffle(samples)
        dataset = build_test_dataset(Manifest(tuple(samples), CLASSES, multi_label=False), RECIPE, data)
        dataset.__class__, dataset.asked = Noted, []
        # logits of the last manifest are sent a few at a time
        views.PIECE_BYTES = 480 if size == SIZES[-1] else 1 << 20
        for workers in (0, 2) if size == 10 else (0,):
            scored = evaluate(
                model,
                dataset,
                build_normalize(RECIPE),
                protocol=RECIPE.protocol,
                batch_size=8,  # six of them: two clips of three crops
                num_workers=workers,
                predictions=output / f"{size}-{workers}.npz",
            )
            told = everywhere(json.dumps(scored))
            assert len(set(told)) == 1, "processes were told different scores"
            results[f"{size}-{workers}"] = scored._asdict()
        asked = [key for keys in everywhere(dataset.asked) for key in keys]
        assert sorted(asked) == sorted((name, view) for name in names for view in range(6)), size
        assert state.num_processes < 3 or size < 9 or all(everywhere(dataset.asked)), "a process had nothing to do"
    # where nothing can be read, all processes say so
    nothing = Manifest((Sample("4.npy", videos / "4.npy", 0), Sample("9.npy", videos / "9.npy", 0)), CLASSES, False)
    try:
        evaluate(
            model,
            build_test_dataset(nothing, RECIPE, data),
            build_normalize(RECIPE),
            protocol=RECIPE.protocol,
            batch_size=8,
        )
    except UnreadableVideosError as error:
        told = str(error)
    assert told.startswith("2 of 2 videos cannot be read: 4.npy (")
    assert len(set(everywhere(told))) == 1
    # one process is told to stop: all do
    try:
        evaluate(
            model,
            dataset,
            build_normalize(RECIPE),
            protocol=RECIPE.protocol,
            batch_size=8,
            requested=lambda: state.process_index == state.num_processes - 1,
            predictions=output / "interrupted.npz",
        )
    except Interrupted:
        stopped = True
    assert all(everywhere(stopped))
    if state.is_main_process:
        (output / "results.json").write_text(json.dumps(results, sort_keys=True))
    state.destroy_process_group()


def start(number, processes, port, videos, output):
    if processes > 1:
        where = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": processes,
            "LOCAL_WORLD_SIZE": processes,
        }
        os.environ.update({key: str(value) for key, value in (where | {"RANK": number, "LOCAL_RANK": number}).items()})
    main(videos, output, seed=processes)


if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    for processes, output in enumerate(sys.argv[2:], start=1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        group = [
            fork.Process(target=start, args=(number, processes, port, Path(sys.argv[1]), Path(output)))
            for number in range(processes)
        ]
        for process in group:
            process.start()
        for process in group:
            process.join(100)
        if any(process.exitcode != 0 for process in group):
            for process in group:
                process.kill()
            sys.exit(f"{processes} processes: exit codes {[process.exitcode for process in group]}")
