"""How is a page that follows runs opened and ended from the command line?"""

from __future__ import annotations

import argparse
import time

from bilevel.cli import server
from bilevel.errors import BadInput
from bilevel.record import folder as folders
from bilevel.view.paper import paper
from bilevel.view.watch import HOST, PORT, Server


def watch(arguments: argparse.Namespace) -> int:
    """Serve the page until it is told to end."""
    runs = list({found.path: found for found in (folders.find(arguments.store, r) for r in arguments.runs)}.values())
    out = paper()
    with _listening(runs, arguments.port).serving() as page, server.told() as told:
        out.print(f"{', '.join(run.run_id for run in runs)}: {page.url} (Ctrl-C ends it)")
        while not told:
            time.sleep(server.LOOK_EVERY)
    return 0


def _listening(runs: list[folders.RunFolder], port: int | None) -> Server:
    """A server on this port; where none was asked for, on the usual one or any that is free."""
    if port is not None and not 0 <= port < 65536:
        raise BadInput(f"--port {port}: give 1 to 65535, or 0 for any that is free")
    try:
        return Server(runs, PORT if port is None else port)
    except OSError as error:
        if port is None:
            return Server(runs)
        raise BadInput(f"--port {port}: {HOST}:{port} cannot be had: {error.strerror}; give another") from error
