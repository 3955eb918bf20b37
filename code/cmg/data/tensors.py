"""Files of tensors as `torch.save` writes them, read with `weights_only=True`: what is in them is never run."""

import pickle
import zipfile
from pathlib import Path

import torch

from cmg.errors import UserError
from cmg.files import damage_of

SIGNATURES = b"PK\3\4", b"\x80\2"  # of torch.save: a zip file, and a pickle until 2020


def load(path):
    """Whatever a file of tensors holds, on the CPU; `UserError` if it is missing, damaged or holds anything else."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports a damaged archive in many types
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = f"truncated or damaged ({told[:120]})"
        if isinstance(error, pickle.UnpicklingError):
            reason = "damaged, or more than tensors and plain values in it, which is not run"
        kind = "a file of torch.save"
        raise UserError(f"{path}: not a readable checkpoint: {damage_of(path, kind, SIGNATURES, reason)}") from None


def check_sums(path):
    """`BadZipFile` unless every entry of a file of `torch.save` has the CRC-32 that was written with it.

    `torch.load` does not look at them: a bit that a disk or a download turned becomes another weight. It costs 40 ms
    for 100 MB. Entries are stored as they are, so that none unpacks to more than the file; a pickle until 2020 has no
    checksum.
    """
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return
    with zipfile.ZipFile(path) as archive:
        bad = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if bad:
            raise zipfile.BadZipFile(f"entry {bad[0]} is compressed, as torch.save does not")
        bad = archive.testzip()
        if bad is not None:
            raise zipfile.BadZipFile(f"entry {bad} does not have the checksum it was written with")
