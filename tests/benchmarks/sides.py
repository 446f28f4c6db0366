"""How does each peer compute a meta-gradient, written as its own MAML example writes it?

A side is given a case, a plain network and the tasks; `accumulate()` leaves the mean over tasks of the query loss's
gradient in `.grad` of the network's parameters. The peers are imported where they are used: each lives in an
environment of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from cases import Case
from plain import Task, loss_of, meta_gradient
from torch import nn

Accumulate = Callable[[], None]


def plain(case: Case, net: nn.Module, tasks: list[Task]) -> Accumulate:
    """The definition itself."""
    return lambda: meta_gradient(case, net, tasks) and None


def learn2learn(case: Case, net: nn.Module, tasks: list[Task]) -> Accumulate:
    """`examples/vision/maml_omniglot.py` of learn2learn 0.2.0: clone, adapt, backward, task by task."""
    import learn2learn_stubs  # noqa: F401  (stands in for packages that MAML does not need)
    from learn2learn.algorithms import MAML

    loss, maml = loss_of(case), MAML(net, lr=case.lr, first_order=False)

    def accumulate() -> None:
        for support_x, support_y, query_x, query_y in tasks:
            learner = maml.clone()
            for _ in range(case.steps):
                learner.adapt(loss(learner(support_x), support_y))
            loss(learner(query_x), query_y).backward()
        for parameter in net.parameters():
            parameter.grad.mul_(1 / len(tasks))

    return accumulate


def higher(case: Case, net: nn.Module, tasks: list[Task]) -> Accumulate:
    """`examples/maml-omniglot.py` of higher 0.2.1: an inner-loop context a task, backward in it."""
    from higher import innerloop_ctx

    loss, inner = loss_of(case), torch.optim.SGD(net.parameters(), lr=case.lr)

    def accumulate() -> None:
        for support_x, support_y, query_x, query_y in tasks:
            with innerloop_ctx(net, inner, copy_initial_weights=False) as (fast, descent):
                for _ in range(case.steps):
                    descent.step(loss(fast(support_x), support_y))
                (loss(fast(query_x), query_y) / len(tasks)).backward()

    return accumulate


def torchopt(case: Case, net: nn.Module, tasks: list[Task]) -> Accumulate:
    """`examples/few-shot/maml_omniglot.py` of TorchOpt 0.7.3: step, then put the start back, task by task.

    The example keeps the graphs of all tasks and calls backward once; here backward follows each task, which takes
    a thirtieth of the memory and no more time.
    """
    from torchopt import MetaSGD, extract_state_dict, recover_state_dict

    loss, inner = loss_of(case), MetaSGD(net, lr=case.lr)

    def accumulate() -> None:
        start = extract_state_dict(net, by="reference", detach_buffers=True)
        start_inner = extract_state_dict(inner, by="reference")
        for support_x, support_y, query_x, query_y in tasks:
            for _ in range(case.steps):
                inner.step(loss(net(support_x), support_y))
            query_loss = loss(net(query_x), query_y)
            recover_state_dict(net, start)
            recover_state_dict(inner, start_inner)
            (query_loss / len(tasks)).backward()

    return accumulate


SIDES = {side.__name__: side for side in (plain, learn2learn, higher, torchopt)}
