"""Check every video of a folder: python tools/scan.py my_videos. See ``--help``."""

from timesformer_plus.data.scan import main

if __name__ == "__main__":
    raise SystemExit(main())
