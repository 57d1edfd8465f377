"""A program: copies stdin to stdout but for what TensorFlow's C++ side tells of itself.

Lines of its levels I (information) and W (warning) are left out, E (error) and F (fatal) pass, and
so does everything that is no line of its log. It ends with stdin, or at `END`.
"""

import re
import sys

CHATTER = re.compile(
    rb"[IW]\d{4} \d\d:\d\d:\d\d"  # I0000 00:00:1795646169.048009    7197 cudart_stub.cc:31] ...
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] "
    rb"|WARNING: All log messages before absl::InitializeLog"
    rb"|To enable the following instructions: "  # the second line of cpu_feature_guard.cc
    rb"|E\d{4} .*(Unable to register cu"  # with every GPU; harmless, says TensorFlow
    rb"|failed call to cuInit: .*303)"  # without any GPU
)
END = b"\0end of what is filtered\n"

if __name__ == "__main__":
    for line in sys.stdin.buffer:
        if not CHATTER.match(line):
            sys.stdout.buffer.write(line.removesuffix(END))
            sys.stdout.buffer.flush()
        if line.endswith(END):
            break
