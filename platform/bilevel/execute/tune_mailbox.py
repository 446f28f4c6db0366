"""What passes between the driver's thread, which decides, and Tune's, which places trials?"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bilevel import trees
from bilevel.execute.vitals import Pulse
from bilevel.execute.worker import Hello, Played
from bilevel.study.events import Fault, Gone, Order, Placed, Said

News = Said | Placed | Gone | Fault


class Parcel:
    """An order on its way to a trial's process, inside of Tune's configuration of the trial.

    Tune copies and prints configurations, and keeps them to the end: this is one object, prints shortly, and is emptied
    when the attempt has ended.
    """

    def __init__(self, order: Order) -> None:
        self.order: Order | None = order
        self._name = f"trial {order.trial}, attempt {order.attempt}"

    def __deepcopy__(self, memo: object) -> Parcel:
        return self

    def __repr__(self) -> str:
        return self._name


@dataclass(frozen=True)
class Greeting:
    """The first result of an attempt: the process that it is in, and how that can be ended."""

    hello: Hello
    handle: Any


@dataclass(eq=False)
class Seat:
    """An attempt: waiting for Tune to take it, at work, or (`waits`) until the driver answers what it said."""

    trial: int
    attempt: int
    parcel: Parcel
    greeting: Greeting | None = None
    heard: float = 0.0
    pulse: Pulse = field(default_factory=Pulse)
    waits: bool = False
    frozen: str = ""
    closed: bool = False

    @property
    def place(self) -> str:
        """Where it is, in words."""
        hello = None if self.greeting is None else self.greeting.hello
        return "Tune" if hello is None else f"Tune worker {hello.pid} on {hello.host}"


class Mailbox:
    """Orders go out through it and news comes back; every method may be called from either thread.

    Tune's thread waits here where it would otherwise have to ask again and again: for an order when it has no trial,
    and for the driver's answer to what a trial said.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._turn = threading.Condition()
        self._orders: deque[Seat] = deque()
        self._seats: dict[str, Seat] = {}  # those that Tune has taken, by its own names
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self.closed = False

    # -- the driver's side ---------------------------------------------------------------------------------------------

    def begin(self, order: Order) -> None:
        """Queue an attempt."""
        with self._turn:
            self._orders.append(Seat(order.trial, order.attempt, Parcel(order)))
            self._turn.notify_all()

    def answer(self, trial: int) -> None:
        """Let a trial that waits go on."""
        with self._turn:
            for seat in self._seats.values():
                if seat.trial == trial and not seat.closed:
                    seat.waits = False
            self._turn.notify_all()

    def close_trial(self, trial: int) -> Seat | None:
        """Give an attempt up; if it computes, it is given back, to be ended where it is."""
        with self._turn:
            self._orders = deque(seat for seat in self._orders if seat.trial != trial)
            for seat in self._seats.values():
                if seat.trial == trial and not seat.closed:
                    seat.closed = True
                    self._turn.notify_all()
                    return None if seat.waits else seat
        return None

    def news(self, timeout: float) -> list[News]:
        """What has come, waiting at most `timeout` seconds for the first of it."""
        found: list[News] = []
        try:
            found.append(self._news.get(timeout=max(timeout, 0.0)))
            while True:
                found.append(self._news.get_nowait())
        except queue.Empty:
            return found

    @property
    def alive(self) -> int:
        """Attempts that have a process."""
        with self._turn:
            return sum(seat.greeting is not None for seat in self._seats.values())

    def waiting(self) -> bool:
        """Whether there are attempts, and none has found a place."""
        with self._turn:
            seats = list(self._seats.values())
            return bool(self._orders or seats) and not any(seat.greeting for seat in seats)

    def computing(self) -> list[Seat]:
        """The attempts at work."""
        with self._turn:
            return [s for s in self._seats.values() if s.greeting and not s.waits and not s.closed]

    def close(self) -> list[Seat]:
        """No more orders, and no more answers; the attempts that Tune still has."""
        with self._turn:
            self.closed = True
            self._orders.clear()
            self._turn.notify_all()
            return list(self._seats.values())

    # -- Tune's side ---------------------------------------------------------------------------------------------------

    def take(self, name: str) -> Seat | None:
        """The next attempt, called `name` by Tune. None: not now, Tune has other trials to look after."""
        with self._turn:
            self._turn.wait_for(lambda: self.closed or self._orders or self._seats)
            full = self._limit is not None and len(self._seats) >= self._limit
            if self.closed or full or not self._orders:
                return None
            seat = self._seats[name] = self._orders.popleft()
            return seat

    def placed(self, name: str, greeting: Greeting) -> bool:
        """An attempt has found a process; whether it may go on."""
        with self._turn:
            seat = self._seats[name]
            seat.greeting, seat.heard = greeting, time.monotonic()
            return self._tell(seat, Placed(seat.trial, seat.attempt, seat.place))

    def heard(self, name: str, played: Played) -> bool:
        """What a trial said; whether it may go on, which the driver says."""
        state = None if played.state is None else trees.unpack(played.state)
        with self._turn:
            seat = self._seats[name]
            said = (played.reports, None, played.end, played.output, state, played.state_step, played.files)
            seat.waits = played.end is None
            self._tell(seat, Said(seat.trial, seat.attempt, *said))
            seat.closed = seat.closed or played.end is not None
            self._turn.wait_for(lambda: self.closed or seat.closed or not seat.waits)
            seat.heard, seat.pulse = time.monotonic(), Pulse()
            return not self.closed and not seat.closed

    def spoiled(self, name: str) -> Greeting | None:
        """An attempt cannot begin in its process, which is to be ended: it is the next to be placed, elsewhere."""
        with self._turn:
            seat = self._seats[name]
            if not seat.closed and not self.closed and seat.parcel.order is not None:
                self._tell(seat, Fault("spoiled", f"{seat.place}: a trial that was stopped computes on; replaced"))
                self._orders.appendleft(Seat(seat.trial, seat.attempt, Parcel(seat.parcel.order)))
            seat.closed = True
            return seat.greeting

    def lost(self, name: str, why: Callable[[], str]) -> None:
        """An attempt's process has died."""
        with self._turn:
            seat = self._seats[name]
            if seat.greeting is None:  # an attempt that found no place has not begun
                self._tell(seat, Placed(seat.trial, seat.attempt, seat.place))
            kind, detail = ("frozen", seat.frozen) if seat.frozen else ("died", why())
            self._tell(seat, Gone(seat.trial, seat.attempt, kind, f"{seat.place}: {detail}"))
            seat.closed = True

    def left(self, name: str) -> None:
        """Tune has ended an attempt, however that came."""
        with self._turn:
            seat = self._seats.pop(name, None)
            if seat is not None:
                seat.parcel.order = None

    def _tell(self, seat: Seat, news: News) -> bool:
        if seat.closed or self.closed:
            return False
        self._news.put(news)
        return True
