"""Every dial a user turns, typed: one model per stage, the same names as `conf/*/parameters_<stage>.yml`.

A key that no model knows, a value of the wrong type or outside its range is refused before a run starts.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sage_dialog.sac.grammar import BlockGrammar, FieldValue, is_list_field

Split = Literal["train", "valid", "test"]
Role = Literal["annotator", "selector", "judge", "policy"]
BlockField = Literal["u_motivation", "u_emotion", "u_topic", "a_motivation", "a_emotion", "a_topic"]
OutcomeRule = Literal["agreement", "half", "first_order"]
SourceKind = Literal["listener", "speaker", "instructions", "trajectories"]


class Config(BaseModel):
    """Frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RedditRules(Config):
    """What the Reddit filters ask: the DialoGPT recipe and the paper's own rules (paper §3.1).

    The defaults follow the paper's intent: dialogues of more than four and up to ten turns.
    """

    # Which comments count.
    blocked_subreddits: tuple[str, ...] = Field((), description="names, in any case; the recipe's list ships empty")
    min_body_words: int = Field(2, ge=1, description="words; shorter comments are no part of any path")
    min_submission_comments: int = Field(
        2, ge=0, description="comments a thread's submission states at least; 0 reads threads without one too"
    )
    drop_over_18: bool = Field(False, description="leave out threads whose submission is marked over 18")
    same_month: bool = Field(False, description="a path and its submission stand in one month's dumps (the recipe)")
    # How a path climbs.
    max_comment_words: int = Field(100, ge=1, description="words; a path stops below a longer comment")
    max_turns: int = Field(10, ge=2, description="comments in a path at most; older ones are cut")
    # Which paths are dialogues.
    min_leaf_score: int = Field(1, description="Reddit score the last comment of a path needs")
    min_turns: int = Field(5, ge=2, description="comments in a dialogue at least (paper: more than four)")
    two_authors: bool = Field(False, description="only paths in which two people, both known, take turns")
    tokenised: bool = Field(False, description="keep tokens joined by spaces (the recipe), not text as written")
    require_question: bool = Field(True, description="at least one utterance ends with a question mark")
    max_capitals_run: int = Field(4, ge=0, description="capital letters in a row at most")
    min_mean_words: float = Field(15.0, ge=0, description="mean words an utterance must exceed")
    blocked_words: tuple[str, ...] = Field((), description="words or phrases, in any case; the recipe's list is empty")
    min_common_words: int = Field(1, ge=0, description="of the most common English words, how many the leaf must hold")
    max_path_tokens: int = Field(1000, ge=1, description="TweetTokenizer tokens in a whole path at most")
    max_token_chars: int = Field(30, ge=1, description="characters in one token of the leaf at most")
    max_token_run: int = Field(2, ge=1, description="times the same token stands in a row in the leaf at most")
    min_sentiment: float = Field(0.4, ge=-1, le=1, description="VADER compound every utterance must exceed")
    disjoint: bool = Field(False, description="keep only paths that share no comment with another that is kept")


class DataProcessing(Config):
    rule_sets: dict[str, RedditRules] = {"paper": RedditRules()}
    rules: str = Field("paper", description="the set of rules, one of the keys of rule_sets")
    executor: Literal["processes", "spark"] = Field("processes", description="processes of this machine, or Spark")
    workers: int | None = Field(None, ge=1, description="processes; null takes all cores")
    max_reject_share: float = Field(0.05, ge=0, le=1, description="share of a dump's lines that may be unreadable")

    @field_validator("rules")
    @classmethod
    def _are_known(cls, rules: str, info: ValidationInfo) -> str:
        if rules not in (known := info.data.get("rule_sets", {rules})):
            names = ", ".join(known)
            raise PydanticCustomError("unknown_rules", "not in rule_sets, which has {known}", {"known": names})
        return rules

    @property
    def reddit(self) -> RedditRules:
        return self.rule_sets[self.rules]


class Source(Config):
    """One source of the training mix: `size` conversations, or a `share` of the mix, or all there are."""

    name: str = Field(pattern=r"^[\w.-]+$", description="the source's own; it stands before its conversations' ids")
    kind: SourceKind = Field(
        description="listener: Reddit dialogues with the second speaker as assistant; speaker: the same with the "
        "first speaker as assistant (the simulated user learns from these); instructions: conversations from files; "
        "trajectories: dialogues of an earlier self-play. Left out where the name is one of these"
    )
    size: int | None = Field(None, ge=0, description="conversations, drawn by seed; fewer where there are fewer")
    share: float | None = Field(None, gt=0, le=1, description="of the conversations of the whole mix, drawn by seed")
    of: str | None = Field(
        None,
        validate_default=True,
        description="instructions: file names such as sharegpt*.jsonl, null takes all; trajectories: trajectories_2, "
        "or trajectories_2:VERSION where the latest will not do",
    )
    system_prompt: str | None = Field(
        None,
        description="system message; null takes that of its kind in system prompts, an empty one keeps each its own",
    )
    assistant_may_open: bool = Field(False, description="the assistant may speak first (in a speaker's it always does)")

    @property
    def assistant_opens(self) -> bool:
        return self.assistant_may_open or self.kind == "speaker"

    @model_validator(mode="before")
    @classmethod
    def _of_its_name(cls, given: Any) -> Any:
        if isinstance(given, dict) and "kind" not in given and given.get("name") in get_args(SourceKind):
            return {**given, "kind": given["name"]}
        return given

    @field_validator("share")
    @classmethod
    def _or_size(cls, share: float | None, info: ValidationInfo) -> float | None:
        if share is not None and info.data.get("size") is not None:
            raise PydanticCustomError("size_and_share", "size is given as well; leave out one of the two")
        return share

    @field_validator("of")
    @classmethod
    def _suits_the_kind(cls, of: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("kind")
        if kind == "trajectories" and not re.fullmatch(r"trajectories_\d+(:[\w.-]+)?", of or ""):
            raise PydanticCustomError("no_trajectories", "not trajectories_K or trajectories_K:VERSION")
        if kind in ("listener", "speaker") and of is not None:
            raise PydanticCustomError("of_nothing", "it is made of annotations; leave this out")
        return of


class Blend(Config):
    """Training conversations become longer: others of the same source follow a conversation."""

    sources: tuple[str, ...] = Field(min_length=1, description="names of sources; in none may the assistant open")
    others: int = Field(ge=1, description="conversations that follow one, at most")
    max_tokens: int = Field(ge=1, description="tokens of the whole, counted as bytes_per_token says")
    bytes_per_token: float = Field(
        1.0, ge=1, description="bytes of UTF-8 counted as a token; 1 is more than any byte-level tokenizer needs"
    )


class SacAugmentation(Config):
    mix: tuple[Source, ...] = Field(
        (
            Source(name="listener", kind="listener"),
            Source(name="speaker", kind="speaker"),
            Source(name="instructions", kind="instructions"),
        ),
        description="its sources: where conversations come from, and how many",
    )
    system_prompts: dict[Literal["listener", "speaker", "instructions"], str] = Field(
        description="system message of each kind of source (trajectories have the listener's); listener and speaker are "
        "also the agent's and the user's in play"
    )
    blend: Blend | None = Field(None, description="null leaves conversations as long as they are")

    @field_validator("mix")
    @classmethod
    def _are_different(cls, mix: tuple[Source, ...]) -> tuple[Source, ...]:
        for place, source in enumerate(mix):
            for before in mix[:place]:
                if source.name == before.name:
                    raise PydanticCustomError(
                        "source_twice", "{place}: {name} is there twice", {"place": place, "name": source.name}
                    )
                if (source.kind, source.of) == (before.kind, before.of):
                    raise PydanticCustomError(
                        "source_twice",
                        "{place}: {name} holds the same conversations as {before}",
                        {"place": place, "name": source.name, "before": before.name},
                    )
        return mix

    @field_validator("mix")
    @classmethod
    def _shares_leave_room(cls, mix: tuple[Source, ...]) -> tuple[Source, ...]:
        shares = math.fsum(source.share or 0 for source in mix)
        if shares > 1 + 1e-9 or (shares > 1 - 1e-9 and not all(source.share for source in mix)):
            rest = "more than 1" if shares > 1 + 1e-9 else "1, which leaves nothing to the sources without a share"
            raise PydanticCustomError("shares", "the shares come to {rest}", {"rest": rest})
        if 0 < shares < 1 - 1e-9 and all(source.share for source in mix):
            raise PydanticCustomError("shares", "every source has a share, and they do not come to 1")
        return mix

    @field_validator("blend")
    @classmethod
    def _can_be_blended(cls, blend: Blend | None, info: ValidationInfo) -> Blend | None:
        sources = {source.name: source for source in info.data.get("mix", ())}
        for name in blend.sources if blend and sources else ():
            if name not in sources:
                known = {"name": name, "known": ", ".join(sources)}
                raise PydanticCustomError("unknown_source", "{name} is no source of the mix, which has {known}", known)
            if sources[name].assistant_opens:
                raise PydanticCustomError(
                    "assistant_opens",
                    "in {name} the assistant may speak first: behind another conversation it would speak twice",
                    {"name": name},
                )
        return blend

    def system_prompt(self, source: Source) -> str | None:
        """The system message of a source's conversations; None where each keeps its own."""
        if source.system_prompt is not None:
            return source.system_prompt or None
        return self.system_prompts.get("listener" if source.kind == "trajectories" else source.kind) or None


class LoraSettings(Config):
    r: int = Field(32, ge=1, description="rank of an adapter's matrices")
    alpha: int = Field(64, ge=1, description="an adapter's output is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of an adapter's inputs left out while it trains")
    target_modules: tuple[str, ...] | Literal["all-linear"] = Field(
        "all-linear", description="names of the layers that get an adapter, such as [q_proj, v_proj]"
    )
    target_parameters: tuple[str, ...] = Field((), description="fused weights, such as the experts of a Mixtral")


class Training(Config):
    """One run of a trainer; a step is one update of the weights."""

    learning_rate: float = Field(gt=0, description="at its highest")
    batch_size: int = Field(ge=1, description="rows of an update, of all processes together")
    epochs: float = Field(1.0, gt=0, description="times each row is learned from")
    max_steps: int | None = Field(None, ge=1, description="updates; null trains for `epochs`")
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="of the steps, with a learning rate that rises from 0")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field("cosine", description="shape after the warm-up")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="a longer gradient is shortened to it")
    max_length: int = Field(512, ge=16, description="tokens; longer rows are counted and left out")
    held_out: float = Field(0.0, ge=0, lt=1, description="share of the dialogues measured on, not learned from")
    patience: int | None = Field(
        None,
        ge=1,
        description="measurements on the held out in a row without a lower loss that end the training; the policy is "
        "the one with the lowest. Null trains to the end",
    )
    gradient_checkpointing: bool = Field(
        False, description="compute the forward pass twice instead of keeping it in memory"
    )
    quantization: Literal["nf4"] | None = Field(
        None, description="nf4: the base in 4 bits while it is trained on, for little memory (pip install '.[nf4]')"
    )

    @model_validator(mode="after")
    def _patience_needs_measurements(self) -> Self:
        if self.patience is not None and not self.held_out:
            why = "patience measures on what is held out; set held_out, such as to 0.05"
            raise PydanticCustomError("nothing_held_out", "{why}", {"why": why})
        return self


class FineTuning(Training):
    """One supervised run with TRL."""

    group_by_length: bool = Field(False, description="batches of similar length: less padding, another order")
    held_out: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the dialogues (of Reddit: threads) measured on, not learned from; 0 with `blend`",
    )


class Sft(Config):
    lora: LoraSettings | None = Field(LoraSettings(), description="null trains all weights of the base")
    training: FineTuning

    @model_validator(mode="after")
    def _whole_weights_are_trained(self) -> Self:
        if self.lora is None and self.training.quantization:
            why = f"quantization {self.training.quantization} needs lora: weights in 4 bits cannot be trained"
            raise PydanticCustomError("quantized", "{why}", {"why": why})
        if self.lora is not None and self.lora.target_parameters and self.training.quantization:
            why = f"quantization {self.training.quantization} packs lora.target_parameters in 4 bits; leave them empty"
            raise PydanticCustomError("quantized", "{why}", {"why": why})
        return self


class SamplingConfig(Config):
    """How a policy is sampled; the paper's search uses 1.1 / 100 / 1.1 (paper §3.4)."""

    temperature: float = Field(1.0, gt=0, description="what log-odds are divided by: lower is less varied")
    top_k: int = Field(100, ge=1, description="most probable tokens that one is drawn from")
    repetition_penalty: float = Field(1.0, ge=1, description="of tokens that stood before, prompt included; 1 is none")
    max_new_tokens: int = Field(96, ge=1, description="tokens of a reply at most, blocks included")


class Steering(Config):
    """What the agent is steered to while it writes its state and action blocks (paper §3.7)."""

    boosts: dict[BlockField, dict[str, FiniteFloat]] = Field(
        {}, description="by field and keyword, what is added to the log-odds of its tokens; temperature takes none off"
    )
    fixed: dict[BlockField, tuple[str, ...] | str | None] = Field(
        {}, description="by field, the value written in any case: a label or null; for a topic field a list of labels"
    )

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        values: list[dict[str, FieldValue]] = [{field: value} for field, value in self.fixed.items()]
        for field, keywords in self.boosts.items():
            if field in self.fixed:
                why = "is boosted and fixed; a fixed value is written whatever the boosts, so leave one of them out"
                raise PydanticCustomError("boosted_and_fixed", "{field} {why}", {"field": field, "why": why})
            values += [{field: (keyword,) if is_list_field(field) else keyword} for keyword in keywords]
        for value in values:
            try:
                BlockGrammar.with_values(value)
            except ValueError as error:
                raise PydanticCustomError("not_writable", "{why}", {"why": str(error)}) from error
        return self

    def __bool__(self) -> bool:
        """Whether anything is steered."""
        return any(self.boosts.values()) or bool(self.fixed)


class GameRules(Config):
    """How agent and simulated user talk, in self-play and evaluation alike."""

    agent: SamplingConfig
    user: SamplingConfig
    steering: Steering = Field(Steering(), description="of the agent")
    user_attempts: int = Field(
        4, ge=1, description="times the user is sampled until a reply is whole, says something and its blocks parse"
    )
    one_question: bool = Field(True, description="what the user says behind its first question is cut off")
    farewell_ends: bool = Field(True, description="a dialogue ends as the user takes leave")


class SelfPlay(GameRules):
    situations: int | None = Field(None, ge=1, description="train situations an iteration plays; null plays all")
    max_turns: int = Field(12, ge=2, description="messages of a dialogue, the situation included (paper: 12)")
    candidates: int = Field(16, ge=2, description="candidates an agent turn (paper: 16)")
    redraws: int = Field(1, ge=0, description="times a turn's candidates are drawn anew while none is good")
    shard_size: int = Field(32, ge=1, description="dialogues played in lock-step and kept together after a kill")
    shards_at_once: int = Field(
        2, ge=1, description="shards under way: while the selector chooses for one, the next is sampled"
    )
    best_share: float = Field(
        1.0, gt=0, le=1, description="share of the trajectories learned from, those that the selector judged best"
    )
    replay_share: float = Field(0.25, ge=0, description="SFT conversations mixed in, as a share of the trajectories")
    training: FineTuning


class Preference(Training):
    """One run of preference learning with TRL."""

    pairs: int | None = Field(None, ge=1, description="pairs, sampled by seed; null takes all")
    negatives: int | None = Field(
        1, ge=1, description="candidates that a chosen one is paired with; null pairs it with each"
    )
    rejected: Literal["random", "worst"] = Field(
        "random", description="which those are: drawn by seed, or those whose actions the selector chose least"
    )
    beta: float = Field(0.1, gt=0, description="how closely the policy is held to where it started")
    loss_type: Literal["sigmoid", "sigmoid_norm", "hinge", "ipo", "apo_zero"] = Field(
        "sigmoid", description="what TRL calls it; sigmoid is DPO as published"
    )
    sft_weight: float = Field(
        1.0, ge=0, description="weight of the SFT term on chosen (the paper's dpo_ftx 1.0); the other loss weighs 1"
    )
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="of the steps, with a learning rate that rises from 0")
    held_out: float = Field(0.0, ge=0, lt=1, description="share of the situations measured on, not learned from")


class Benchmarks(Config):
    """Standard benchmarks, run by lm-eval (paper Table 2)."""

    tasks: tuple[str, ...] | None = Field(
        None,
        description="names of benchmark files or, of what is not there, of lm-eval's tasks; null takes all the files",
    )
    policies: tuple[str, ...] = Field(
        ("sage_0", "sage_dpo"), min_length=1, description="the first is what the others are compared with"
    )
    few_shot: dict[str, Annotated[int, Field(ge=0)]] = Field(
        {}, description="by task, worked examples before a question; of others as the task says, else none"
    )
    chat_template: bool = Field(False, description="ask in the form of a chat, not as text to go on with")
    limit: int | None = Field(None, ge=1, description="items a task at most, the first ones; null takes all")
    batch_size: int = Field(32, ge=1, description="continuations read at once")


class Evaluation(GameRules):
    split: Literal["valid", "test"] = Field("test", description="valid to tune on, test to report")
    situations: int | None = Field(None, ge=1, description="held-out situations, sampled by seed; null takes all")
    exchanges: int = Field(8, ge=1, description="user-agent exchanges of a dialogue (paper: 8)")
    pairs: tuple[tuple[str, str], ...] = Field(description="policies compared, as (a, b)")
    outcome_rule: OutcomeRule = Field(
        "agreement",
        description="which two answers are a win. agreement: both orders name it (paper); half: each order counts half "
        "and more of it wins; first_order: the first order alone",
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="of every interval")
    replicates: int = Field(4000, ge=200, description="of the bootstrap over situations")
    true_shares: tuple[Annotated[float, Field(ge=0.51, le=1)], ...] = Field(
        (0.55, 0.6, 0.7), description="differences to see, as the better policy's true share of the decided"
    )
    power: float = Field(0.8, gt=0, lt=1, description="probability with which to see them")
    benchmarks: Benchmarks = Benchmarks()


class Caps(Config):
    """What may be spent; null sets no limit. A run is one command, all its roles and models together."""

    calls: int | None = Field(None, ge=0, description="requests sent to servers, those that fail included")
    tokens: int | None = Field(None, ge=0, description="tokens of prompts and replies")
    money: float | None = Field(None, ge=0, description="in the currency of llm.prices")


class Price(Config):
    """What a model costs, by million tokens."""

    prompt: float = Field(ge=0, description="for a million tokens of prompts, in a currency of your choice")
    completion: float = Field(ge=0, description="for a million tokens of replies")
    batch_share: float = Field(0.5, ge=0, le=1, description="share of the price that is asked in batch mode")


class Llm(Config):
    """What roles behind a server may spend; how each is reached stands in conf/*/catalog_roles.yml."""

    response_cache: str = Field("data/response_cache/responses.sqlite", description="where every reply is kept")
    caps: Caps = Caps()
    role_caps: dict[Role, Caps] = Field({}, description="by role, what it may spend of a run's caps")
    prices: dict[str, Price] = Field({}, description="by model name; needed where money is capped")
    max_failed_share: float = Field(0.05, ge=0, le=1, description="share of rows that may fail; more stop the run")


class BaseModelConfig(Config):
    """The tiny Mixtral that the microworld trains from scratch."""

    vocabulary: int = Field(2000, ge=300, description="tokens at most")
    layers: int = Field(3, ge=1, description="of the transformer")
    hidden: int = Field(128, ge=16, description="width of a layer")
    heads: int = Field(4, ge=1, description="of attention")
    experts: int = Field(4, ge=2, description="of each layer; two work on a token")
    expert_hidden: int = Field(128, ge=16, description="width of an expert")
    steps: int = Field(900, ge=1, description="updates of its training")
    batch_size: int = Field(24, ge=1, description="documents of an update")
    learning_rate: float = Field(4e-3, gt=0, description="at its highest")


class Launcher(Config):
    """In which processes a policy is trained; the batch of an update is the same in any."""

    config: str | None = Field(
        None, description="file of `accelerate launch`, as in conf/accelerate; null trains in the run's own process"
    )
    num_processes: int = Field(1, ge=1, description="one a GPU")
    gradient_accumulation_steps: int = Field(1, ge=1, description="forward passes of a process per update")

    @model_validator(mode="after")
    def _one_process_is_the_runs_own(self) -> Self:
        if self.config is None and self.num_processes > 1:
            why = f"{self.num_processes} processes need a config, such as conf/accelerate/ddp.yaml; null is for one"
            raise PydanticCustomError("no_config", "{why}", {"why": why})
        return self

    def rows_at_once(self, batch_size: int) -> int:
        """Rows of a batch that a process reads together.

        Raises:
            ValueError: if the batch cannot be dealt out evenly.
        """
        rows, left = divmod(batch_size, self.num_processes * self.gradient_accumulation_steps)
        if left or not rows:
            raise ValueError(
                f"batch_size {batch_size} is not divisible by launcher.num_processes ({self.num_processes}) times "
                f"launcher.gradient_accumulation_steps ({self.gradient_accumulation_steps}); make it a multiple of "
                f"{self.num_processes * self.gradient_accumulation_steps}"
            )
        return rows


class Microworld(Config):
    threads: int = Field(2500, ge=1, description="Reddit threads written")
    situations: dict[Split, int] = Field(description="by split, how many")
    instructions: int = Field(300, ge=1, description="conversations of questions and answers")
    multiple_choice: int = Field(100, ge=1, description="questions of each kind")
    documents: int = Field(20000, ge=1, description="documents of the base model's generic text")
    base: BaseModelConfig = BaseModelConfig()


class Parameters(Config):
    """The whole parameter tree."""

    seed: int = Field(0, ge=0, description="every random choice derives from it")
    threads: int | None = Field(None, ge=1, description="torch threads; null takes all cores")
    scratch: str = Field("data/scratch", description="where unfinished work is kept until it is whole")
    launcher: Launcher = Launcher()
    microworld: Microworld
    data_processing: DataProcessing
    sac_augmentation: SacAugmentation
    sft: Sft
    self_play: SelfPlay
    preference: Preference
    evaluation: Evaluation
    mix_versions: bool = Field(
        False, description="run also where one dataset stands behind the inputs in two contents (docs/runs.md)"
    )
    llm: Llm = Llm()
