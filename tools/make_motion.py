"""Write one of the built-in data sets: python tools/make_motion.py --task direction --output motion/direction."""

import sys

from jsonargparse import auto_cli

from timesformer_plus.data.motion import write_motion

if __name__ == "__main__":
    try:
        folder = auto_cli(write_motion, as_positional=False)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{folder}: clips, train.csv val.csv test.csv, classes.txt, and preview.png to look at")
