"""Text from outside, such as names of files: made fit for messages and for tables."""

import re

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: object, kept: str = "") -> str:
    """Replace every character that must not reach a terminal, a log or a page.

    Control characters could end a line or command a terminal, and undecodable bytes (surrogates) cannot be
    written at all.

    Parameters
    ----------
    text : object
        Its `str` is taken.
    kept : str
        Characters that stay although they are not printable.

    Returns
    -------
    str
        As long as the text, with U+FFFD for each character replaced.
    """
    return "".join(c if c.isprintable() or c in kept else _REPLACEMENT for c in str(text))


def one_line(text: object) -> str:
    """Bring a text into one printable line: every run of white space becomes one space.

    Parameters
    ----------
    text : object
        Its `str` is taken.
    """
    return printable(" ".join(str(text).split()))


def encodable(name: str) -> str:
    """Replace the undecodable bytes of a file's name, so that tables (UTF-8) can hold it.

    Parameters
    ----------
    name : str
        As Python gives it: undecodable bytes are lone surrogates.

    Returns
    -------
    str
        With U+FFFD in place of these bytes. Control characters stay: the name must still identify the file.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def counted(number: int, noun: str, plural: str = "") -> str:
    """Write a number with its noun: `1 file`, `2 files`.

    Parameters
    ----------
    number : int
    noun : str
        In the singular.
    plural : str
        By default the noun with an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def redacted(text: str) -> str:
    """Replace the user name and the password of every address in a text by ``***``."""
    # Up to the last @ before the next slash or blank: a password may hold an @.
    return re.sub(r"(?<=://)[^/\s]*@", "***@", text)


def without_credentials(address: str) -> str:
    """Remove the user name and the password from an address."""
    return redacted(address).replace("://***@", "://")
