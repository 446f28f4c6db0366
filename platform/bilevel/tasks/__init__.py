"""Which distributions over tasks do we ship?"""

from typing import TYPE_CHECKING, Any

from bilevel.tasks.alphabets import Alphabets
from bilevel.tasks.episodes import Episodes
from bilevel.tasks.omniglot import Omniglot
from bilevel.tasks.sinusoid import Sinusoid

if TYPE_CHECKING:
    from bilevel.tasks.grouped import Grouped

__all__ = ["Alphabets", "Episodes", "Grouped", "Omniglot", "Sinusoid"]


def __getattr__(name: str) -> Any:
    if name != "Grouped":
        raise AttributeError(f"module 'bilevel.tasks' has no attribute {name!r}; it has {', '.join(__all__)}")
    from bilevel.tasks.grouped import Grouped  # pandas is dear to import

    return Grouped
