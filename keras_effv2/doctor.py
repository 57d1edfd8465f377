"""Examines a machine: is what the package needs there, and what to do if not."""

import contextlib
import dataclasses
import http.client
import importlib.metadata
import os
import shutil
import sys
import urllib.error
import urllib.request

from packaging.requirements import Requirement

from keras_effv2 import needs, processor, weights
from keras_effv2.weights.download import mirror

EXTRAS = ("train", "hub", "data", "export", "search")  # what users install beyond the package
# other distributions of the same package
ALSO = {"tensorflow": ("tensorflow-cpu", "tensorflow-tpu", "tf-nightly")}
HOSTS = ("https://storage.googleapis.com", "https://tfhub.dev")


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found, and what to do if it is not well."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def examine(online=False):
    """Runs all checks; only with `online` does it use the network.

    Args:
        online: Whether to try the hosts of weights and of TF Hub, or the mirror.

    Returns:
        A list of `Check`.

    Example:

    >>> examine()[0].name
    'python'
    """
    checks = [
        _python(),
        *_packages(),
        _backend(),
        _devices(),
        _processor(),
        _memory(),
        _cache(),
        _folder(),
    ]
    if not online:
        checks.append(Check("network", True, "not tried; --online tries weights and TF Hub"))
    elif weights.is_offline():
        checks.append(Check("network", True, "forbidden by KERAS_EFFV2_OFFLINE"))
    else:
        files = os.environ.get("KERAS_EFFV2_MIRROR") or HOSTS[0]
        checks += [_host(url) for url in (files, HOSTS[1])]
    return checks + _mirror()


def _mirror():
    try:
        mirror()
    except ValueError as error:
        return [Check("mirror", False, "no address", f"{error} Set it to one, or unset it.")]
    return []


def _python():
    found = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 11)
    return Check("python", ok, found, "" if ok else "Install Python 3.11 or newer.")


def _packages():
    """A check for everything that the package's metadata asks for, what is needed first."""
    try:
        asked = importlib.metadata.requires("keras_effv2") or ()
    except importlib.metadata.PackageNotFoundError:
        advice = "pip install -e . in the checkout, to know what else is needed"
        return [Check("keras_effv2", False, "not installed", advice)]
    found = {"": [], **{extra: [] for extra in EXTRAS}}
    for text in asked:
        wanted = Requirement(text)
        if wanted.name == "keras_effv2":  # an extra that is made of others
            continue
        for extra, checks in found.items():
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                checks.append(_package(wanted, extra))
                break
    return [check for checks in found.values() for check in checks]


def _package(wanted, extra):
    asked = f"{wanted.name}{wanted.specifier}"
    for distribution in (wanted.name, *ALSO.get(wanted.name, ())):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found = importlib.metadata.version(distribution)
            break
    else:
        advice = f"pip install 'keras_effv2[{extra}]', if you want it" if extra else ""
        return Check(wanted.name, bool(extra), "not installed", advice or f"pip install '{asked}'")
    ok = wanted.specifier.contains(found, prereleases=True)
    return Check(wanted.name, ok, found, "" if ok else f"pip install -U '{asked}'")


def _backend():
    try:
        with needs.naming("Keras", needs.OTHER_BACKEND):
            import keras
    except ImportError as error:
        return Check("backend", False, str(error))
    return Check("backend", True, keras.backend.backend())


def _devices():
    try:
        import tensorflow as tf
    except ImportError:
        return Check("devices", True, f"TensorFlow absent; {os.cpu_count()} processors")
    gpus, tpus = (tf.config.list_physical_devices(kind) for kind in ("GPU", "TPU"))
    found = f"{len(gpus)} GPUs, {len(tpus)} TPU cores, {os.cpu_count()} processors"
    advice = "" if gpus or tpus else "Training on processors is slow: small images, few epochs."
    return Check("devices", True, found, advice)


def _processor():
    found = f"{processor.instructions()}, oneDNN {processor.onednn()}"
    advice = (
        f"Set {processor.ONEDNN}=1 before TensorFlow is imported in a program of your own: a train "
        "step takes about four fifths of the time. Commands do so by themselves."
    )
    return Check("processor", True, found, advice if processor.slow_by_itself() else "")


def _memory():
    if not hasattr(os, "sysconf"):
        return Check("memory", True, "unknown on this system")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    ok = pages >= 3.5  # the system keeps some of four
    advice = "" if ok else "B0 trains in 4 GiB; take smaller images and batches."
    return Check("memory", ok, f"{pages:.0f} GiB", advice)


def _cache():
    folder = weights.home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        return Check(
            "cache",
            False,
            f"{folder}: {error.strerror}",
            "Point KERAS_EFFV2_HOME at a folder you may write to.",
        )
    free = shutil.disk_usage(folder).free / 2**30
    advice = "" if free > 1 else "Make room: XL's weights take 0.8 GiB."
    return Check("cache", free > 1, f"{folder}, {free:.0f} GiB free", advice)


def _folder():
    ok = os.access(os.getcwd(), os.W_OK)
    advice = "" if ok else "Change to a folder you may write to, or give --workdir elsewhere."
    return Check("folder", ok, os.getcwd(), advice)


def _host(url):
    try:
        with urllib.request.urlopen(url, timeout=5):
            pass
    except urllib.error.HTTPError:
        pass  # it answered
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Check(
            url,
            False,
            f"cannot be reached: {getattr(error, 'reason', error)}",
            "Check proxy and network, or set KERAS_EFFV2_MIRROR, or pass paths of local files.",
        )
    return Check(url, True, "reachable")
