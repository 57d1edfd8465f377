"""How far apart measurements of one ratio of step times are, paired and unpaired.

python benchmarks/step_ratio.py [--repeats=12]
"""

import argparse
import statistics
import time

from keras_effv2 import models, timing
from keras_effv2.space import SPACES


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=12, help="Measurements of each kind.")
    repeats = parser.parse_args().repeats
    space = SPACES["tiny"]
    rows = space.baseline, space.rows({k: v[-1] for k, v in space.parameters().items()})
    steps = []
    for row in rows:
        net = models.builder(space.variant(row))(weights=None, classes=10)
        steps.append(timing.train_step(net, 64, space.image_size))
    for step in steps * 2:
        step()
    for name, clock in (("processor", time.process_time), ("wall", time.perf_counter)):
        paired, unpaired = [], []
        for _ in range(repeats):
            paired.append(timing.paired_ratio(steps[1], steps[0], clock=clock, warmup=0)[0])
            blocks = [[timing.seconds(step, clock) for _ in range(timing.PAIRS)] for step in steps]
            unpaired.append(statistics.median(blocks[1]) / statistics.median(blocks[0]))
        for kind, found in (("in turn", paired), ("one after the other", unpaired)):
            print(
                f"{name} time, {kind}: ratio {statistics.median(found):.3f}, "
                f"{min(found):.3f} to {max(found):.3f}, quartiles {timing.spread(found):.1%} apart"
            )


if __name__ == "__main__":
    main()
