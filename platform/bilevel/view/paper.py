"""How does text reach the terminal as it is? What a user wrote is never taken for markup, an emoji or a command."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421, 0x9B: 0x2421}
"""Control characters, and the pictures that stand for them."""


def plain(text: str = "", style: Any = "", **options: Any) -> Text:
    """Text to be shown as it is; all that a user named, wrote or raised goes through here.

    Args:
        text: what is shown.
        style, options: as for rich's `Text`.
    """
    return Text(text.translate(_CONTROL), style, **options)


class Paper(Console):
    """A console on which every string is plain, in tables and titles too; what is styled says so with `plain`."""

    def render_str(self, text: str, *, style: Any = "", justify: Any = None, overflow: Any = None, **_: Any) -> Text:
        """The string as it is, whoever asks for markup."""
        return plain(text, style, justify=justify, overflow=overflow)


def paper(*, error: bool = False) -> Paper:
    """The terminal: standard output, or standard error."""
    return Paper(stderr=error, highlight=False, soft_wrap=True)
