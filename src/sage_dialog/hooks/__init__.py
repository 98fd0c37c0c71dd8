"""Hooks of a run: parameters, pins and inputs are checked before the first node, then each node is logged."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args, get_origin

from kedro.framework.hooks import hook_impl

from sage_dialog.hooks.errors import RunRefused

if TYPE_CHECKING:  # Kedro reads this file for every command; what only a run needs comes in with the run
    from kedro.framework.context import KedroContext
    from kedro.pipeline import Pipeline
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    from sage_dialog.config import Parameters


class ParameterGate:
    """The whole parameter tree is checked, `--params` included, whatever part of it the run uses."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        from omegaconf.errors import InterpolationResolutionError

        loader = context.config_loader
        try:
            raw = loader["parameters"]
        except InterpolationResolutionError as error:  # such as ${text:FILE} of a file that is not there
            why = str(error).splitlines()[0].rpartition("interpolation: ")[2]
            raise _refused([f"{error.full_key}: {why}"]) from error
        catalog = loader["catalog"]
        outside = (catalog.get("external_models") or {}).get("models") or {}
        check_parameters(raw, context.env, loader.runtime_params, tuple(outside))


def check_parameters(
    raw: Mapping[str, Any],
    env: str | None = None,
    given: Mapping[str, Any] | None = None,
    external_models: Sequence[str] = (),
) -> Parameters:
    """The typed tree of `raw`, which is `conf/base`, then `conf/<env>`, then `given` on the command line.

    Args:
        external_models: their names in the catalog, which pairs may name beside policies.

    Raises:
        RunRefused: naming every key that is unknown, missing or out of range, and where it stands.
    """
    from pydantic import ValidationError

    from sage_dialog.config import Parameters

    try:
        parameters = Parameters.model_validate(raw)
    except ValidationError as error:
        raise _refused([_fault(details, env, given or {}) for details in error.errors(include_url=False)]) from error
    if faults := [
        *_pair_faults(parameters.evaluation.pairs, external_models),
        *_benchmark_faults(parameters.evaluation.benchmarks.policies),
        *_held_out_faults(parameters),
        *_quantize_faults(parameters),
        *_batch_faults(parameters),
    ]:
        raise _refused([f"{_dotted(path)}: {what}. {_where(path, env, given or {})}" for path, what in faults])
    return parameters


def _refused(faults: Sequence[str]) -> RunRefused:
    return RunRefused("Parameters are not right, nothing was run:\n" + "\n".join(f"  {fault}" for fault in faults))


def _pair_faults(
    pairs: Sequence[tuple[str, str]], external_models: Sequence[str]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What would else come to light when every policy has been trained: a pair that nobody can judge, and where."""
    from sage_dialog.pipeline_registry import POLICIES

    if taken := sorted(set(external_models) & set(POLICIES)):
        yield ("evaluation", "pairs"), f"{taken[0]} is a policy, and an outside model of the catalog has the same name"
    known = (*POLICIES, *external_models)
    for place, pair in enumerate(pairs):
        path = ("evaluation", "pairs", place)
        for policy in pair:
            if policy not in known:
                yield path, _no_policy(policy, known)
        if pair in pairs[:place]:
            yield path, f"{' against '.join(pair)} stands there twice"


def _benchmark_faults(policies: Sequence[str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """As of pairs; outside models are not asked, since their servers do not say how probable a choice is."""
    from sage_dialog.pipeline_registry import POLICIES

    for place, policy in enumerate(policies):
        path = ("evaluation", "benchmarks", "policies", place)
        if policy not in POLICIES:
            yield path, _no_policy(policy, POLICIES)
        if policy in policies[:place]:
            yield path, f"{policy} stands there twice"


def _no_policy(name: str, known: Sequence[str]) -> str:
    return f"no policy is called {name!r}{_meant(name, known)} There are {', '.join(known)}"


def _held_out_faults(parameters: Parameters) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """In a blended mix what is held out stands behind conversations that are learned from, too."""
    for stage in ("sft", "self_play"):
        share = getattr(parameters, stage).training.held_out
        if share and parameters.sac_augmentation.blend:
            path = (stage, "training", "held_out")
            yield (
                path,
                f"a blended mix cannot hold out {share} of itself; set it to 0, or sac_augmentation.blend to null",
            )


def _batch_faults(parameters: Parameters) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Batches that the launcher cannot deal out to its processes."""
    for path, config in (
        (("sft", "training"), parameters.sft.training),
        (("self_play", "training"), parameters.self_play.training),
        (("preference",), parameters.preference),
    ):
        try:
            parameters.launcher.rows_at_once(config.batch_size)
        except ValueError as error:
            yield (*path, "batch_size"), str(error)


def _quantize_faults(parameters: Parameters) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """All policies go on from the first; where that one trained all weights, so do they."""
    trainings = {("self_play", "training"): parameters.self_play.training, ("preference",): parameters.preference}
    for path, training in trainings.items():
        if parameters.sft.lora is None and training.quantization:
            what = f"sft.lora is null: all weights are trained, and in 4 bits ({training.quantization}) they cannot be"
            yield (*path, "quantization"), f"{what}; set this to null, or give sft.lora its parameters"
        elif parameters.sft.lora and parameters.sft.lora.target_parameters and training.quantization:
            what = f"{training.quantization} packs sft.lora.target_parameters in 4 bits"
            yield (*path, "quantization"), f"{what}; set this to null, or leave those empty"


def _fault(details: ErrorDetails, env: str | None, given: Mapping[str, Any]) -> str:
    path = details["loc"]
    if path[-1] == "[key]":  # of a mapping whose keys are a closed list
        path = path[:-1]
    siblings = _fields_at(path[:-1])
    if details["type"] == "extra_forbidden":
        what = f"unknown{_meant(str(path[-1]), siblings)} Known here: {', '.join(sorted(siblings))}"
    elif details["type"] == "missing":
        what = "missing"
    else:
        what = f"{details['msg']}, found {details['input']!r}"
    field = siblings.get(str(path[-1]))
    meaning = f" ({field.description})" if field is not None and field.description else ""
    return f"{_dotted(path)}: {what}{meaning}. {_where(path, env, given)}"


def _meant(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {near[0]}?" if near else "."


def _dotted(path: tuple[int | str, ...]) -> str:
    return ".".join(map(str, path))


def _where(path: tuple[int | str, ...], env: str | None, given: Mapping[str, Any]) -> str:
    value: Any = given
    for part in path:
        if isinstance(value, Sequence) and not isinstance(value, str):  # a list is given whole
            break
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is not None:
        return "Given by --params."
    is_stage = bool(_fields_at(path[:1]))
    file = f"parameters_{path[0]}.yml" if is_stage else "parameters.yml"
    return f"See conf/base/{file}" + (f" and conf/{env}/{file}." if env not in (None, "base") else ".")


def _fields_at(path: tuple[int | str, ...]) -> dict[str, Any]:
    """The fields known at a place in the parameter tree, in which positions of lists and keys of mappings are steps."""
    from sage_dialog.config import Parameters

    model: type[BaseModel] | None = Parameters
    at_key = False
    for part in path:
        if isinstance(part, int) or at_key:
            at_key = False
            continue
        field = model.model_fields.get(part) if model else None
        model = next(_models_in(field.annotation), None) if field else None
        at_key = field is not None and get_origin(field.annotation) is dict
    return dict(model.model_fields) if model and not at_key else {}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


class PinGate:
    """A `--load-versions` pin on what the run itself writes: later nodes would read the old version."""

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline) -> None:
        if pinned := sorted(set(run_params["load_versions"] or {}) & pipeline.all_outputs()):
            raise RunRefused(
                f"--load-versions pins {', '.join(pinned)}, which this run writes itself: its later nodes would read "
                "the pinned version, not the new one. Leave the pin out, or run only what comes after "
                f"(--from-inputs {','.join(pinned)})."
            )
