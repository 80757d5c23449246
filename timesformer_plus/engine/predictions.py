"""What a model says about every view of every video, and the file that keeps it.

The file is a plain ``.npz`` (a zip of ``.npy`` arrays, nothing pickled) from which every score can be computed again
without this package; ``tools/rescore.py`` does. With N videos sorted by id, V views each, K classes and
R = N x V rows, row ``i * V + v`` being view v of video i:

=========== ============== ==========================================================================================
array       shape, type    content
=========== ============== ==========================================================================================
format      () int64       1
protocol    () str         JSON: ``Protocol``, above all ``average``: ``"probabilities"`` or ``"logits"``
classes     (K,) str       names of the classes
id          (N,) str       names of the videos, ascending
label       (N,) int64     class index; for multi-label data (N, K) uint8, 0 and 1
pair        (N,) str       pair name, empty for none
short       (N,) bool      whether frames came again because the video was too short
reason      (N,) str       why the video could not be read, empty if it could
video       (R,) int64     which video the row is about: an index of ``id``
view        (R,) int64     which view: crop ``view % num_crops`` of clip ``view // num_crops``
status      (R,) uint8     0: read; 1: could not be read, and its logits are not a number
logits      (R, K) float   as the model computed them: float32, or float64 for a float64 model
=========== ============== ==========================================================================================

A video is scored when all its views could be read; else it is wrong (see ``metrics.score``). Equal predictions make
equal files, byte for byte.
"""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from timesformer_plus.engine.atomic_file import new_file
from timesformer_plus.engine.protocols import Protocol

FORMAT = 1


@dataclass(frozen=True)
class Predictions:
    """What a model says about every view of the N videos of a split, sorted by id.

    Attributes:
        ids: Names of the videos, ascending.
        logits: (N, V, K), float32 or float64; not a number where a view could not be read.
        read: Which views could be read, bool, (N, V).
        targets: Class indices (N,), or for multi-label data 0 and 1, (N, K).
        pairs: Pair name of every video, "" for none.
        short: Whether the video was too short for a clip, bool, (N,).
        reasons: Why a video could not be read, "" if it could, for every video.
        classes: Names of the K classes.
        protocol: How the views are cut and averaged.
    """

    ids: tuple[str, ...]
    logits: Tensor
    read: Tensor
    targets: Tensor
    pairs: tuple[str, ...]
    short: Tensor
    reasons: tuple[str, ...]
    classes: tuple[str, ...]
    protocol: Protocol

    @property
    def multi_label(self) -> bool:
        """Whether classes are scored one by one (sigmoid) instead of against each other (softmax)."""
        return self.targets.ndim == 2

    @property
    def scored(self) -> Tensor:
        """Videos of which all views could be read, bool, (N,)."""
        return self.read.all(dim=1)

    @property
    def unreadable(self) -> dict[str, str]:
        """Id of every video that could not be read -> why."""
        return {name: reason for name, reason in zip(self.ids, self.reasons, strict=True) if reason}

    def probabilities(self) -> Tensor:
        """What the views of a video come to together: float64, (N, K); not a number for a video that is not scored.

        The mean over the views of softmax (multi-label: sigmoid), or softmax of the mean logits, as the protocol says;
        in float64, view by view, so that the order of the sum is fixed and memory is that of one view.
        """
        num_views = self.logits.shape[1]
        total = torch.zeros(len(self.ids), len(self.classes), dtype=torch.float64)
        for view in range(num_views):
            logits = self.logits[:, view].double()
            total += self._squash(logits) if self.protocol.average == "probabilities" else logits
        mean = total / num_views
        return mean if self.protocol.average == "probabilities" else self._squash(mean)

    def nats(self) -> Tensor:
        """Negative log likelihood of what is true: float64, (N,), or for multi-label data of every class, (N, K).

        Of ``probabilities``, but computed from the logits in the logarithm: a probability of e-60 costs 60 nats, where
        a probability would have been rounded to zero. Not a number for a video that is not scored.
        """
        num_views = self.logits.shape[1]
        if self.protocol.average == "logits":
            mean = sum((self.logits[:, view].double() for view in range(num_views)), torch.tensor(0.0).double())
            return -self._log_likelihood(mean / num_views)
        total = self._log_likelihood(self.logits[:, 0].double())
        for view in range(1, num_views):
            total = torch.logaddexp(total, self._log_likelihood(self.logits[:, view].double()))
        return math.log(num_views) - total

    def _log_likelihood(self, logits: Tensor) -> Tensor:
        if self.multi_label:
            return nn.functional.logsigmoid(torch.where(self.targets > 0, logits, -logits))
        return logits.log_softmax(dim=-1).gather(1, self.targets[:, None])[:, 0]

    def _squash(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions as the module describes, whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    num_videos, num_views, _ = predictions.logits.shape
    arrays = {
        "format": np.int64(FORMAT),
        "protocol": np.array(json.dumps(predictions.protocol.as_dict(), sort_keys=True)),
        "classes": np.array(predictions.classes),
        "id": np.array(predictions.ids),
        "label": predictions.targets.to(torch.uint8 if predictions.multi_label else torch.int64).numpy(),
        "pair": np.array(predictions.pairs),
        "short": predictions.short.numpy(),
        "reason": np.array(predictions.reasons),
        "video": np.arange(num_videos, dtype=np.int64).repeat(num_views),
        "view": np.tile(np.arange(num_views, dtype=np.int64), num_videos),
        "status": (~predictions.read).to(torch.uint8).flatten().numpy(),
        "logits": predictions.logits.flatten(0, 1).numpy(),
    }
    with new_file(path) as staged, staged.open("wb") as file:
        np.savez(file, **arrays)  # an open file: savez would add its suffix to a name


ARRAYS = ["protocol", "classes", "id", "label", "pair", "short", "reason", "video", "view", "status", "logits"]


def load_predictions(path: Path) -> Predictions:
    """Read what ``save_predictions`` has written.

    Raises:
        ValueError: It is no such file, or a damaged one, or of another version.
        OSError: It cannot be read.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no file of predictions, or a damaged one ({error}); evaluate again") from error
    if int(arrays.get("format", 0)) != FORMAT:
        raise ValueError(f"{path} is not a file of predictions of format {FORMAT}; evaluate again with this version")
    missing = [name for name in ARRAYS if name not in arrays]
    if missing or len({len(arrays[name]) for name in ("video", "view", "status", "logits")}) > 1:
        wrong = f"it has no {', '.join(missing)}" if missing else "its arrays are of different lengths"
        raise ValueError(f"{path} is a damaged file of predictions ({wrong}); evaluate again")
    num_videos, (num_rows, num_classes) = len(arrays["id"]), arrays["logits"].shape
    num_views = num_rows // max(num_videos, 1)
    return Predictions(
        ids=tuple(arrays["id"].tolist()),
        logits=torch.from_numpy(arrays["logits"]).view(num_videos, num_views, num_classes),
        read=torch.from_numpy(arrays["status"] == 0).view(num_videos, num_views),
        targets=torch.from_numpy(arrays["label"].astype(np.int64)),
        pairs=tuple(arrays["pair"].tolist()),
        short=torch.from_numpy(arrays["short"]),
        reasons=tuple(arrays["reason"].tolist()),
        classes=tuple(arrays["classes"].tolist()),
        protocol=Protocol.from_dict(json.loads(str(arrays["protocol"]))),
    )
