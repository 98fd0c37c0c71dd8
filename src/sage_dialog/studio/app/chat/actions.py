"""What people do in a conversation: say, draw again, edit, branch, choose among candidates, vote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sage_dialog.studio.chat.branches import Branch
from sage_dialog.studio.chat.conversation import ChatTurn, Settings
from sage_dialog.studio.chat.drawing import Drawer, Drawn
from sage_dialog.studio.chat.policies import TalkPolicies, TalkPolicy
from sage_dialog.studio.chat.talks import Side, Talk, TalkFolder, Unanswered


class TalkBusyError(ValueError):
    """A reply is being drawn, and nothing else can be done with the conversation."""


class ChatActions:
    """Changes conversations, and saves them after each change.

    Args:
        number: of candidates.
    """

    def __init__(self, policies: TalkPolicies, drawer: Drawer, folder: TalkFolder, number: int) -> None:
        self.policies, self.folder, self.number = policies, folder, number
        self._drawer = drawer

    def begin(self, names: Sequence[str], blind: bool) -> Talk:
        """Return a new conversation with one policy or two. It is saved with its first message.

        Raises:
            ValueError: if no policy is named, one is not available, or both are the same.
        """
        if not names:
            raise ValueError("Choose a policy.")
        if len(set(names)) < len(names):
            raise ValueError(f"Choose another policy beside {names[0]}.")
        policies = [self.policies.get(name) for name in names]
        steered = next((policy for policy in policies if policy.blocks), policies[0])
        return Talk.new(policies, steered.settings, blind and len(names) > 1)

    def say(self, talk: Talk, text: str) -> None:
        """Start the replies of all sides to a message. Raises ValueError as `reply`.

        It follows the last message that all sides have replied to.
        """
        paths = [side.branches.path() for side in talk.sides]
        shared = min(map(len, paths))
        self._ask(talk, Unanswered(text, tuple(path[shared - 1] if shared else None for path in paths)))

    def say_again(self, talk: Talk, text: str) -> None:
        """Start the replies to a message that has none yet, where it was said. Raises ValueError as `edit`."""
        if talk.unanswered is None:
            raise ValueError("There is no message without a reply.")
        self._ask(talk, replace(talk.unanswered, text=text))

    def discard(self, talk: Talk) -> None:
        """Forget a message that has no reply, and why it has none. Raises ValueError as `edit`."""
        self._check_free(talk)
        talk.unanswered = None
        for side in talk.sides:
            side.drawing = None
        self.folder.save(talk)

    def again(self, talk: Talk, number: int) -> None:
        """Start another reply in place of one. Raises ValueError as `edit`."""
        (side,) = talk.sides
        self.edit(talk, number, side.branches.at(number).turn.user)

    def edit(self, talk: Talk, number: int, text: str) -> None:
        """Start a reply to `text` in place of a turn, which remains beside it.

        Raises:
            TalkBusyError: if a reply is being drawn.
            ValueError: if there is no such turn, the text is empty, or the policy is not available.
        """
        (side,) = talk.sides
        self._ask(talk, Unanswered(text, (side.branches.at(number).parent,)))

    def end_at(self, talk: Talk, number: int) -> None:
        """Let the conversation go on from a turn; what followed remains beside it. Raises ValueError as `edit`."""
        self._check_free(talk)
        (side,) = talk.sides
        side.branches.end_at(number)
        side.candidates = ()
        self.folder.save(talk)

    def show(self, talk: Talk, number: int) -> None:
        """Show a turn in place of the one beside it, and what followed it. Raises ValueError as `edit`."""
        self._check_free(talk)
        (side,) = talk.sides
        side.branches.show(number)
        side.candidates = ()
        self.folder.save(talk)

    def draw_candidates(self, talk: Talk) -> None:
        """Start to draw candidates for the last reply. Raises ValueError as `edit`, or if there is none."""
        self._check_free(talk)
        (side,) = talk.sides
        if side.branches.last is None:
            raise ValueError("The conversation is empty.")
        last, policy = side.branches.last, self.policies.get(side.policy)
        branch = side.branches.at(last)
        draws = side.branches.draws(branch.parent, branch.turn.user)
        turns = (*side.branches.before(last), replace(branch.turn, draws=draws))

        def on_end(drawn: Drawn) -> None:
            side.candidates, side.context_left = drawn.turns, drawn.context_left
            if drawn.turns:
                side.branches.count_draw(last, drawn.turns[0].draws)
            self.folder.save(talk)

        side.drawing = self._drawer.candidates(policy, talk.settings, turns, self.number, on_end)

    def pick(self, talk: Talk, number: int) -> None:
        """Go on with a candidate, counted from 1, in place of the last reply. Raises ValueError if there is none."""
        self._check_free(talk)
        (side,) = talk.sides
        if not 1 <= number <= len(side.candidates) or side.branches.last is None:
            raise ValueError(f"There is no candidate {number}; draw candidates first.")
        last = side.branches.at(side.branches.last)
        self._add(side, self.policies.get(side.policy), last.parent, (side.candidates[number - 1],))
        self.folder.save(talk)

    def change(self, talk: Talk, settings: Settings, names: Sequence[str]) -> None:
        """Set the settings and policies of the next replies. Raises ValueError as `edit`."""
        if len(set(names)) < len(names):
            raise ValueError(f"Choose another policy beside {names[0]}.")
        policies = [self.policies.get(name) for name in names]
        if settings == talk.settings and list(names) == [side.policy for side in talk.sides]:
            return
        self._check_free(talk)
        talk.settings = settings
        for side, policy in zip(talk.sides, policies, strict=bool(names)):
            side.policy, side.blocks, side.candidates = policy.name, policy.blocks, ()
        self.folder.save(talk)

    def stop(self, talk: Talk) -> None:
        """Stop the replies that are being drawn."""
        for side in talk.sides:
            if side.drawing is not None:
                side.drawing.stop()

    def _reply(self, talk: Talk, side: Side, policy: TalkPolicy, parent: int | None, text: str) -> None:
        branches = side.branches
        before = tuple(branches.at(number).turn for number in branches.path_to(parent))

        def on_end(drawn: Drawn) -> None:
            if not drawn.turns:
                raise ValueError("The reply was stopped before its first word.")
            self._add(side, policy, parent, drawn.turns)
            side.context_left = drawn.context_left
            if not any(each.busy or each.failed for each in talk.sides if each is not side):
                talk.unanswered = None
            self.folder.save(talk)

        draws = branches.draws(parent, text)
        side.drawing = self._drawer.reply(policy, talk.settings, before, parent, text, draws, on_end)

    def _ask(self, talk: Talk, message: Unanswered) -> None:
        """Start the replies of all sides, and save the message for the case that the studio is killed."""
        if not message.text.strip():
            raise ValueError("The message is empty.")
        self._check_free(talk)
        policies = [self.policies.get(side.policy) for side in talk.sides]
        for side, policy, parent in zip(talk.sides, policies, message.after, strict=True):
            self._reply(talk, side, policy, parent, message.text)
        talk.unanswered = message
        self.folder.save(talk)

    @staticmethod
    def _add(side: Side, policy: TalkPolicy, parent: int | None, turns: Sequence[ChatTurn]) -> None:
        for turn in turns:
            side.branches.add(Branch(parent, policy.name, policy.blocks, turn))
        side.candidates = ()

    @staticmethod
    def _check_free(talk: Talk) -> None:
        if talk.busy:
            raise TalkBusyError("A reply is being drawn; stop it first.")
