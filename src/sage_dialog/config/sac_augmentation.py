"""Parameters of the training mix: its sources, their system prompts, and the blending of conversations."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sage_dialog.config.base import Amount, Config, Count, PositiveShare, invalid

SourceKind = Literal["listener", "speaker", "instructions", "trajectories"]


class Source(Config):
    """One source of the mix: `size` conversations, or a `share` of the mix, or all there are."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    kind: SourceKind
    size: Amount | None = None
    share: PositiveShare | None = None
    of: Annotated[str | None, Field(validate_default=True)] = None
    system_prompt: str | None = None
    assistant_may_open: bool = False

    @property
    def assistant_opens(self) -> bool:
        return self.assistant_may_open or self.kind == "speaker"

    @model_validator(mode="before")
    @classmethod
    def _infer_kind(cls, source: Any) -> Any:
        if isinstance(source, dict) and "kind" not in source and source.get("name") in get_args(SourceKind):
            return {**source, "kind": source["name"]}
        return source

    @field_validator("share")
    @classmethod
    def _check_share(cls, share: float | None, info: ValidationInfo) -> float | None:
        if share is not None and info.data.get("size") is not None:
            raise invalid("size is given as well; leave out one of the two")
        return share

    @field_validator("of")
    @classmethod
    def _check_of(cls, of: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("kind")
        if kind == "trajectories" and not re.fullmatch(r"trajectories_\d+(:[\w.-]+)?", of or ""):
            raise invalid("not trajectories_K or trajectories_K:VERSION")
        return of


class Blend(Config):
    sources: Annotated[tuple[str, ...], Field(min_length=1)]
    others: Count
    max_tokens: Count
    bytes_per_token: Annotated[float, Field(ge=1)] = 1.0


class SacAugmentation(Config):
    mix: tuple[Source, ...]
    system_prompts: dict[Literal["listener", "speaker", "instructions"], str]
    blend: Blend | None

    @field_validator("mix")
    @classmethod
    def _check_sources(cls, mix: tuple[Source, ...]) -> tuple[Source, ...]:
        for place, source in enumerate(mix):
            for before in mix[:place]:
                if source.name == before.name:
                    raise invalid(f"{place}: {source.name} is there twice")
                annotated = source.kind == before.kind and source.kind in ("listener", "speaker")
                if (source.kind, source.of) == (before.kind, before.of) or (
                    annotated and None in (source.of, before.of)
                ):
                    raise invalid(f"{place}: {source.name} holds the same conversations as {before.name}")
        shares = math.fsum(source.share or 0 for source in mix)
        all_shared = all(source.share for source in mix)
        if shares > 1 + 1e-9:
            raise invalid("the shares come to more than 1")
        if shares > 1 - 1e-9 and not all_shared:
            raise invalid("the shares come to 1, which leaves nothing to the sources without a share")
        if 0 < shares < 1 - 1e-9 and all_shared:
            raise invalid("every source has a share, and they do not come to 1")
        return mix

    @field_validator("blend")
    @classmethod
    def _check_blend(cls, blend: Blend | None, info: ValidationInfo) -> Blend | None:
        sources = {source.name: source for source in info.data.get("mix", ())}
        for name in blend.sources if blend and sources else ():
            if name not in sources:
                raise invalid(f"{name} is no source of the mix, which has {', '.join(sources)}")
            if sources[name].assistant_opens:
                raise invalid(f"in {name} the assistant may speak first: after another conversation it speaks twice")
        return blend

    def system_prompt(self, source: Source) -> str | None:
        """Return the system message of a source's conversations; None where each keeps its own."""
        if source.system_prompt is not None:
            return source.system_prompt or None
        return self.system_prompts.get("listener" if source.kind == "trajectories" else source.kind) or None
