"""How one deployment has been doing: how fast it answers, how often, and whether it has to cool down.

Everything fades with a half-life of 30 s, and is faded only when it is looked at or added to. The clock is handed in.
"""

import math
import random

from one_api.contract import Kind
from one_api.errors import UpstreamError, UpstreamMisconfigured
from one_api.routing.circuit import Circuit

HALF_LIFE_S = 30.0
#: Tokens of the answer by which deployments are compared.
TYPICAL_TOKENS = 128
#: What the fixed part of an answer that is not streamed costs, in tokens; it keeps short answers from seeming slow.
FIXED_TOKENS = 32
#: What is known of times weighs at most as much as so many answers: as many later ones outweigh it.
MAX_ANSWERS = 200.0
#: The same for the time that open attempts have waited so far: it outweighs at most so many answers.
MAX_PENDING_WEIGHT = 25.0
#: With fewer answers than this, one that took less than this part of the mean leaves this part of what went before:
#: a slow deployment is asked seldom, and has to be seen to recover.
FEW_ANSWERS, OUTLIER_FRACTION, OUTLIER_MEMORY = 20.0, 0.4, 0.2
#: How many answers of the group's median speed each is credited with; what is less known is nearer to it.
CREDIT = 2.0
#: Successes and failures that each is credited with.
PRIOR_GOOD, PRIOR_BAD = 4.0, 0.2
#: Of what is known, exp(FADE * seconds) is left after so many.
FADE = -math.log(2) / HALF_LIFE_S


class Timing:
    """How long answers take, of one kind: streamed or whole.

    Kept as sums, of the time spent and of the answers had for it. Time that was spent without an answer counts as
    well, and so does the time for which open attempts have been waiting: a deployment that has fallen silent shows
    before the first of them ends.
    """

    __slots__ = (
        "_asked_s",
        "_at",
        "_first_s",
        "_load",
        "_streamed",
        "_token_s",
        "_tokens",
        "_usual_s",
        "answer_s",
        "answers",
        "pending",
        "usual_load",
    )

    def __init__(self, streamed: bool) -> None:
        self._streamed = streamed
        self._at = 0.0
        self._first_s = self._token_s = self._tokens = self._load = 0.0
        #: How many were in flight, on the mean, when these answers were asked for; 0 while that is not known.
        self.usual_load = 0.0
        #: Answers, faded as of the last change.
        self.answers = 0.0
        #: The mean time of a typical answer, in seconds; 0 while it is not known: a stream's is when one has ended.
        self.answer_s = 0.0
        #: Attempts that wait for their first event or answer.
        self.pending = 0
        self._asked_s = 0.0
        #: How long they usually wait: the mean time to a first event.
        self._usual_s = 0.0

    @property
    def first_event_s(self) -> float | None:
        """The mean time to the first event, or of a whole answer of typical length, in seconds."""
        return self._first_s / self.answers if self.answers else None

    @property
    def per_token_s(self) -> float | None:
        """The mean time for each further token of a stream, in seconds."""
        return self._token_s / self._tokens if self._tokens else None

    def expected_s(self, median_s: float, now: float) -> float:
        """Return the seconds to be expected per typical answer, in a group whose median is ``median_s``."""
        factor = math.exp(FADE * (now - self._at))
        kept = self.answers * factor if self.answer_s else 0.0
        spent_s = kept * self.answer_s if self.answers else self._first_s * factor
        mean_s = (spent_s + CREDIT * median_s) / (kept + CREDIT)
        overdue_s = self.pending * (now - self._usual_s) - self._asked_s
        return mean_s + overdue_s / (min(kept, MAX_PENDING_WEIGHT) + CREDIT) if overdue_s > 0 else mean_s

    def begin(self, now: float) -> None:
        """Note that an attempt begins to wait."""
        self.pending += 1
        self._asked_s += now

    def end(self, began: float) -> None:
        """Note that an attempt which began then waits no more."""
        self.pending -= 1
        self._asked_s = self._asked_s - began if self.pending else 0.0

    def answered(self, first_s: float, load: int, now: float) -> None:
        """Note the time to a first event, or of a whole answer, and how many were in flight when it was asked for."""
        self._fade(now)
        if self.answers < FEW_ANSWERS and first_s * self.answers < OUTLIER_FRACTION * self._first_s:
            self._scale(OUTLIER_MEMORY)
        self._first_s += first_s
        self._load += load
        self.answers += 1
        self._sum_up()

    def generated(self, seconds: float, tokens: int, now: float) -> None:
        """Note how long the tokens after a first event took."""
        self._fade(now)
        self._token_s += seconds
        self._tokens += tokens
        self._sum_up()

    def wasted(self, seconds: float, now: float) -> None:
        """Note time that was spent without an answer."""
        self._fade(now)
        self._first_s += seconds
        self._sum_up()

    def forget(self) -> None:
        """Let go of what was waited for, when something new begins."""
        self._first_s = self._load = self.answers = 0.0
        self.answer_s = self._usual_s = self.usual_load = 0.0

    def _fade(self, now: float) -> None:
        factor = math.exp(FADE * (now - self._at))
        if self.answers * factor > MAX_ANSWERS:
            factor = MAX_ANSWERS / self.answers
        self._at = now
        self._scale(factor)

    def _scale(self, factor: float) -> None:
        self._first_s *= factor
        self._load *= factor
        self._token_s *= factor
        self._tokens *= factor
        self.answers *= factor

    def _sum_up(self) -> None:
        if self.answers and (self._tokens or not self._streamed):
            per_token_s = self._token_s / self._tokens if self._tokens else 0.0
            self._usual_s = self._first_s / self.answers
            self.usual_load = self._load / self.answers
            self.answer_s = self._usual_s + TYPICAL_TOKENS * per_token_s


class Health:
    """How a deployment has been doing. Times are monotonic seconds."""

    __slots__ = (
        "_at",
        "_bad",
        "_cooling_since",
        "_good",
        "_unfit",
        "circuit",
        "cooling_until",
        "in_flight",
        "streamed",
        "whole",
    )

    def __init__(self, rng: random.Random | None = None) -> None:
        self.in_flight = 0
        #: Until when it cools down because it asked for it, or has no credit: no failure.
        self.cooling_until = 0.0
        #: The same where the operator's settings do not fit it, by what was asked for, and since when: one that chats
        #: may have no embeddings, and no client may stop the chats of all by asking for these.
        self._unfit: dict[Kind, tuple[float, float]] = {}
        self._cooling_since = 0.0
        self.circuit = Circuit(rng)
        self.streamed = Timing(streamed=True)
        self.whole = Timing(streamed=False)
        self._good = self._bad = self._at = 0.0

    @property
    def failures(self) -> int:
        """Failures since the last success."""
        return self.circuit.failures

    def cools_until(self, kind: Kind | None) -> float:
        """Return until when it gets no request of a kind; with None, no request of any kind that it was asked for."""
        if not self._unfit:
            return self.cooling_until
        unfit = [until for each, (until, _) in self._unfit.items() if kind in (None, each)]
        return max(self.cooling_until, *unfit) if unfit else self.cooling_until

    def timing(self, stream: bool) -> Timing:
        """Return the times of answers of one kind."""
        return self.streamed if stream else self.whole

    def success(self, now: float) -> float:
        """Return how likely an answer is at least: one deviation below the mean of the Beta posterior."""
        factor = math.exp(FADE * (now - self._at))
        good = self._good * factor + PRIOR_GOOD
        total = good + self._bad * factor + PRIOR_BAD
        mean = good / total
        return mean - math.sqrt(mean * (1 - mean) / (total + 1))

    def succeeded(self, began: float, now: float, kind: Kind = "chat") -> tuple[int, int]:
        """Note that an attempt of ``began`` answers; the mark returned lets ``failed`` take it back."""
        self._count(1, 0, now)
        if self.cooling_until and began >= self._cooling_since:
            self.cooling_until = 0.0
        if self._unfit and began >= self._unfit.get(kind, (0.0, math.inf))[1]:
            del self._unfit[kind]
        was_open = self.circuit.open_until > 0
        mark = self.circuit.succeeded(began, now)
        if was_open and not self.circuit.open_until:
            # What went before is the outage: how each went through it says nothing of how it will do from now on.
            self.streamed.forget()
            self.whole.forget()
            self._good, self._bad = 1.0, 0.0
        return mark

    def failed(
        self,
        error: UpstreamError,
        now: float,
        probe: bool = False,
        mark: tuple[int, int] | None = None,
        took_s: float = 0.0,
        kind: Kind = "chat",
    ) -> None:
        """Note an error: its class decides whether it counts as a failure, and how long the deployment cools down.

        ``mark`` is that of the success which the same attempt was taken for, until it broke; ``took_s`` is how long
        the client had waited for nothing; ``kind`` is what was asked for.
        """
        if isinstance(error, UpstreamMisconfigured):
            self._unfit[kind] = (max(now + error.cooldown_s, self.cools_until(kind)), now)
        else:
            self._cool_down(error.cooldown_s, now)
        if error.counts_as_failure:
            self._count(-1 if mark is not None else 0, 1, now)
            # A stream that breaks after its content costs more than time: its client has half an answer.
            self.circuit.failed(now, probe, mark, took_s if mark is None else math.inf)
        elif probe:
            self.circuit.release()

    def _cool_down(self, seconds: float, now: float) -> None:
        """Ask nothing of it for so long at least: a long cooldown is not shortened by a short one."""
        if now + seconds > self.cooling_until and seconds > 0:
            self.cooling_until, self._cooling_since = now + seconds, now

    def _count(self, good: int, bad: int, now: float) -> None:
        factor = math.exp(FADE * (now - self._at))
        self._at = now
        self._good = max(0.0, self._good * factor + good)
        self._bad = self._bad * factor + bad
