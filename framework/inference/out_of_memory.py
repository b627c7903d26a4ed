"""Telling a lack of memory from every other error."""

from __future__ import annotations

# What the allocators of CUDA, HIP, XPU and Apple GPUs ("out of memory"), of CPUs ("can't allocate memory", on Windows
# "not enough memory"), of the C++ library, of cuDNN and of cuBLAS say. All of them raise a plain RuntimeError at times.
_PHRASES = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "bad_alloc",
    "_status_alloc_failed",
    "_allocation_failed",
)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether this error says that memory was lacking, on a device or on the host; False for any other.

    Errors that a lack of memory may cause but that have other causes too, such as a convolution that is not
    supported, do not count. Works without torch.
    """
    # `torch.OutOfMemoryError` by name, so that torch need not be imported.
    if isinstance(error, MemoryError) or any(base.__name__ == "OutOfMemoryError" for base in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _PHRASES)
