"""Turns a released checkpoint into `.weights.h5`; the same as `effv2 convert`."""

import sys

from keras_effv2.cli import main

sys.exit(main(["convert", *sys.argv[1:]]))
