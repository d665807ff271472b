"""A second device without the hardware: tensors on it live in main memory, and mixing devices is an error as on a GPU.

It shows where tensors are and where they go; kernels, precision and streams of a GPU it does not have. It is for
a process of its own: a device stays registered, and transformers reads models otherwise where there is one. Call
`without_inference_mode` before models are imported, read them, and then enter `SecondDevice`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils.backend_registration as registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "simulated"
ACROSS = {"_to_copy", "copy_", "to", "index", "index_put", "index_put_", "_index_put_impl_"}
"""Operators that take tensors of two devices on a GPU too: copies, and positions on the CPU."""


def without_inference_mode() -> None:
    """Let `torch.inference_mode` from now on only leave gradients out: its tensors do not mix with a subclass's."""
    torch.inference_mode = lambda mode=True: torch.no_grad()  # type: ignore[assignment]


class OnDevice(torch.Tensor):
    """A tensor of the second device around one in main memory."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "OnDevice":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(DEVICE, 0),
        )
        made.held = held
        return made

    def __repr__(self, **options: Any) -> str:
        return f"OnDevice({self.held!r})"

    def tolist(self) -> Any:
        """torch refuses this for all subclasses."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """While it is entered, `device="simulated"` exists. `operations`: how many had a tensor on it, in this process."""

    operations = 0

    def __init__(self) -> None:
        super().__init__()
        register()

    def __enter__(self) -> "SecondDevice":
        torch._C._set_only_lift_cpu_tensors(
            True
        )  # torch.tensor(..., device=...) then copies by a dispatched operator
        self.tensor, torch.tensor = torch.tensor, _tensor_of_scalars
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(False)
        torch.tensor = self.tensor
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operator's result, on the device that torch would leave it on. RuntimeError where devices are mixed."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    there = [isinstance(tensor, OnDevice) for tensor in tensors]
    together = all(on or tensor.dim() == 0 for on, tensor in zip(there, tensors, strict=True))
    if any(there) and not together and func._schema.name.removeprefix("aten::") not in ACROSS:
        places = [(tuple(tensor.shape), str(tensor.device)) for tensor in tensors]
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, got {places}")
    SecondDevice.operations += any(there)
    held, options = tree_map(_here, (args, kwargs))
    if (
        func is torch.ops.aten.histc.default and not held[0].is_floating_point()
    ):  # a CPU has it for floats only
        return OnDevice(func(held[0].float(), *held[1:], **options).to(held[0].dtype))
    result = func(*held, **options)
    if func is torch.ops.aten._local_scalar_dense.default:
        return result
    written = func._schema.arguments[:1]
    if written and written[0].alias_info is not None and written[0].alias_info.is_write:
        return args[0]
    devices = [leaf.type for leaf in leaves if isinstance(leaf, torch.device)]
    if devices[0] != DEVICE if devices else not any(there):
        return result
    return tree_map(lambda each: OnDevice(each) if isinstance(each, torch.Tensor) else each, result)


def _here(value: Any) -> Any:
    """A tensor or a device of an operator's arguments as main memory has it."""
    if isinstance(value, OnDevice):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == DEVICE else value


_tensor = torch.tensor


def _tensor_of_scalars(data: Any, **options: Any) -> torch.Tensor:
    """`torch.tensor`, which reads scalars on a device by a way that nothing can take part in."""
    if isinstance(data, list | tuple):
        data = tree_map(lambda each: each.held.item() if isinstance(each, OnDevice) else each, data)
    return _tensor(data, **options)


class _Module(registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_library = torch.library.Library("_", "IMPL")


def register() -> None:
    """Make the device known to torch; under autocast it computes as without. Before the first backward pass, if any."""
    if registration._privateuse1_backend_name == DEVICE:
        return
    registration._setup_privateuseone_for_python_backend(DEVICE, backend_module=_Module())
    _library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
