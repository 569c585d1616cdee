"""What surrounds every command: output that any terminal can take, and an end in a sentence."""

import codecs
import errno
import os
import sys
import tempfile
import traceback
import unicodedata
from collections.abc import Callable
from pathlib import Path

from projlab.cli.common import BAD_INPUT, BROKE, READER_LEFT
from projlab.errors import ProjlabError

PLAIN = {
    "κ": "k", "σ": "s", "₀": "0", "₁": "1", "₂": "2", "ᵢ": "i", "ⱼ": "j", "ᵀ": "'", "⁺": "+",
    "²": "^2", "√": "sqrt ", "×": "x", "·": ".", "−": "-", "–": "-", "—": "-", "≤": "<=",
    "≥": ">=", "‖": "||", "µ": "u", "μ": "u", "…": "...", "“": '"', "”": '"', "‘": "'", "’": "'",
    "Σ": "sum ", "∇": "grad ", "π": "pi", "λ": "l", "ᵣ": "r", "⁻": "-", "±": "+-", "→": "->",
}  # fmt: skip
"""What stands for a character that an output's encoding lacks; of one letter where a table's
columns hold it."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM)
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def degrade(error: UnicodeError) -> tuple[str, int]:
    """Stand in for characters that cannot be encoded: a codec's error handler."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_plain(character) for character in lacking), error.end


def _plain(character: str) -> str:
    if character in PLAIN:
        return PLAIN[character]
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is no text
        return f"\\u{ord(character):04x}"
    simpler = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return simpler or ("-" if "BOX DRAWINGS" in unicodedata.name(character, "") else "?")


def let_output_degrade() -> None:
    """Let standard output and error write what their encoding lacks in other characters."""
    codecs.register_error("projlab", degrade)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="projlab")


def guarded(work: Callable[[], int], no_room: str) -> int:
    """Do the work of a command; end what goes wrong in a sentence and an exit code of its own.

    `no_room` is what the command advises where nothing more can be written.
    """
    try:
        code = work()
        sys.stdout.flush()  # a full disk or a reader that left is noticed here, not at exit
    except ProjlabError as error:
        return _say(BAD_INPUT, str(error))
    except BrokenPipeError:
        _drop_output()
        return READER_LEFT
    except MemoryError as error:
        reason = f" ({error})" if str(error) else ""
        return _say(BAD_INPUT, f"it needs more memory than there is{reason}; nothing is kept of it")
    except OSError as error:
        sentence = _of_system(error, no_room)
        return _say(BAD_INPUT, sentence) if sentence else _broke(error)
    except Exception as error:  # a crash must not end with 1, which is a verdict
        return _broke(error)
    return code


def _of_system(error: OSError, no_room: str) -> str:
    """Say what the system refused, where the user can do something about it; else ""."""
    where = error.filename2 or error.filename
    named = str(where) if where is not None else "a file"
    reason = (error.strerror or str(error)).lower()
    if error.errno in NO_ROOM:
        return f"{named} cannot be written: {reason}; {no_room}"
    if error.errno in NOT_ALLOWED:
        return f"{named}: {reason}; give --out a folder that can be written"
    if error.errno in NOT_THERE and where is not None:
        return f"{named}: {reason}"
    return ""


def _broke(error: BaseException) -> int:
    """Say that projlab itself broke, and where its traceback is."""
    kind = f"{type(error).__name__}: {error}".partition("\n")[0]
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="projlab-", suffix=".txt", delete=False, encoding="utf-8", errors="projlab"
        ) as file:
            file.write(f"{' '.join(sys.argv)}\n\n{text}")
        where = f"the traceback is in {Path(file.name)}"
    except OSError:
        where = "the traceback follows"
        print(text, file=sys.stderr)
    return _say(BROKE, f"broke, which is a mistake of projlab's: {kind}; {where}")


def _say(code: int, sentence: str) -> int:
    drop_output_if_lost()
    print(f"projlab: {sentence}", file=sys.stderr)
    return code


def drop_output_if_lost() -> None:
    """What stands in a buffer that cannot be written would be complained about at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()


def _drop_output() -> None:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # standard output is no file
        return
