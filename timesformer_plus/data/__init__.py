"""Videos on disk turned into clips for a model: manifests, decoders, sampling, transforms, and a built-in data set."""

from timesformer_plus.data.catalogues import READERS, read_manifest
from timesformer_plus.data.clip_reader import ClipReader, Sampling
from timesformer_plus.data.clips import (
    SamplingMode,
    ShortPolicy,
    clip_span,
    is_short,
    sample_indices,
    sample_times,
    trim,
)
from timesformer_plus.data.containers import Limits
from timesformer_plus.data.dataset import Clip, VideoDataset
from timesformer_plus.data.decoders import DecodeError, Decoder, DecoderName, open_video, resolve_decoder
from timesformer_plus.data.interop import (
    DictTransform,
    from_labeled_video_paths,
    to_clip,
    to_labeled_video_paths,
)
from timesformer_plus.data.manifests import Manifest, Sample, read_csv
from timesformer_plus.data.mixing import ClipMixer
from timesformer_plus.data.splits import check_coverage, check_leaks
from timesformer_plus.data.transforms import ClipTransform, EvalTransform, Normalize, TrainTransform, Transformed

__all__ = [
    "READERS",
    "Clip",
    "ClipMixer",
    "ClipReader",
    "ClipTransform",
    "DecodeError",
    "Decoder",
    "DecoderName",
    "DictTransform",
    "EvalTransform",
    "Limits",
    "Manifest",
    "Normalize",
    "Sample",
    "Sampling",
    "SamplingMode",
    "ShortPolicy",
    "TrainTransform",
    "Transformed",
    "VideoDataset",
    "check_coverage",
    "check_leaks",
    "clip_span",
    "from_labeled_video_paths",
    "is_short",
    "open_video",
    "read_csv",
    "read_manifest",
    "resolve_decoder",
    "sample_indices",
    "sample_times",
    "to_clip",
    "to_labeled_video_paths",
    "trim",
]
