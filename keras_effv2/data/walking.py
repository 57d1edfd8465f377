"""What of a folder is a picture, and what is a class: one rule for training and prediction."""

import collections
import os

import tensorflow as tf
from absl import logging

from keras_effv2 import files, photos
from keras_effv2.stores import is_address

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".jp2", ".ppm", ".pgm"),
)
# of other names the content decides; TIFF only without extension, as raw photos call themselves so
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "AVIF", "JPEG2000", "PPM")

# what systems and their storage make in folders, in small letters; hidden names are left out anyway
SYSTEM = frozenset(
    {
        *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder"),
        *("$recycle.bin", "$extend", "recycler", "recycled", "system volume information"),
        *("lost+found", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin"),
        *("#recycle", "#snapshot", "~snapshot", "__pycache__", "found.000"),
    }
)


def check_folder(path):
    """Refuses a path at which there is no folder.

    Raises:
        FileNotFoundError: If there is nothing.
        NotADirectoryError: If there is a file.
    """
    if tf.io.gfile.isdir(path):
        return
    if files.exists(path):
        raise NotADirectoryError(
            f"{path} is a file, not a folder. Unpack it if it is an archive, and give the folder."
        )
    raise FileNotFoundError(f"There is no folder {path}. Check the path.")


class LeftOut(collections.defaultdict):
    """Reason -> paths of what was left out of a folder, to be said in one line."""

    def __init__(self):
        super().__init__(list)

    def add(self, other):
        """Takes over what another one says."""
        for reason, paths in other.items():
            self[reason] += paths

    def say(self, folder):
        """Logs how much was left out and one of each kind."""
        parts = [
            f"{len(paths)} {reason} ({os.path.relpath(paths[0], folder)!a}"
            f"{', ...' if len(paths) > 1 else ''})"
            for reason, paths in self.items()
            if paths
        ]
        if parts:
            logging.warning("%s: left out %s.", folder, ", ".join(parts))


def find_pictures(folder, elsewhere=(), left_out=None):
    """Finds the pictures in a folder and below it.

    A file is a picture by its extension or else by its content. Hidden names, what systems make
    (`@eaDir`, `__MACOSX`, ...), pipes and devices are left out. Linked folders are followed, unless
    they lead back or elsewhere.

    Args:
        folder: A folder.
        elsewhere: Real paths of folders that no link may lead into, such as those of other classes.
        left_out: A `LeftOut` to add to; None says in the log what was left out.

    Returns:
        Sorted list of paths.

    Example:

    >>> find_pictures(os.path.dirname(__file__))
    []
    """
    own = LeftOut() if left_out is None else left_out
    inside, found = os.path.realpath(folder), []
    waiting, theirs = [str(folder)], [inside, *elsewhere]  # where no link may lead
    while waiting:
        parent = waiting.pop()
        try:
            below = entries(parent)
        except PermissionError:
            own["folders that may not be read"].append(parent)
            continue
        for name, kind, is_link in below:
            path = os.path.join(parent, name)
            target = os.path.realpath(path) if is_link and kind == "folder" else None
            if not is_text(name):
                own["with names that are not UTF-8 (convmv renames them)"].append(path)
            elif is_of_system(name):
                if kind == "folder" or _has_extension(name):
                    own["hidden or of the system"].append(path)
            elif target and any(_is_in(target, other) or _is_in(other, target) for other in theirs):
                own["links that lead back or elsewhere"].append(path)
            elif kind == "folder":
                waiting.append(path)
                theirs += [target] if target else []
            elif kind != "file":
                own["pipes or devices"].append(path)
            elif is_picture(path):
                found.append(path)
            else:
                own["no pictures by name or content"].append(path)
    if left_out is None:
        own.say(str(folder))
    return sorted(found)


def find_folders(path, left_out):
    """Sorted names of the folders in a folder that may be classes or splits."""
    found = []
    for name, kind, is_link in entries(path):
        if kind != "folder":
            continue
        if not is_text(name):
            raise ValueError(
                f"{os.fsencode(os.path.join(path, name))!r} has a name that is not UTF-8. Rename "
                "it; convmv does so for whole folders."
            )
        if is_of_system(name):
            left_out["hidden or of the system"].append(os.path.join(path, name))
        else:
            found.append((is_link, name))
    return _without_links_into_each_other(path, sorted(found), left_out)


def _without_links_into_each_other(path, found, left_out):
    above, kept = os.path.realpath(path), {}
    for is_link, name in found:  # links come last
        target = os.path.realpath(os.path.join(path, name))
        others = kept.values() if is_link else ()
        if _is_in(above, target) or any(_is_in(target, o) or _is_in(o, target) for o in others):
            left_out["links that lead back or elsewhere"].append(os.path.join(path, name))
        else:
            kept[name] = target
    return sorted(kept)


def entries(folder):
    """Name, kind (`"folder"`, `"file"` or `"other"`) and whether it is a link, of what lies there."""
    if is_address(folder):
        names = [name.rstrip("/") for name in tf.io.gfile.listdir(folder)]
        kinds = ("file", "folder")
        return [
            (name, kinds[tf.io.gfile.isdir(tf.io.gfile.join(folder, name))], False)
            for name in names
        ]
    with os.scandir(folder) as found:
        return [(entry.name, _kind(entry), entry.is_symlink()) for entry in found]


def _kind(entry):
    """A link to nowhere is a file that cannot be read."""
    if entry.is_symlink():
        if os.path.isdir(entry.path):
            return "folder"
        return "other" if os.path.exists(entry.path) and not os.path.isfile(entry.path) else "file"
    return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"


def is_of_system(name):
    """Whether a name is hidden, or one that systems give to what is theirs."""
    return name.startswith(".") or name.lower() in SYSTEM


def is_text(name):
    """Whether a file name can be written as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_in(path, folder):
    """Whether a real path is a folder's or below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _has_extension(name):
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def is_picture(path):
    """Whether a file is a picture by its extension or else by its content."""
    if _has_extension(path):
        return True
    if is_address(path):
        return False
    formats = FORMATS if os.path.splitext(path)[1] else (*FORMATS, "TIFF")
    try:
        with photos.open_picture(path, formats):
            return True
    except (*photos.DAMAGE, ValueError):
        return False


def loose_pictures(folder):
    """Paths of the pictures, by extension, that lie directly in a folder."""
    return [
        os.path.join(folder, name)
        for name, kind, _ in entries(folder)
        if kind == "file" and not name.startswith(".") and _has_extension(name)
    ]
