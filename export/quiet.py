"""Keeps known chatter of the libraries off the terminal, and lets everything else through."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet(loggers: Sequence[str], warned: Sequence[str] = ()) -> Iterator[None]:
    """Silence some loggers below ERROR and some deprecation warnings, while the context is open.

    :param loggers: names of loggers; their children that set no level of their own follow.
    :param warned: regular expressions for the start of each DeprecationWarning to ignore.
    """
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in loggers]
    for logger, _ in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in warned:
                warnings.filterwarnings("ignore", message, DeprecationWarning)
            yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
