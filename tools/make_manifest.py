"""Turn one's own videos, or a named data set, into the CSV manifests that training reads; see --help.

python tools/make_manifest.py my_videos
python tools/make_manifest.py ucf101/trainlist01.txt --format ucf101 --videos ucf101/UCF-101 --output ucf101/train.csv
"""

import sys

from jsonargparse import auto_cli

from timesformer_plus.data.manifest_files import make_manifest

if __name__ == "__main__":
    try:
        auto_cli(make_manifest)
    except ValueError as error:
        sys.exit(f"error: {error}")
