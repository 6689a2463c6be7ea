"""A GPU that is not there: tensors that lie on the CPU and behave as if they lay on `cuda:0`.

Within `PretendGpu()` whatever asks for a CUDA device gets such tensors. Mixing them with tensors of the CPU, or reading
them as NumPy arrays without bringing them back, is an error as it would be on a real card, so code that passes here has
its data in the right places. What only the card knows (an operation it lacks, its speed, its rounding) is not seen.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

PLACE = torch.device("cuda:0")
MOVES = {"to", "cpu", "cuda", "copy_"}


class OnGpu(torch.Tensor):
    """A tensor that says it lies on the GPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            return _call(func, args, kwargs or {})


class PretendGpu(TorchFunctionMode):
    """Within it CUDA devices exist, for one thread."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            return _call(func, args, kwargs or {})


def _is_cuda(device) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _call(func, args, kwargs):
    name = getattr(func, "__name__", "")
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    here = [isinstance(t, OnGpu) for t in tensors]
    if func is torch.device:
        return torch.device(*args, **kwargs)
    if func == torch.Tensor.device.__get__:
        return PLACE if here[0] else torch.device("cpu")
    if func == torch.Tensor.is_cuda.__get__:
        return here[0]
    if name in ("numpy", "__array__", "tolist") and any(here) and name != "tolist":
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use .cpu() first")
    on_gpu = _result_on_gpu(name, args, kwargs, tensors, here)

    def plain(x):
        if isinstance(x, OnGpu):
            return x.as_subclass(torch.Tensor)
        return torch.device("cpu") if _names_cuda(x) else x

    def marked(x):
        x = plain(x)
        return x.as_subclass(OnGpu) if on_gpu and isinstance(x, torch.Tensor) else x

    return tree_map(marked, func(*tree_map(plain, args), **tree_map(plain, kwargs)))


def _names_cuda(x) -> bool:
    return isinstance(x, torch.device) and x.type == "cuda" or isinstance(x, str) and x.startswith("cuda")


def _result_on_gpu(name, args, kwargs, tensors, here) -> bool:
    if name == "cpu":
        return False
    if name == "to":
        asked = [x for x in (*args[1:], kwargs.get("device")) if isinstance(x, str | torch.device)]
        other = [x for x in args[1:] if isinstance(x, torch.Tensor)]
        if asked:
            return _is_cuda(asked[0])
        return isinstance(other[0], OnGpu) if other else here[0]
    if not tensors:
        return _is_cuda(kwargs.get("device"))
    if name == "copy_" or name == "__get__":
        return here[0]
    if name == "__getitem__" and here[0]:
        return True  # the card may be indexed from the CPU
    large = {h for t, h in zip(tensors, here, strict=True) if t.dim() > 0}
    if len(large) > 1:
        raise RuntimeError(f"{name}: expected all tensors on one device, found cuda:0 and cpu")
    if name in ("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros") and "device" in kwargs:
        return _is_cuda(kwargs["device"])
    return any(here)
