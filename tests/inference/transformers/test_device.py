"""Sampling on another device than the CPU: no operation mixes tensors of two devices.

Tests run without a GPU. `DeviceTensor` replaces one: it computes on the CPU, and an operation on it and a CPU tensor
is an error, as with CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from sage_dialog.config import SamplingConfig
from sage_dialog.core.policies import Policy
from sage_dialog.inference.engine import Prompt

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_policies import WORDS  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_flatten, tree_map  # noqa: E402

from sage_dialog.inference.transformers import decoding, graphed_steps  # noqa: E402
from sage_dialog.inference.transformers import engine as transformers_engine  # noqa: E402
from sage_dialog.inference.transformers.engine import TransformersEngine  # noqa: E402

VOCABULARY = 4 + len(WORDS)
CPU, OTHER_DEVICE = torch.device("cpu"), torch.device("meta")
MIXED_ALLOWED = {torch.ops.aten.copy_.default}


class DeviceTensor(torch.Tensor):
    """A tensor that reports another device; `data_on_cpu` has its values."""

    data_on_cpu: torch.Tensor

    @staticmethod
    def __new__(cls, data_on_cpu: torch.Tensor) -> DeviceTensor:
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls,
            data_on_cpu.shape,
            strides=data_on_cpu.stride(),
            storage_offset=data_on_cpu.storage_offset(),
            dtype=data_on_cpu.dtype,
            device=OTHER_DEVICE,
        )
        wrapper.data_on_cpu = data_on_cpu
        return wrapper

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        return self.data_on_cpu.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        assert force, "values on another device must be copied"
        return self.data_on_cpu.numpy()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_operation(func, args, kwargs or {})


class CreateOnDevice(TorchDispatchMode):
    """Create tensors on the other device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_operation(func, args, kwargs or {})


class CreateFromNumbers(TorchFunctionMode):
    """The same for tensors of Python numbers, whose values torch drops on its "meta" device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") == OTHER_DEVICE:
            return DeviceTensor(torch.tensor(*args, **{**kwargs, "device": CPU}))
        return func(*args, **kwargs)


@contextmanager
def other_device() -> Iterator[None]:
    """Simulate the other device."""
    with CreateFromNumbers(), CreateOnDevice():
        yield


def run_operation(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation on the CPU; mixed devices are an AssertionError."""
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    on_device = any(isinstance(value, DeviceTensor) for value in tensors)
    if on_device and func not in MIXED_ALLOWED:
        on_cpu = [value for value in tensors if not isinstance(value, DeviceTensor) and value.dim()]
        assert not on_cpu, f"{func} is called with a CPU tensor, {tuple(on_cpu[0].shape)}, and one of another device"
    devices = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.device)]
    if devices:
        on_device = devices == [OTHER_DEVICE]
        args, kwargs = tree_map(lambda value: CPU if isinstance(value, torch.device) else value, (args, kwargs))
    wrappers = {id(value.data_on_cpu): value for value in tensors if isinstance(value, DeviceTensor)}
    with torch._C._DisableTorchDispatch():
        positional, keyword = tree_map(
            lambda value: value.data_on_cpu if isinstance(value, DeviceTensor) else value, (args, kwargs)
        )
        out = func(*positional, **keyword)

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return wrappers[id(value)] if id(value) in wrappers else DeviceTensor(value)

    return tree_map(wrap, out) if on_device else out


def move_to_other_device(model: torch.nn.Module) -> None:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(DeviceTensor(parameter.detach()), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = DeviceTensor(buffer)


FREE = SamplingConfig.from_base(temperature=1.1, top_k=20, repetition_penalty=1.1, max_new_tokens=12)
PROMPTS = [Prompt(({"role": "user", "content": "w1 w2 " * words},), ("device", words)) for words in (2, 9, 4)]


def test_an_operation_on_two_devices_is_an_error() -> None:
    with other_device():
        on_device = torch.ones(3, device=OTHER_DEVICE)
        assert isinstance(on_device + 1, DeviceTensor)
        assert (on_device * 2).tolist() == [2, 2, 2]
        assert isinstance(on_device.cpu() + torch.ones(3), torch.Tensor)
        with pytest.raises(AssertionError, match="called with a CPU tensor"):
            on_device + torch.ones(3)


def run_again(step: Any) -> tuple[Any, Any]:
    """Replace the capture of a CUDA graph: each replay runs the step."""
    result = step.__self__._prefix.padding.new_zeros(len(step.__self__._token), VOCABULARY)
    return lambda: result.copy_(step()), result


@pytest.mark.parametrize("graphed", [False, True])
def test_sampling_mixes_no_devices(base: Policy, monkeypatch: pytest.MonkeyPatch, graphed: bool) -> None:
    engine = TransformersEngine(base, [], seed=3, threads=1)
    expected = engine.sample("sage_0", PROMPTS, FREE, samples=8)
    if graphed:
        monkeypatch.setattr(graphed_steps, "capture", run_again)
        weights = engine._weights
        method = replace(weights.method, start=graphed_steps.GraphedState)
        engine._loaded["sage_0"] = weights._replace(method=method)
    move_to_other_device(engine._model)
    # tensor subclasses do not support inference mode
    monkeypatch.setattr(transformers_engine, "decode", torch.no_grad()(decoding.decode.__wrapped__))
    assert engine._model.device == OTHER_DEVICE
    pieces: list[str] = []
    with other_device():
        replies = engine.sample("sage_0", PROMPTS, FREE, samples=8, on_text=pieces.append)
    assert replies == expected
    assert "".join(pieces) == replies[0][0].text
    assert any(sample.finished for row in replies for sample in row)  # rows were dropped


def test_steering_mixes_no_devices() -> None:
    import numpy as np

    from sage_dialog.inference.steering import GuideState

    mask = np.array([0, 0, -np.inf, 0, 0, 0], np.float32)
    states = [
        GuideState(None, b"", [1, 3], [2.0, 1.0], mask),  # type: ignore[arg-type]
        None,
        GuideState(None, b"", [], [], None),  # type: ignore[arg-type]
    ]
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    expected = decoding.apply_steering(logits, states, 1.5)
    with other_device():
        found = decoding.apply_steering(DeviceTensor(logits), states, 1.5)
        assert isinstance(found, DeviceTensor)
        assert torch.equal(found.cpu(), expected)
