"""Hooks of a run: validation, inputs, budget, progress, run records, OpenLineage, MLflow."""

from sage_dialog.hooks.budget import RunBudget
from sage_dialog.hooks.input_data import InputDataErrors
from sage_dialog.hooks.inputs import InputValidation, ProjectPaths
from sage_dialog.hooks.mlflow import Tracking
from sage_dialog.hooks.openlineage import OpenLineageEvents
from sage_dialog.hooks.progress import Progress
from sage_dialog.hooks.run_record import Recorder
from sage_dialog.hooks.validation import LoadVersionValidation, ParameterValidation, RunnerValidation

_BUDGET = RunBudget()
_RECORDER = Recorder(_BUDGET)
HOOKS = (
    ParameterValidation(),
    LoadVersionValidation(),
    RunnerValidation(),
    _BUDGET,
    InputDataErrors(),
    InputValidation(),
    ProjectPaths(),
    Progress(),
    _RECORDER,
    OpenLineageEvents(_RECORDER),
    Tracking(),
)
"""In the order of their registration."""
