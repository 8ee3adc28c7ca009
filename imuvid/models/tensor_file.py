"""Writing safetensors files beside a training: other threads run on while the bytes go to the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any device as a safetensors file.

    ``safetensors.torch.save_file`` does the same, but keeps the interpreter for itself until all is written.

    Raises:
        OSError: it cannot be written.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    header, offset = {}, 0
    for name, tensor in held.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in held.values():
            if tensor.numel():
                file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
