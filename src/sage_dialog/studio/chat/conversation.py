"""A conversation with a policy: what was said, how it came about, what may be taken back. It knows no terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from jinja2 import TemplateError

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.inference.candidates import parse_candidate
from sage_dialog.inference.engine import Engine, Prompt, Sample
from sage_dialog.sac import Chain


@dataclass(frozen=True)
class Reply:
    """`text` is what the policy wrote, blocks included, `said` what the person hears of it.

    Where blocks do not parse, `chain` is null and everything is on_text, as in a rollout. `fault` says what is wrong.
    """

    text: str
    said: str
    chain: Chain | None
    fault: str | None

    @classmethod
    def read(cls, sample: Sample, blocks: bool) -> Reply:
        """A sample of a policy that writes blocks, or of one that does not."""
        read = parse_candidate(sample, blocks)
        return cls(sample.text, sample.text if read.utterance is None else read.utterance, read.chain, read.reason)


@dataclass(frozen=True)
class Exchange:
    """What the person said, the reply that counts, how that one was steered, and how often replies were drawn."""

    user: str
    reply: Reply
    steering: Steering
    draws: int = 1


@dataclass
class Conversation:
    """The agent sees what it sees in self-play: its system message, the person's words, its own messages with blocks.

    A reply is a function of the engine's seed, what stands before it, the steering, and how many times one was drawn
    for this turn. Whatever ends a drawing before its time leaves the conversation as it was.
    """

    engine: Engine
    policy: str
    blocks: bool
    sampling: SamplingConfig
    system_prompt: str | None = None
    steering: Steering = field(default_factory=Steering)
    exchanges: tuple[Exchange, ...] = ()
    offered: tuple[Exchange, ...] = ()
    """Candidates for the last exchange, to pick from."""

    def say(self, text: str, on_text: Callable[[str], None] | None = None) -> Reply:
        """The reply to `text`; `on_text` is called with its pieces while it is written.

        Raises:
            ValueError: if the model's context is full, or the policy cannot be steered so.
        """
        (reply,) = self._draw(self.exchanges, text, 0, 1, on_text)
        self.exchanges, self.offered = (*self.exchanges, Exchange(text, reply, self.steering)), ()
        return reply

    def retry(self, on_text: Callable[[str], None] | None = None) -> Reply:
        """Another reply in place of the last, steered as is set now. Raises ValueError as `say` does."""
        last = self.last
        (reply,) = self._draw(self.exchanges[:-1], last.user, last.draws, 1, on_text)
        self._put(Exchange(last.user, reply, self.steering, last.draws + 1))
        self.offered = ()
        return reply

    def draw_candidates(self, number: int) -> tuple[Reply, ...]:
        """Replies that may take the place of the last, which stays until one is picked. Raises as `say` does."""
        last = self.last
        replies = self._draw(self.exchanges[:-1], last.user, last.draws, number)
        self._put(replace(last, draws=last.draws + 1))
        self.offered = tuple(Exchange(last.user, reply, self.steering, last.draws + 1) for reply in replies)
        return replies

    def pick(self, number: int) -> Reply:
        """Go on with a candidate, counted from 1. Raises ValueError where there is none of that number."""
        if not self.offered:
            raise ValueError("There are no candidates to pick from; /candidates draws some.")
        if not 1 <= number <= len(self.offered):
            raise ValueError(f"There are candidates 1 to {len(self.offered)}, and no {number}.")
        self._put(self.offered[number - 1])
        return self.last.reply

    def undo(self) -> Exchange:
        """Takes back the last exchange. Raises ValueError where nothing was said."""
        last = self.last
        self.exchanges, self.offered = self.exchanges[:-1], ()
        return last

    def begin_anew(self) -> None:
        """Forgets what was said; steering stays."""
        self.exchanges, self.offered = (), ()

    def steer(self, steering: Steering) -> None:
        """What replies are steered to from now on.

        Raises:
            ValueError: if the policy cannot be steered so; the steering stays as it was.
        """
        self.engine.sample(self.policy, [], self.sampling, steering=steering)  # no prompt: only what it says to it
        self.steering = steering

    @property
    def last(self) -> Exchange:
        """Raises ValueError where nothing was said."""
        if not self.exchanges:
            raise ValueError("Nothing was said yet.")
        return self.exchanges[-1]

    def messages(self) -> tuple[dict[str, str], ...]:
        """Everything said, as the agent sees it."""
        return self._view(self.exchanges)

    def _view(self, exchanges: Sequence[Exchange]) -> tuple[dict[str, str], ...]:
        view = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        for exchange in exchanges:
            view.append({"role": "user", "content": exchange.user})
            view.append({"role": "assistant", "content": exchange.reply.text})
        return tuple(view)

    def _draw(
        self,
        before: Sequence[Exchange],
        text: str,
        draw: int,
        number: int,
        on_text: Callable[[str], None] | None = None,
    ) -> tuple[Reply, ...]:
        messages = (*self._view(before), {"role": "user", "content": text})
        prompt = Prompt(messages, ("chat", len(before), draw))
        try:
            (samples,) = self.engine.sample(self.policy, [prompt], self.sampling, number, self.steering, on_text)
        except TemplateError as error:  # such as one that takes no system message
            raise ValueError(f"The model's chat template does not take this conversation: {error}") from error
        if not samples:
            raise ValueError(
                f"This does not fit the model's context together with a reply of {self.sampling.max_new_tokens} "
                "tokens. /undo takes back an exchange, /new begins anew."
            )
        return tuple(Reply.read(sample, self.blocks) for sample in samples)

    def _put(self, exchange: Exchange) -> None:
        self.exchanges = (*self.exchanges[:-1], exchange)
