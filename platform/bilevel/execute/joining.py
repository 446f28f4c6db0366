"""How is a Ray cluster joined that somebody else has started, which may ask for a token?

Ray turns its tokens on where it starts a cluster and finds one, as a local cluster leaves it in the home folder; but
who joins has to say `RAY_AUTH_MODE=token`. That is done here, where the cluster asks: no other one is sent a token.
"""

from __future__ import annotations

import logging
import os
import socket

from bilevel.errors import BadInput
from bilevel.execute import internals, terminal
from bilevel.execute.cluster import Cluster, handlers

import ray  # isort: skip # after the variables that `cluster` sets for it

REACH = 3.0
"""Seconds for the head of a cluster to accept a connection."""
SECONDS = 4
"""For a head that listens to let us in: Ray asks 20 times, a second apart, even if it is the token that is wrong."""
CURE = "start one with `ray start --head`, or leave --address out"


def attach(address: str) -> Cluster:
    """Join the cluster at an address.

    Raises:
        BadInput: nothing answers there, or it does not let us in.
    """
    if "://" in address:
        raise BadInput(f"address {address!r}: give the head's own host:port (6379 unless set), no scheme")
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACH).close()
        except OSError as error:
            raise BadInput(f"no Ray cluster at {address} ({error}); {CURE}") from error
    _join(address)
    internals.silence_worker_logs(True)
    return Cluster(joined=True)


def _join(address: str) -> None:
    mine = "RAY_AUTH_MODE" not in os.environ and internals.has_token()
    failed, asks = _tried(address, 1 if mine else SECONDS)
    if failed is not None and mine:
        internals.use_token(asks)
        failed, asks = _tried(address, SECONDS)
    if failed is None:
        return
    if mine:
        internals.use_token(False)
    if asks:
        raise BadInput(
            f"the Ray cluster at {address} asks for another token than is here; put its own (`ray get-auth-token` where"
            " it was started) into RAY_AUTH_TOKEN or ~/.ray/auth_token, with RAY_AUTH_MODE=token or unset"
        ) from failed
    reason = str(failed).strip().partition("\n")[0] or type(failed).__name__
    raise BadInput(f"no Ray cluster could be joined at {address} ({reason}); {CURE}") from failed


def _tried(address: str, seconds: int) -> tuple[Exception | None, bool]:
    """Why it did not let us in, and whether it asked for a token."""
    failed: Exception | None = None
    with terminal.spared() as heard:
        try:
            with handlers(), internals.discreet(), internals.impatient(seconds):
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            failed = error
    return failed, "InvalidAuthToken" in heard.text
