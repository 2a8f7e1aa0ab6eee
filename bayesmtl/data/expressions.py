"""Formulas: which expressions are allowed, and how their columns are found.

Formulas are evaluated as Python by formulaic, also when a design comes out of a file. So nothing is
evaluated that has not been read node by node first: column names, numbers, short strings, lists, arithmetic
and calls of the functions listed here. Every column is replaced by an alias of ours (``_column_0_``), which
keeps column names of any spelling out of the evaluated text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from formulaic.errors import FormulaicError
from formulaic.parser import DefaultFormulaParser
from formulaic.parser.types import Factor, OrderedSet, Term
from formulaic.utils.structured import Structured

from bayesmtl.data.labels import label_of
from bayesmtl.errors import SpecificationError

# Functions of each row alone; a response may use only these, for they need no memory of the training data.
ELEMENTWISE: Mapping[str, Callable[..., Any]] = {
    "I": lambda values: values,
    "abs": np.abs,
    "cos": np.cos,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log10": np.log10,
    "log1p": np.log1p,
    "log2": np.log2,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
}
# Functions that remember the training data; formulaic provides them.
STATEFUL = ("bs", "cc", "center", "cr", "cs", "poly", "scale", "standardize")
CONTRASTS = ("Diff", "Helmert", "Poly", "Sum", "Treatment")
ALLOWED = (*sorted(ELEMENTWISE), *STATEFUL, "C", *CONTRASTS)

_ALIAS = re.compile(r"_column_(\d+)_")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|`([^`]+)`")
_LITERAL = re.compile(r"\d+(\.\d+)?")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m|[⧛⧚]")  # formulaic marks the place of an error for terminals
_MAX_POWER = 20  # a written-out power above this is a slip or an attack, never a model
_MAX_LENGTH = 2000  # of one factor: deep nesting exhausts Python's own parser


@dataclass(frozen=True)
class Source:
    """A column that a formula reads, as numbers (or whatever it holds) or, inside C(), as categories."""

    column: str
    as_category: bool


@dataclass(frozen=True)
class ParsedFormula:
    """A formula taken apart.

    Attributes:
        response: The left side in the user's words, or None.
        response_is_column: Whether the left side is a plain column rather than an expression.
        terms: Terms of the right side, each a tuple of factors in aliases; ``"1"`` is the intercept.
        sources: What ``_column_i_`` stands for, by i.
    """

    response: str | None
    response_is_column: bool
    terms: tuple[tuple[str, ...], ...]
    sources: tuple[Source, ...]


def alias(position: int) -> str:
    """The name under which column number `position` is evaluated."""
    return f"_column_{position}_"


def alias_position(text: str) -> int | None:
    """The column number that a text stands for, or None when it is not an alias."""
    match = _ALIAS.fullmatch(text)
    return int(match.group(1)) if match else None


def spell_out(text: str, columns: tuple[str, ...] | list[str]) -> str:
    """Replace aliases by the names of their columns."""
    return _ALIAS.sub(lambda match: columns[int(match.group(1))], text)


def quote(column: str) -> str:
    """Write a column as it stands in a formula: in back-ticks unless it is a plain name."""
    return column if column.isidentifier() and column not in ALLOWED else f"`{column}`"


def parse_formula(formula: str) -> ParsedFormula:
    """Take a formula apart and check every expression in it.

    Raises:
        SpecificationError: If it cannot be read, has several responses, or holds anything not allowed.

    Example:
        >>> parse_formula("score ~ intake + C(sex)").terms
        (('1',), ('_column_0_',), ('C(_column_1_)',))
    """
    text, names = _hide_quoted_names(formula)
    left, right = _sides(formula, text)
    response, is_column = None, False
    if left is not None:
        response, is_column = _response(formula, left, names)
    reader = _Reader(names)
    terms = tuple(tuple(_read_factor(factor, reader) for factor in term.factors) for term in right)
    return ParsedFormula(response, is_column, terms, tuple(reader.sources))


def check_factor(text: str, as_category: tuple[bool, ...]) -> str:
    """Check one factor written with aliases, as it comes from a file.

    Args:
        text: The factor, such as ``"log(_column_0_)"``.
        as_category: For each alias, whether it stands for categories.

    Returns:
        The factor written out anew from what was checked, so that nothing else of the text (comments, say)
        can ever be evaluated.

    Raises:
        SpecificationError: If it holds anything not allowed.
    """
    position = alias_position(text)
    if position is not None and position < len(as_category) or _LITERAL.fullmatch(text):
        return text
    return _Verifier(as_category).read(text)


def is_literal(text: str) -> bool:
    """Whether a factor is a plain number (``"1"`` is the intercept)."""
    return _LITERAL.fullmatch(text) is not None


def _hide_quoted_names(formula: str) -> tuple[str, dict[str, str]]:
    """Replace back-ticked names by identifiers of ours; formulaic draws random ones, from a global state."""
    if not isinstance(formula, str):
        raise SpecificationError(
            "formula",
            expected='a string such as "score ~ intake + C(sex)"',
            found=f"{type(formula).__name__}",
            remedy="Write the formula as text; TaskData.from_frame takes a list of columns.",
        )
    names: dict[str, str] = {}

    def hide(match: re.Match[str]) -> str:
        if match.group(1) is None:
            return match.group(0)
        hidden = f"_quoted_{len(names)}_"
        names[hidden] = match.group(1)
        return hidden

    return _QUOTED.sub(hide, formula), names


def _sides(formula: str, text: str) -> tuple[OrderedSet[Term] | None, list[Term]]:
    try:
        parsed = DefaultFormulaParser(feature_flags={"twosided"}).get_terms(text)
    except (FormulaicError, SyntaxError, ValueError, RecursionError) as error:
        reason = _COLOUR.sub("", str(error)).replace("\n", " ")
        raise SpecificationError(
            "formula",
            expected='one of the form "score ~ intake + C(sex)"',
            found=f"{formula!r} ({reason})",
            remedy="Name every column; the grouping is not part of the formula, it is given by `task`.",
        ) from error
    if isinstance(parsed, Structured) and parsed._has_keys:
        return parsed.lhs, sorted(parsed.rhs, key=lambda term: term.degree)
    root = parsed.root if isinstance(parsed, Structured) else parsed
    return None, sorted(root, key=lambda term: term.degree)


def _response(formula: str, left: OrderedSet[Term], names: Mapping[str, str]) -> tuple[str, bool]:
    factors = [factor for term in left for factor in term.factors]
    if len(factors) != 1 or is_literal(factors[0].expr):
        raise SpecificationError(
            "formula",
            expected="one response on the left of '~'",
            found=f"{formula!r}",
            remedy="Use one column; several responses of the same rows go through TaskData.from_wide.",
        )
    factor = factors[0]
    if factor.eval_method is Factor.EvalMethod.LOOKUP:
        return names.get(factor.expr, factor.expr), True
    reader = _Reader(names, functions=tuple(sorted(ELEMENTWISE)))
    text = reader.read(factor.expr)
    return spell_out(text, [quote(source.column) for source in reader.sources]), False


def _read_factor(factor: Factor, reader: _Reader) -> str:
    if factor.eval_method is Factor.EvalMethod.LOOKUP:
        return reader.column(factor.expr, as_category=False)
    text = str(factor.expr)
    return text if is_literal(text) else reader.read(text)


@dataclass
class _Reader:
    """Reads an expression node by node, refuses what is not allowed and renames its columns."""

    names: Mapping[str, str] = field(default_factory=dict)
    functions: tuple[str, ...] = ALLOWED
    sources: list[Source] = field(default_factory=list)
    text: str = ""

    def column(self, name: str, *, as_category: bool) -> str:
        """The alias of a column, making one if it is new."""
        source = Source(self.names.get(name, name), as_category)
        if source not in self.sources:
            self.sources.append(source)
        return alias(self.sources.index(source))

    def read(self, text: str) -> str:
        """Check an expression and return it with aliases for its columns."""
        self.text = text
        if len(text) > _MAX_LENGTH:
            raise self.refusal(f"more than {_MAX_LENGTH} characters")
        try:
            tree = ast.parse(text, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self.refusal("something that is not an expression") from error
        try:
            return ast.unparse(self.node(tree.body))
        except RecursionError as error:
            raise self.refusal("an expression that is nested too deeply") from error

    def node(self, node: ast.expr) -> ast.expr:
        """Check one node and what is below it; returns it with its columns renamed."""
        if isinstance(node, ast.Name):
            if node.id in CONTRASTS and node.id in self.functions:
                return node
            return ast.Name(self.column(node.id, as_category=False), ast.Load())
        if isinstance(node, ast.Constant):
            return self.constant(node)
        if isinstance(node, (ast.List, ast.Tuple)):
            return ast.List([self.node(element) for element in node.elts], ast.Load())
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
            return ast.UnaryOp(node.op, self.node(node.operand))
        if isinstance(node, ast.BinOp):
            return self.arithmetic(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        raise self.refusal(f"a Python {type(node).__name__} ({ast.unparse(node)!r})")

    def constant(self, node: ast.Constant) -> ast.expr:
        """Numbers and plain strings; a quote or a backslash could break out of formulaic's own quoting."""
        value = node.value
        plain = isinstance(value, str) and repr(value) == f"'{value}'" and '"' not in value
        if plain or value is None or isinstance(value, (bool, int, float)):
            return node
        raise self.refusal(f"the constant {value!r}")

    def arithmetic(self, node: ast.BinOp) -> ast.expr:
        """Sums, products and small written-out powers."""
        if isinstance(node.op, ast.Pow):
            power = node.right.operand if isinstance(node.right, ast.UnaryOp) else node.right
            small = isinstance(power, ast.Constant) and isinstance(power.value, (int, float))
            if not small or abs(power.value) > _MAX_POWER:  # type: ignore[attr-defined]
                raise self.refusal(f"a power that is not a number up to {_MAX_POWER}")
        elif not isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
            raise self.refusal(f"the operator {type(node.op).__name__}")
        return ast.BinOp(self.node(node.left), node.op, self.node(node.right))

    def call(self, node: ast.Call) -> ast.expr:
        """A call of a listed function; C() reads its column as categories."""
        if not isinstance(node.func, ast.Name) or node.func.id not in self.functions:
            raise self.refusal(f"a call of {ast.unparse(node.func)!r}")
        # formulaic passes the memory of a transform in keywords that start with an underscore
        if any(keyword.arg is None or keyword.arg.startswith("_") for keyword in node.keywords):
            raise self.refusal("keywords that start with '_' or '**'")
        if node.func.id == "C":
            return self.categorical(node)
        keywords = [ast.keyword(keyword.arg, self.node(keyword.value)) for keyword in node.keywords]
        return ast.Call(node.func, [self.node(argument) for argument in node.args], keywords)

    def categorical(self, node: ast.Call) -> ast.expr:
        """C(column) or C(column, contrasts); levels become labels, so numbers in Treatment() do too."""
        arguments = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "contrasts")]
        if len(arguments) != len(node.args) + len(node.keywords) or len(arguments) not in (1, 2):
            raise self.refusal("C() with other arguments than C(column) or C(column, contrasts)")
        if not isinstance(arguments[0], ast.Name):
            raise self.refusal("C() of something that is not a column")
        column = ast.Name(self.column(arguments[0].id, as_category=True), ast.Load())
        contrasts = [self.node(_with_labels(argument)) for argument in arguments[1:]]
        return ast.Call(ast.Name("C", ast.Load()), [column, *contrasts], [])

    def refusal(self, found: str) -> SpecificationError:
        """The error for an expression that is not allowed."""
        return SpecificationError(
            "formula",
            expected="column names, numbers, arithmetic and known functions",
            found=f"{found} in {self.text!r}",
            remedy=f"Allowed functions: {', '.join(self.functions)} (write log(x), not np.log(x)); a column "
            "with an unusual name goes in back-ticks; anything else can be computed in the frame beforehand.",
        )


@dataclass
class _Verifier(_Reader):
    """The same reading for text that already holds aliases: they must be known, and stay as they are."""

    as_category: tuple[bool, ...] = ()

    def __init__(self, as_category: tuple[bool, ...]):
        super().__init__()
        self.as_category = as_category

    def column(self, name: str, *, as_category: bool) -> str:
        position = alias_position(name)
        known = position is not None and position < len(self.as_category)
        if not known or as_category and not self.as_category[position]:  # type: ignore[index]
            raise self.refusal(f"the unknown name {name!r}")
        return name


def _with_labels(contrasts: ast.expr) -> ast.expr:
    """Treatment(1) names the level that is labelled "1"."""
    if not (isinstance(contrasts, ast.Call) and getattr(contrasts.func, "id", "") == "Treatment"):
        return contrasts

    def labelled(node: ast.expr) -> ast.expr:
        is_label = isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float))
        return ast.Constant(label_of(node.value)) if is_label else node  # type: ignore[attr-defined]

    keywords = [ast.keyword(keyword.arg, labelled(keyword.value)) for keyword in contrasts.keywords]
    return ast.Call(contrasts.func, [labelled(argument) for argument in contrasts.args], keywords)
