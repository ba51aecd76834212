"""Names for tensor shapes in signatures: jaxtyping's where it is installed, plain annotations that cost nothing where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt
else:
    try:
        from jaxtyping import Bool, Float, Int, UInt
    except ModuleNotFoundError:

        class _Documented:
            """`Float[Tensor, "batch length"]` without jaxtyping: the tensor type, the shape is only read by people."""

            def __class_getitem__(cls, item: tuple[type, str]) -> type:
                return item[0]

        Bool = Float = Int = UInt = _Documented

__all__ = ["Bool", "Float", "Int", "UInt"]
