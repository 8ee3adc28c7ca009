"""Conditions on the columns of an index, as a user writes them: ``label == 'walk' and acc_std > 0.1``.

The text is parsed as a Python expression, of which only comparisons, ``and``, ``or``, ``not``, arithmetic, names of
columns and constants are known; nothing is ever evaluated as Python.
"""

from __future__ import annotations

import ast
import difflib
import operator
import textwrap
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from imuvid.data.dataset_tables import INDEX_SCHEMA
from imuvid.errors import UserError

MAX_LENGTH = 10_000
_COMPARISONS: dict[type, Any] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def select(index: pa.Table, where: str) -> pa.Table:
    """Return the rows of an index for which a condition holds, in order.

    A comparison with a missing value does not hold; ``sync_offset_s is None`` asks for it. Lists are written as
    ``label in ('walk', 'run')``; ``'video_black' in verdict`` looks within a text.

    Raises:
        UserError: the condition cannot be read; names the part that is wrong and, for a column, the nearest one.
    """
    shown = textwrap.shorten(where, 80, placeholder=" ...")
    try:
        if len(where) > MAX_LENGTH:
            raise SyntaxError(f"longer than {MAX_LENGTH} characters")
        tree = ast.parse(where.strip(), mode="eval")
        condition = _read(tree.body, shown)
        if not isinstance(condition, pc.Expression):
            raise UserError(f"'{shown}': names no column: write a condition such as \"label == 'walk'\"")
        return index.filter(condition)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", None) or str(error) or type(error).__name__
        raise UserError(f"'{shown}': is no condition: {reason.splitlines()[0]}") from error
    except (pa.ArrowException, TypeError) as error:
        raise UserError(f"'{shown}': cannot be compared: {str(error).splitlines()[0]}") from error


def _read(node: ast.expr, text: str) -> Any:
    """Return an expression of pyarrow, or a plain constant, of a node."""
    if isinstance(node, ast.BoolOp):
        parts = [_read(value, text) for value in node.values]
        join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
        whole = parts[0]
        for part in parts[1:]:
            whole = join(whole, part)
        return whole
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_expression(_read(node.operand, text))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _read(node.operand, text)
        return pc.negate(value) if isinstance(value, pc.Expression) else -value
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](_read(node.left, text), _read(node.right, text))
    if isinstance(node, ast.Compare):
        whole, left = None, _read(node.left, text)
        for comparison, comparator in zip(node.ops, node.comparators, strict=True):
            right = _read(comparator, text)
            part = _compare(comparison, left, right, text)
            whole = part if whole is None else whole & part
            left = right
        return whole
    if isinstance(node, ast.Name):
        if node.id not in INDEX_SCHEMA.names:
            near = difflib.get_close_matches(node.id, INDEX_SCHEMA.names, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(INDEX_SCHEMA.names)}"
            raise UserError(f"'{text}': the index has no column '{node.id}'{hint}")
        return pc.field(node.id)
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        return node.value
    if isinstance(node, ast.Tuple | ast.List):
        values = [_read(element, text) for element in node.elts]
        if values and all(isinstance(value, str | int | float) for value in values):
            return values
    raise UserError(
        f"'{text}': '{textwrap.shorten(ast.unparse(node), 80)}' is not understood: compare columns with constants"
    )


def _compare(comparison: ast.cmpop, left: Any, right: Any, text: str) -> Any:
    if isinstance(comparison, ast.Is | ast.IsNot) and right is None:
        missing = _expression(left).is_null()
        return missing if isinstance(comparison, ast.Is) else ~missing
    if isinstance(comparison, ast.In | ast.NotIn):
        if isinstance(right, list):
            found = _expression(left).isin(right)
            # A missing value is in no list, and "not in" does not hold for it either, as for any comparison.
            return found if isinstance(comparison, ast.In) else ~found & _expression(left).is_valid()
        if isinstance(left, str) and isinstance(right, pc.Expression):
            found = pc.match_substring(right, left)
            return found if isinstance(comparison, ast.In) else ~found
        raise UserError(f"'{text}': after 'in', write a list such as ('walk', 'run')")
    if type(comparison) in _COMPARISONS and left is not None and right is not None:
        if isinstance(left, list) or isinstance(right, list):
            raise UserError(f"'{text}': a list is only understood after 'in'")
        return _COMPARISONS[type(comparison)](left, right)
    raise UserError(f"'{text}': write 'is None' or 'is not None' for missing values")


def _expression(value: Any) -> pc.Expression:
    return value if isinstance(value, pc.Expression) else pc.scalar(value)
