"""The processor's vector instructions, and whether TensorFlow computes with oneDNN's kernels on them.

On x86, TensorFlow turns oneDNN on by itself only where it finds AVX-512 VNNI or newer. With AVX2 alone
its kernels train faster too, but somebody has to ask for them before TensorFlow is imported.
"""

import os
import platform
import sys

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"  # TensorFlow's environment variable: "1", "0", or its own choice

_TOLD = "/proc/cpuinfo"
_WIDEST = (  # NumPy's names, of before 2.4 and since, the widest first
    ("AVX-512 with bfloat16", {"AVX512_SPR"}),
    ("AVX-512 with VNNI", {"AVX512_ICL", "AVX512_CLX"}),
    ("AVX-512", {"AVX512_SKX", "AVX512F", "X86_V4"}),
    ("AVX2", {"AVX2", "X86_V3"}),
)


def instructions() -> str:
    """The widest vector instructions: `"AVX2"`, `"AVX-512 with VNNI"`, ...; else the machine's name.

    Example:

    >>> isinstance(instructions(), str)
    True
    """
    import numpy as np  # not for the commands that only tell something

    found = np.show_config(mode="dicts")["SIMD Extensions"]
    names = {*found.get("baseline", ()), *found.get("found", ())}
    for name, any_of in _WIDEST:
        if names & any_of:
            return name
    return platform.machine()


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies numbers of bfloat16, by AVX512_BF16 or AMX, as Linux tells.

    Example:

    >>> multiplies_bfloat16() in (True, False)
    True
    """
    try:
        with open(_TOLD, encoding="utf-8") as file:
            words = file.read().split()
    except OSError:  # not Linux: of processors that do, few run anything else
        return False
    return "avx512_bf16" in words or "amx_bf16" in words


def slow_by_itself() -> bool:
    """Whether TensorFlow leaves oneDNN off here unless it is asked, although it is faster."""
    return instructions() in ("AVX-512", "AVX2")


def onednn() -> str:
    """`"on"` or `"off"`: whether TensorFlow computes with oneDNN if imported now, as far as known."""
    chosen = os.environ.get(ONEDNN, "").lower()
    if chosen in ("0", "1", "true", "false"):
        return "on" if chosen in ("1", "true") else "off"
    return "on" if instructions().startswith("AVX") and not slow_by_itself() else "off"


def prefer_onednn() -> bool:
    """Turns oneDNN on where it is faster and TensorFlow would not; whether it did.

    It changes the environment of the process, which is a program's affair and no library's: the
    command line calls it. What the user has set stays, and so does an imported TensorFlow.
    """
    if "tensorflow" in sys.modules or os.environ.get(ONEDNN) or not slow_by_itself():
        return False
    os.environ[ONEDNN] = "1"
    return True
