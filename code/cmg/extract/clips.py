"""Which clips there are: the media files of folders and lists, by id."""

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from cmg.data.videos import SOUND_SUFFIXES, SUFFIXES
from cmg.errors import MACHINE, UserError


class Media(NamedTuple):
    """The files of one clip."""

    path: str  # of its pictures, and of its sound unless that has a file of its own
    sound: str = ""


def find_media(places):
    """Clips of folders and of lists with one path a line (relative to the list's folder).

    A clip's id is its file's name without suffix. A file of pictures and one of sound with the same id are one clip;
    a file that is found twice, by links or in two lists, is one file.

    Returns
    -------
    dict id -> Media, and a list of lines on what was left out or put together

    Raises
    ------
    UserError : no such folder or list, no media files, an id that several files have.
    """
    named, notes = {}, []
    for where in map(Path, places):
        for path in _folder(where, notes) if where.is_dir() else _list(where):
            named.setdefault(path.stem, []).append(path)
    if not named:
        raise UserError("; ".join([f"--videos {' '.join(map(str, places))}: no media files there (looked for "
                                   f"{' '.join(SUFFIXES)})", *notes]))
    found = {name: _media(name, paths) for name, paths in named.items()}
    apart = [media.sound for media in found.values() if media.sound]
    if apart:
        notes.append(f"{len(apart)} clips have a file of their own for sound, such as {apart[0]}")
    return found, notes


def _media(name, paths):
    """The files of one id, which are one, or one of pictures and one of sound."""
    if len(paths) > 1:
        paths = list({os.path.realpath(path): path for path in reversed(paths)}.values())[::-1]
    if len(paths) == 1:
        return Media(str(paths[0]))
    paths.sort(key=lambda path: path.suffix.lower() in SOUND_SUFFIXES)
    if [path.suffix.lower() in SOUND_SUFFIXES for path in paths] != [False, True]:
        raise UserError(f"--videos: id '{name}' occurs twice: {paths[0]} and {paths[1]}; expected one file, or one of "
                        "pictures and one of sound")
    return Media(*map(str, paths))


def _list(where):
    """Paths in a text file, one a line."""
    if not where.is_file():
        raise UserError(f"--videos {where}: no such folder or list of media files")
    text = "\0" if where.suffix.lower() in SUFFIXES else where.read_text(encoding="utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise UserError(f"--videos {where}: expected a folder, or a text file with one media file a line")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    for line in lines:  # a name may begin or end with spaces, and so may a line by mistake
        if line.strip():
            yield where.parent / (line if os.path.lexists(where.parent / line) else line.strip())


def _folder(where, notes):
    """Media files in a folder, sorted."""
    paths, other = [], Counter()
    for path in _walk(where, notes):
        if path.suffix.lower() not in SUFFIXES:
            other[path.suffix.lower() or "none"] += 1
        elif path.is_file() or not path.exists():  # no pipes; links that lead nowhere are bad clips
            paths.append(path)
    if other:
        endings = ", ".join(f"{ending} ({count})" for ending, count in other.most_common())
        notes.append(f"left out of {where}: {sum(other.values())} files with other endings: {endings}")
    return sorted(paths)


def _walk(where, notes):
    """All files in a folder. Links to folders are followed; each folder is entered once, by its own name if it can."""
    own, links, entered = [where], [], set()
    while own or links:
        folder = own.pop() if own else links.pop(0)
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if error.errno in MACHINE:
                raise
            notes.append(f"left out: {folder} cannot be read ({error.strerror})")
            continue
        for entry in entries:
            path, linked = Path(entry.path), entry.is_symlink()
            if path.is_dir() if linked else entry.is_dir():
                (links if linked else own).append(path)
            elif linked and path.suffix.lower() not in SUFFIXES and not path.exists():
                notes.append(f"left out: {path} is a link that leads nowhere")
            else:
                yield path
