"""A studio as a process to be killed: `python killed_studio.py FOLDER` prints its address.

Replies of sage_8 to "wait" never end.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from scripted_engine import ScriptedEngine
from studio_app import TOKEN, numbered_reply, reply_with_blocks, studio_of

from sage_dialog.studio import local_server
from sage_dialog.studio.app.server import make_app


class EndlessEngine(ScriptedEngine):
    def sample(self, policy: str, prompts: Any, *given: Any) -> Any:
        if policy == "sage_8" and prompts and prompts[0].messages[-1]["content"] == "wait":
            on_text = given[3]
            on_text(reply_with_blocks("It goes"))
            while True:
                on_text(" on and")
                time.sleep(0.01)
        return super().sample(policy, prompts, *given)


if __name__ == "__main__":
    studio = studio_of(Path(sys.argv[1]), EndlessEngine(numbered_reply))
    listener = local_server.listen(0)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    local_server.serve(make_app(studio, TOKEN), listener, studio.thread.stop)
