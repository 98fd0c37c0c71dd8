"""Sampling on a device that is not the CPU: all that meets there is there.

There is no GPU where tests run. Tensors that pretend to lie on another device stand in for one: they reckon on the
CPU, and refuse to meet a tensor of the CPU, as CUDA's would.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sage_dialog.config import SamplingConfig
from sage_dialog.core.policies import Policy
from sage_dialog.inference.engine import Prompt

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_flatten, tree_map  # noqa: E402

from sage_dialog.inference.transformers import decoding  # noqa: E402
from sage_dialog.inference.transformers import engine as transformers_engine  # noqa: E402
from sage_dialog.inference.transformers.engine import TransformersEngine  # noqa: E402

HERE, ELSEWHERE = torch.device("cpu"), torch.device("meta")
MAY_TAKE_BOTH = {torch.ops.aten.copy_.default}


class There(torch.Tensor):
    """A tensor that says it is elsewhere; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=ELSEWHERE,
        )  # fmt: skip
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        assert force, "numbers that lie elsewhere have to be fetched"
        return self.held.numpy()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return meeting(func, args, kwargs or {})


class Made(TorchDispatchMode):
    """Tensors that are asked for elsewhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return meeting(func, args, kwargs or {})


class OfLists(TorchFunctionMode):
    """The same where they are made of numbers of Python, which torch does not keep for its "meta" device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") == ELSEWHERE:
            return There(torch.tensor(*args, **{**kwargs, "device": HERE}))
        return func(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[None]:
    with OfLists(), Made():
        yield


def meeting(func: Any, args: Any, kwargs: Any) -> Any:
    taken = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    there = any(isinstance(value, There) for value in taken)
    if there and func not in MAY_TAKE_BOTH:
        here = [value for value in taken if not isinstance(value, There) and value.dim()]
        assert not here, f"{func} is given a tensor of the CPU, {tuple(here[0].shape)}, and one elsewhere"
    asked = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.device)]
    if asked:
        there = asked == [ELSEWHERE]
        args, kwargs = tree_map(lambda value: HERE if isinstance(value, torch.device) else value, (args, kwargs))
    own = {id(value.held): value for value in taken if isinstance(value, There)}
    with torch._C._DisableTorchDispatch():
        given, named = tree_map(lambda value: value.held if isinstance(value, There) else value, (args, kwargs))
        out = func(*given, **named)

    def place(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return own[id(value)] if id(value) in own else There(value)

    return tree_map(place, out) if there else out


def moved(model: torch.nn.Module) -> None:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(There(parameter.detach()), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = There(buffer)


FREE = SamplingConfig.from_base(temperature=1.1, top_k=20, repetition_penalty=1.1, max_new_tokens=12)
PROMPTS = [Prompt(({"role": "user", "content": "w1 w2 " * words},), ("device", words)) for words in (2, 9, 4)]


def test_tensors_here_and_there_do_not_meet() -> None:
    with elsewhere():
        there = torch.ones(3, device=ELSEWHERE)
        assert isinstance(there + 1, There)
        assert (there * 2).tolist() == [2, 2, 2]
        assert isinstance(there.cpu() + torch.ones(3), torch.Tensor)
        with pytest.raises(AssertionError, match="given a tensor of the CPU"):
            there + torch.ones(3)


def test_all_that_meets_in_sampling_is_on_the_models_device(base: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(base, [], seed=3, threads=1)
    expected = engine.sample("sage_0", PROMPTS, FREE, samples=8)
    moved(engine._model)
    # tensors of another kind know no inference mode
    monkeypatch.setattr(transformers_engine, "decode", torch.no_grad()(decoding.decode.__wrapped__))
    assert engine._model.device == ELSEWHERE
    pieces: list[str] = []
    with elsewhere():
        replies = engine.sample("sage_0", PROMPTS, FREE, samples=8, on_text=pieces.append)
    assert replies == expected
    assert "".join(pieces) == replies[0][0].text
    assert any(sample.finished for row in replies for sample in row)  # rows were dropped


def test_so_it_is_where_a_reply_is_steered() -> None:
    import numpy as np

    from sage_dialog.inference.steering import GuideState

    barred = np.array([0, 0, -np.inf, 0, 0, 0], np.float32)
    states = [
        GuideState(None, b"", [1, 3], [2.0, 1.0], barred),  # type: ignore[arg-type]
        None,
        GuideState(None, b"", [], [], None),  # type: ignore[arg-type]
    ]
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    expected = decoding.apply_steering(logits, states, 1.5)
    with elsewhere():
        found = decoding.apply_steering(There(logits), states, 1.5)
        assert isinstance(found, There)
        assert torch.equal(found.cpu(), expected)
