"""The turns of a conversation with those that they replaced: a tree, of which one path is the conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sage_dialog.studio.chat.conversation import ChatTurn


@dataclass(frozen=True)
class Branch:
    """A turn in the tree.

    Attributes:
        parent: the number of the turn before; None of a first turn.
        policy: the policy that wrote the reply.
        blocks: whether it writes state and action blocks.
    """

    parent: int | None
    policy: str
    blocks: bool
    turn: ChatTurn


@dataclass
class Branches:
    """A tree of turns, numbered in the order in which they were drawn.

    Attributes:
        last: the number of the conversation's last turn; None of an empty conversation.
    """

    all: list[Branch] = field(default_factory=list)
    last: int | None = None

    def path(self) -> list[int]:
        """Return the numbers of the conversation's turns."""
        return self.path_to(self.last)

    def turns(self) -> tuple[ChatTurn, ...]:
        """Return the conversation's turns."""
        return tuple(self.all[number].turn for number in self.path())

    def before(self, number: int) -> tuple[ChatTurn, ...]:
        """Return the turns before one. Raises ValueError if there is no such turn."""
        return tuple(self.all[each].turn for each in self.path_to(self.at(number).parent))

    def at(self, number: int) -> Branch:
        """Return a turn with its place. Raises ValueError if there is no such turn."""
        if not 0 <= number < len(self.all):
            raise ValueError(f"There is no turn {number} in this conversation.")
        return self.all[number]

    def alternatives(self, number: int) -> list[int]:
        """Return the turns in the place of one, itself among them, in the order in which they were drawn."""
        parent = self.at(number).parent
        return [each for each, branch in enumerate(self.all) if branch.parent == parent]

    def draws(self, parent: int | None, user: str) -> int:
        """Return how often replies to a text were drawn after a turn."""
        drawn = (branch.turn.draws for branch in self.all if branch.parent == parent and branch.turn.user == user)
        return max(drawn, default=0)

    def add(self, branch: Branch) -> None:
        """Add a turn, with which the conversation ends now."""
        self.all.append(branch)
        self.last = len(self.all) - 1

    def count_draw(self, number: int, draws: int) -> None:
        """Record that replies were drawn for a turn without replacing it."""
        branch = self.at(number)
        self.all[number] = replace(branch, turn=replace(branch.turn, draws=max(draws, branch.turn.draws)))

    def insert(self, number: int, others: Branches) -> None:
        """Insert turns of another copy of the tree, which has the same ones before `number`, in front of that one.

        Turns from `number` on follow earlier ones.
        """
        for place, other in enumerate(others.all[:number]):
            self.count_draw(place, other.turn.draws)
        self.all[number:number] = added = others.all[number:]
        if self.last is not None and self.last >= number:
            self.last += len(added)

    def end_at(self, number: int | None) -> None:
        """Let the conversation end with a turn, or be empty; what followed remains in the tree."""
        if number is not None:
            self.at(number)
        self.last = number

    def show(self, number: int) -> None:
        """Let the conversation lead through a turn, and on through the latest of each place."""
        self.at(number)
        children: Sequence[int] = [number]
        while children:
            self.last = children[-1]
            children = [each for each, branch in enumerate(self.all) if branch.parent == self.last]

    def path_to(self, number: int | None) -> list[int]:
        """Return the numbers of the turns up to one."""
        path: list[int] = []
        while number is not None:
            path.append(number)
            number = self.all[number].parent
        return path[::-1]
