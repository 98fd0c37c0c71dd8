"""Events in OpenLineage's form from run records: a run with its nodes, and the datasets that each read and wrote."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import NAMESPACE_URL, UUID, uuid5

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    dataset_version_dataset,
    error_message_run,
    job_type_job,
    output_statistics_output_dataset,
    parent_run,
    processing_engine_run,
)

from sage_dialog.lineage.content import of_files
from sage_dialog.lineage.records import InputRecord, NodeRecord, OutputRecord, RunRecord

_ENDS = {"done": RunState.COMPLETE, "failed": RunState.FAIL, "stopped": RunState.ABORT}


def run_events(record: RunRecord, namespace: str, producer: str) -> Iterator[RunEvent]:
    """Yield the events of a run so far, the same ones for the same record.

    A run is a job named after its pipelines; each of its nodes is a job with the run as its parent. Datasets have the
    names of the catalog, and their versions or the digests of their files.

    Args:
        namespace: of jobs and datasets.
        producer: a URI for the software that sends the events.
    """
    events = _Events(record, namespace, producer)
    yield events.of_run(RunState.START, record.started)
    for name, node in record.nodes.items():
        written = [record.writes[one].at for one in node.outputs if one in record.writes]
        if started := node.started or (record.started if written else None):  # nodes of other processes have no times
            yield events.of_node(RunState.START, started, name, node)
            if len(written) == len(node.outputs):
                yield events.of_node(RunState.COMPLETE, node.ended or max(written), name, node)
            elif record.ended:
                yield events.of_node(_ENDS[record.outcome], record.ended, name, node)
    if record.ended:
        yield events.of_run(_ENDS[record.outcome], record.ended)


class _Events:
    def __init__(self, record: RunRecord, namespace: str, producer: str) -> None:
        self._record, self._namespace, self._producer = record, namespace, producer
        self._id = uuid5(NAMESPACE_URL, f"{record.process.host}/{record.process.pid}/{record.run}")
        self._name = "+".join(record.selection.pipelines)

    def of_run(self, state: RunState, time: str) -> RunEvent:
        inputs = [self._input(name, read) for name, read in sorted(self._record.reads.items())]
        outputs = [self._output(name, written) for name, written in sorted(self._record.writes.items())]
        return self._event(state, time, self._id, self._name, "DAG", {}, inputs, outputs if _is_end(state) else [])

    def of_node(self, state: RunState, time: str, name: str, node: NodeRecord) -> RunEvent:
        record = self._record
        parent = parent_run.ParentRunFacet(
            run=parent_run.Run(runId=str(self._id)),
            job=parent_run.Job(namespace=self._namespace, name=self._name),
            producer=self._producer,
        )
        reads = ((one, record.reads.get(one) or record.output_as_input(one)) for one in node.inputs)
        inputs = [self._input(one, read or InputRecord()) for one, read in reads]
        outputs = [self._output(one, record.writes[one]) for one in node.outputs if one in record.writes]
        job, run = f"{self._name}.{name}", uuid5(self._id, name)
        return self._event(state, time, run, job, "TASK", {"parent": parent}, inputs, outputs if _is_end(state) else [])

    def _event(
        self,
        state: RunState,
        time: str,
        run: UUID,
        job: str,
        kind: str,
        facets: dict[str, object],
        inputs: list[InputDataset],
        outputs: list[OutputDataset],
    ) -> RunEvent:
        facets["processing_engine"] = processing_engine_run.ProcessingEngineRunFacet(
            version=self._record.packages.get("kedro", "unknown"), name="Kedro", producer=self._producer
        )
        if state in (RunState.FAIL, RunState.ABORT) and self._record.error:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
                message=self._record.error, programmingLanguage="Python", producer=self._producer
            )
        job_type = job_type_job.JobTypeJobFacet(
            processingType="BATCH", integration="KEDRO", jobType=kind, producer=self._producer
        )
        return RunEvent(
            eventType=state,
            eventTime=time,
            run=Run(runId=str(run), facets=facets),
            job=Job(namespace=self._namespace, name=job, facets={"jobType": job_type}),
            inputs=inputs,
            outputs=outputs,
            producer=self._producer,
        )

    def _input(self, name: str, read: InputRecord) -> InputDataset:
        version = read.version or (of_files(read.files).sha256 if read.files is not None else None)
        return InputDataset(namespace=self._namespace, name=name, facets=self._version(version))

    def _output(self, name: str, written: OutputRecord) -> OutputDataset:
        size = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            size=written.bytes, producer=self._producer
        )
        return OutputDataset(
            namespace=self._namespace,
            name=name,
            facets=self._version(written.version or written.sha256),
            outputFacets={"outputStatistics": size},
        )

    def _version(self, version: str | None) -> dict[str, object]:
        facet = dataset_version_dataset.DatasetVersionDatasetFacet
        return {"version": facet(datasetVersion=version, producer=self._producer)} if version else {}


def _is_end(state: RunState) -> bool:
    return state != RunState.START
