"""GPUs that are not there: tensors that lie on the CPU and behave as if they lay on `cuda:0`, `cuda:1`, ...

Within `PretendGpu()` whatever asks for a CUDA device gets such tensors. Mixing them with tensors of the CPU, or reading
them as NumPy arrays without bringing them back, is an error as it would be on a real card, so code that passes here has
its data in the right places. What only the card knows (an operation it lacks, its speed, its rounding) is not seen.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map


class OnGpu(torch.Tensor):
    """A tensor that says it lies on a GPU, the one of number `gpu`."""

    gpu = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            return _call(func, args, kwargs or {})


class PretendGpu(TorchFunctionMode):
    """Within it CUDA devices exist, for one thread."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            return _call(func, args, kwargs or {})


def _number(device) -> int | None:
    """Number of the GPU that a device is; None for the CPU or no device."""
    if device is None or torch.device(device).type != "cuda":
        return None
    return torch.device(device).index or 0


def _call(func, args, kwargs):
    name = getattr(func, "__name__", "")
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    here = [t.gpu if isinstance(t, OnGpu) else None for t in tensors]
    if func is torch.device:
        return torch.device(*args, **kwargs)
    if func == torch.Tensor.device.__get__:
        return torch.device("cpu" if here[0] is None else f"cuda:{here[0]}")
    if func == torch.Tensor.is_cuda.__get__:
        return here[0] is not None
    if name in ("numpy", "__array__") and any(g is not None for g in here):
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use .cpu() first")
    gpu = _result_on(name, args, kwargs, tensors, here)

    def plain(x):
        if isinstance(x, OnGpu):
            return x.as_subclass(torch.Tensor)
        return torch.device("cpu") if _names_cuda(x) else x

    def marked(x):
        x = plain(x)
        if gpu is None or not isinstance(x, torch.Tensor):
            return x
        x = x.as_subclass(OnGpu)
        x.gpu = gpu
        return x

    return tree_map(marked, func(*tree_map(plain, args), **tree_map(plain, kwargs)))


def _names_cuda(x) -> bool:
    return isinstance(x, torch.device) and x.type == "cuda" or isinstance(x, str) and x.startswith("cuda")


def _result_on(name, args, kwargs, tensors, here) -> int | None:
    """Number of the GPU that a result lies on, None for the CPU; an error where tensors of several places meet."""
    if name == "cpu":
        return None
    if name == "to":
        asked = [x for x in (*args[1:], kwargs.get("device")) if isinstance(x, str | torch.device)]
        other = [x for x in args[1:] if isinstance(x, torch.Tensor)]
        if asked:
            return _number(asked[0])
        return (other[0].gpu if isinstance(other[0], OnGpu) else None) if other else here[0]
    if not tensors:
        return _number(kwargs.get("device"))
    if name == "copy_" or name == "__get__":
        return here[0]
    if name == "__getitem__" and here[0] is not None and set(here[1:]) <= {None, here[0]}:
        return here[0]  # the card may be indexed from the CPU
    large = {g for t, g in zip(tensors, here, strict=True) if t.dim() > 0}
    if len(large) > 1:
        raise RuntimeError(f"{name}: expected all tensors on one device, found {large} (None is the CPU)")
    if name in ("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros") and "device" in kwargs:
        return _number(kwargs["device"])
    found = [g for g in here if g is not None]
    return found[0] if found else None
