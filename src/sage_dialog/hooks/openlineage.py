"""Events in OpenLineage's form, sent by its standard client, in environments with an `openlineage.yml`."""

from __future__ import annotations

import atexit
import logging
from pathlib import Path
from typing import Any

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl

from sage_dialog import __version__
from sage_dialog.hooks.errors import RunRefused
from sage_dialog.hooks.run_record import Recorder

PRODUCER = f"urn:sage-dialog:{__version__}"
"""The URI of this software in the events."""

logger = logging.getLogger(__name__)


class OpenLineageEvents:
    """Sends the events of each run, made from its record, when it starts, with every node, and when it ends.

    A replay sends none: it repeats a run in a folder of its own. A server that cannot be reached stops no run.

    Args:
        recorder: the hook that records the run, registered before this one.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._client: Any = None
        self._sent: set[tuple[str, str]] = set()
        self._failed = 0

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        self._client = None
        try:
            config = dict(context.config_loader["openlineage"])
        except MissingConfigException:
            return
        if not config:
            return
        try:
            from openlineage.client import OpenLineageClient
        except ImportError as error:
            raise RunRefused(
                f"The environment {context.env or 'local'} has an openlineage.yml, but its client is not installed. "
                "Install the extra (pip install '.[openlineage]') or remove the file."
            ) from error
        transport = dict(config.get("transport") or {})
        if path := transport.get("log_file_path"):
            file = Path(context.project_path) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            transport["log_file_path"] = str(file)
        self._namespace = str(config.get("namespace") or "sage-dialog")
        try:
            self._client = OpenLineageClient(config={"transport": transport})
        except Exception as error:  # of the client: it has one class for each transport
            raise RunRefused(f"openlineage.yml: {error}. Correct `transport:` there.") from None
        atexit.register(self._send)  # after Ctrl-C; runs after the recorder's, which is registered later

    @hook_impl(trylast=True)  # after the recorder, here and below
    def before_pipeline_run(self) -> None:
        self._sent, self._failed = set(), 0
        self._send()

    @hook_impl(trylast=True)
    def before_node_run(self) -> None:
        self._send()

    @hook_impl(trylast=True)
    def after_dataset_saved(self) -> None:
        self._send()

    @hook_impl(trylast=True)
    def after_pipeline_run(self) -> None:
        self._send()

    @hook_impl(trylast=True)
    def on_pipeline_error(self) -> None:
        self._send()

    def _send(self) -> None:
        """Send the events that the record has and the client has not had."""
        record = self._recorder.record if self._client is not None else None
        if record is None or record.replay_of:
            return
        from sage_dialog.lineage.openlineage import run_events

        for event in run_events(record, self._namespace, PRODUCER):
            key = (event.run.runId, event.eventType.value)
            if key not in self._sent:
                self._sent.add(key)
                try:
                    self._client.emit(event)
                except Exception as error:  # of the network, the disk, the server: each has classes of its own
                    self._failed += 1
                    if self._failed == 1:
                        logger.warning("An OpenLineage event was not sent, and later ones may not be: %s", error)
        if record.ended and self._failed:
            logger.warning("%d OpenLineage events of this run were not sent.", self._failed)
            self._failed = 0
