"""Which distributions over tasks do we ship?"""

from bilevel.tasks.alphabets import Alphabets
from bilevel.tasks.episodes import Episodes
from bilevel.tasks.grouped import Grouped
from bilevel.tasks.omniglot import Omniglot
from bilevel.tasks.sinusoid import Sinusoid

__all__ = ["Alphabets", "Episodes", "Grouped", "Omniglot", "Sinusoid"]
