"""Write one of the built-in data sets: python tools/make_motion.py --task direction --output motion/direction."""

from jsonargparse import auto_cli

from timesformer_plus.data.motion import write_motion

if __name__ == "__main__":
    folder = auto_cli(write_motion, as_positional=False)
    print(f"{folder}: clips, train.csv val.csv test.csv, classes.txt, and preview.png to look at")
