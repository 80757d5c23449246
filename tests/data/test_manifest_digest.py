"""The digest of a manifest: what it is a function of."""

import dataclasses
from pathlib import Path

import pytest

from timesformer_plus.data.manifests import Manifest, Sample, manifest_digest

MANIFEST = Manifest(
    samples=(
        Sample("a b/1.mp4", Path("/videos/a b/1.mp4"), 0),
        Sample("ü/2.mp4#t=1,2.5", Path("/videos/ü/2.mp4"), 1, pair="p", group="g", start=1.0, end=2.5),
    ),
    classes=("run", "jump, high"),
    multi_label=False,
)


def test_is_the_same_on_every_machine():
    assert manifest_digest(MANIFEST) == "411afe4dfcdb21ff165f494ae3fc3d214f1a954dba97dab96e7a3f6eb3e3e678"


def test_the_folder_does_not_matter():
    moved = tuple(dataclasses.replace(sample, path=Path("elsewhere") / sample.path.name) for sample in MANIFEST.samples)
    assert manifest_digest(dataclasses.replace(MANIFEST, samples=moved, missing=("x",))) == manifest_digest(MANIFEST)


@pytest.mark.parametrize(
    "change", [{"id": "other"}, {"label": 1}, {"pair": "q"}, {"group": "h"}, {"start": 0.5}, {"end": 9.0}]
)
def test_every_field_of_a_sample_matters(change):
    first, second = MANIFEST.samples
    changed = dataclasses.replace(MANIFEST, samples=(dataclasses.replace(first, **change), second))
    assert manifest_digest(changed) != manifest_digest(MANIFEST)


def test_order_classes_and_kind_of_label_matter():
    digests = {
        manifest_digest(manifest)
        for manifest in (
            MANIFEST,
            dataclasses.replace(MANIFEST, samples=MANIFEST.samples[::-1]),
            dataclasses.replace(MANIFEST, samples=MANIFEST.samples[:1]),
            dataclasses.replace(MANIFEST, classes=("run", "jump", " high")),
            dataclasses.replace(MANIFEST, classes=("jump, high", "run")),
            dataclasses.replace(MANIFEST, multi_label=True),
        )
    }
    assert len(digests) == 6


def test_labels_of_multi_label_samples_matter():
    def of(label):
        return manifest_digest(Manifest((Sample("a", Path("a"), label),), ("x", "y"), multi_label=True))

    assert len({of((0, 0)), of((0, 1)), of((1, 0)), of((1, 1))}) == 4
