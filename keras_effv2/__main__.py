"""`python -m keras_effv2 ...`: the command line."""

import sys

from keras_effv2.cli import main

sys.exit(main())
