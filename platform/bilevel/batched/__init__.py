"""How does one module compute for many tasks at once, each with weights of its own, exactly and fast?"""

from bilevel.batched.copies import duplicate
from bilevel.batched.lazy import initialized
from bilevel.batched.network import Network
from bilevel.batched.tensors import Statistics, Unsupported
from bilevel.batched.verification import Verdict, verify

__all__ = ["Network", "Statistics", "Unsupported", "Verdict", "duplicate", "initialized", "verify"]
