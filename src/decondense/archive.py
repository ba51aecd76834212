"""Arrays by name and a header in, one `.npz` file out, and back; whatever is wrong with a file becomes one line. Knows no measurement."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from decondense.errors import UserError, require
from decondense.files import replace_file

# What zipfile, numpy and json raise where bytes of an archive are wrong.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def write(path: str | os.PathLike[str], header: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write all of it or nothing (no pickle in it); UserError where the path cannot be written to."""
    np = require("numpy", extra="hf")
    try:
        # Given an open file, numpy leaves the name as it is.
        with replace_file(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write there ({error.strerror}); give a path in a folder that is writable"
        ) from error


def read(path: str | os.PathLike[str], kind: str, version: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the arrays of a file that `write` wrote, whose header has this "format" and "version".

    Raises:
        UserError: the file is absent, damaged, of another kind, or of another version.
    """
    np = require("numpy", extra="hf")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            header = json.loads(str(archive["header"]))
            arrays = {name: archive[name] for name in archive.files if name != "header"}
        if header["format"] != kind:
            raise KeyError("format")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; Condensation.save writes one") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _DAMAGE as error:
        raise UserError(f"{path}: damaged, or not a file that Condensation.save wrote") from error
    if header.get("version") != version:
        raise UserError(
            f"{path}: its format is version {header.get('version')}, this decondense reads {version}; "
            "install the decondense that wrote it"
        )
    return header, arrays
