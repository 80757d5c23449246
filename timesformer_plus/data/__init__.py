"""Videos on disk turned into clips for a model: manifests, decoders, sampling, transforms, and a built-in data set."""

from timesformer_plus.data.clips import SamplingMode, clip_span, sample_indices
from timesformer_plus.data.dataset import Clip, Sampling, VideoDataset
from timesformer_plus.data.decoders import DecodeError, Decoder, DecoderName, open_video, resolve_decoder
from timesformer_plus.data.manifests import Manifest, Sample, read_csv
from timesformer_plus.data.transforms import ClipTransform, EvalTransform, TrainTransform

__all__ = [
    "Clip",
    "ClipTransform",
    "DecodeError",
    "Decoder",
    "DecoderName",
    "EvalTransform",
    "Manifest",
    "Sample",
    "Sampling",
    "SamplingMode",
    "TrainTransform",
    "VideoDataset",
    "clip_span",
    "open_video",
    "read_csv",
    "resolve_decoder",
    "sample_indices",
]
