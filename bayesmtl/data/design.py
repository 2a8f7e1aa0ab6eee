"""How a frame becomes the matrix X: which columns, which levels, which transforms."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from formulaic import ModelSpec, SimpleFormula
from formulaic.errors import FormulaicError
from formulaic.parser.types import Factor, Term

from bayesmtl.data.columns import (
    Kind,
    finite_features,
    kind_of,
    named_columns,
    numbers,
    refuse_numbers_in_text,
    take_column,
)
from bayesmtl.data.expressions import (
    ELEMENTWISE,
    ParsedFormula,
    Source,
    alias,
    alias_position,
    check_factor,
    is_literal,
    parse_formula,
    quote,
    spell_out,
)
from bayesmtl.data.labels import encode_labels, row_listing
from bayesmtl.data.plain import from_plain, to_plain
from bayesmtl.errors import DataError, SpecificationError, listing

INTERCEPT = "Intercept"


@dataclass(frozen=True)
class Variable:
    """A column as the training data had it.

    Attributes:
        column: Name in the frame.
        kind: "number", "boolean" or "category".
        levels: Labels of a category, the reference level first; empty for the other kinds.
        ordered: Whether the levels came in an order, of which no use is made.
    """

    column: str
    kind: Kind
    levels: tuple[str, ...] = ()
    ordered: bool = False


@dataclass(frozen=True, eq=False)
class Design:
    """The recipe from source columns to features, fitted once and applied to any later frame.

    Numbers enter as they are, booleans as 0/1, categories one-hot with their first level as the reference
    (without an intercept the first category keeps all its levels). Transforms such as ``center`` and
    ``poly`` remember the training data. The recipe is plain data: see `to_dict`.

    Attributes:
        variables: Source columns with their kinds and levels.
        terms: Terms of the formula; each factor is written with aliases ``_column_i_`` for `variables`.
        feature_names: Names of the D encoded columns, the intercept (if any) first.
        transform_state: What the transforms remember.

    Example:
        >>> frame = pd.DataFrame({"sex": ["F", "M", "F"], "intake": [0.5, 1.0, -2.0]})
        >>> design = Design.from_formula("intake + sex", frame)
        >>> design.feature_names
        ('Intercept', 'intake', 'sex[T.M]')
        >>> design.encode(pd.DataFrame({"intake": [3], "sex": ["M"]})).tolist()
        [[1.0, 3.0, 1.0]]
    """

    variables: tuple[Variable, ...]
    terms: tuple[tuple[str, ...], ...]
    feature_names: tuple[str, ...]
    transform_state: Mapping[str, Any]

    @property
    def intercept(self) -> bool:
        """Whether the first feature is the constant 1."""
        return self.terms[:1] == (("1",),)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a frame must have."""
        return tuple(dict.fromkeys(variable.column for variable in self.variables))

    @property
    def formula(self) -> str:
        """The right side of the formula, in the user's names."""
        names = [quote(variable.column) for variable in self.variables]
        terms = [
            spell_out(":".join(map(_in_braces, factors)), names)
            for factors in self.terms
            if factors != ("1",)
        ]
        return " + ".join(terms or ["1"]) if self.intercept else " + ".join(["0", *terms])

    @property
    def is_plain(self) -> bool:
        """Whether the features are number columns as they are, so that an array can stand for a frame."""
        lookups = [(alias(position),) for position in range(len(self.variables))]
        numeric = all(variable.kind == "number" for variable in self.variables)
        return numeric and [term for term in self.terms if term != ("1",)] == lookups

    @classmethod
    def from_columns(cls, columns: Sequence[str], frame: pd.DataFrame, *, intercept: bool = True) -> Design:
        """Fit the design whose features are these columns.

        Args:
            columns: Names of feature columns.
            frame: The training data.
            intercept: Whether to put a column of ones first.

        Raises:
            DataError: If a column is absent, repeated, incomplete or of no usable kind.
        """
        repeated = [name for name in dict.fromkeys(columns) if list(columns).count(name) > 1]
        if repeated:
            raise DataError(
                "features",
                expected="each column once",
                found=f"{listing(repeated)} more than once",
                remedy="Name every feature once.",
            )
        terms = [(alias(position),) for position in range(len(columns))]
        constant = [("1",)] if intercept else []
        sources = tuple(Source(column, as_category=False) for column in columns)
        return cls._fit(ParsedFormula(None, False, (*constant, *terms), sources), frame)

    @classmethod
    def from_formula(cls, formula: str | ParsedFormula, frame: pd.DataFrame) -> Design:
        """Fit the design of the right side of a formula.

        Args:
            formula: Such as ``"intake + C(sex)"``; ``0 +`` or ``- 1`` declines the intercept.
            frame: The training data.

        Raises:
            SpecificationError: If the formula holds anything but known functions of columns.
            DataError: If a column is absent, repeated, incomplete or of no usable kind.
        """
        parsed = parse_formula(formula) if isinstance(formula, str) else formula
        return cls._fit(parsed, frame)

    @classmethod
    def from_response(cls, expression: str, frame: pd.DataFrame) -> Design:
        """The recipe of a target that is an expression such as ``log(y)``.

        Raises:
            SpecificationError: If the expression does not give one number per row.
            DataError: If a column is absent or cannot be computed with.
        """
        parsed = parse_formula(f"0 + {{{expression}}}")
        variables = tuple(Variable(source.column, "number") for source in parsed.sources)
        design = cls(variables, parsed.terms, (expression,), {})
        design.encode_target(named_columns(frame))
        return design

    @classmethod
    def _fit(cls, parsed: ParsedFormula, frame: pd.DataFrame) -> Design:
        frame = named_columns(frame)
        if not parsed.terms:
            raise SpecificationError(
                "features",
                expected="at least one feature or the intercept",
                found="neither",
                remedy="Name a feature column, or keep the intercept.",
            )
        variables = tuple(_observe(source, frame) for source in parsed.sources)
        design = cls(variables, parsed.terms, (), {})
        values, names, state = design._evaluate(frame)
        repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if repeated:
            raise DataError(
                "features",
                expected="features with different names",
                found=f"{listing(repeated)} more than once after encoding",
                remedy=f"Rename the columns; '{INTERCEPT}' is the name of the constant.",
            )
        finite_features(values, names, frame.index)
        return replace(design, feature_names=tuple(names), transform_state=state)

    def encode(self, data: pd.DataFrame | np.ndarray) -> np.ndarray:
        """Encode rows as the training rows were.

        Args:
            data: A frame with the training columns, in any order (others are ignored). If all features are
                plain numbers, also an array (m, D), with or without its leading column of ones.

        Returns:
            The features (m, D), float64, in the order of `feature_names`.

        Raises:
            DataError: If a column is absent, a value missing or not finite, or a category unseen.
            SpecificationError: If the recipe came from a file and does not fit together.
        """
        frame = self._frame_of(data)
        values, names, state = self._evaluate(frame)
        # a transform without its memory would silently learn from the new rows instead
        if tuple(names) != self.feature_names or to_plain(state) != to_plain(self.transform_state):
            raise SpecificationError(
                "design",
                expected=f"a recipe for the features {listing(self.feature_names)}",
                found=f"one for {listing(names)} that lacks what its transforms remembered",
                remedy="The recipe was damaged, or written by another version.",
            )
        finite_features(values, names, frame.index)
        return values

    def encode_target(self, frame: pd.DataFrame) -> np.ndarray:
        """The target (m,) that a recipe of `from_response` gives; NaN where a column it reads is missing.

        Raises:
            DataError: If an observed value gives no number, such as the logarithm of a negative one.
        """
        missing = np.zeros(len(frame), dtype=bool)
        for column in self.columns:
            missing |= take_column(frame, column, "target").isna().to_numpy()
        values = np.full(len(frame), np.nan)
        if not missing.all():
            observed = frame[~missing]
            values[~missing] = self._evaluate(observed)[0][:, 0]
            undefined = ~missing & ~np.isfinite(values)
            if undefined.any():
                raise DataError(
                    self.feature_names[0],
                    expected="a finite target wherever its columns are observed",
                    found=f"NaN or infinity in {row_listing(frame.index, undefined)}",
                    remedy="Correct these rows, or set them to NaN (not observed).",
                )
        return values

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data that JSON can hold without loss."""
        return {
            "variables": [
                {
                    "column": variable.column,
                    "kind": variable.kind,
                    "levels": list(variable.levels),
                    "ordered": variable.ordered,
                }
                for variable in self.variables
            ],
            "terms": [list(term) for term in self.terms],
            "feature_names": list(self.feature_names),
            "transform_state": to_plain(dict(self.transform_state)),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Design:
        """Rebuild a design; every expression in it is checked before anything could evaluate it.

        Raises:
            SpecificationError: If the content is not a design, or holds an expression that is not allowed.
        """
        try:
            variables = tuple(
                Variable(
                    _text(entry["column"]),
                    _kind(entry["kind"]),
                    tuple(map(_text, entry["levels"])),
                    entry.get("ordered") is True,  # files of earlier versions do not say
                )
                for entry in content["variables"]
            )
            terms = tuple(tuple(_text(factor) for factor in term) for term in content["terms"])
            feature_names = tuple(_text(name) for name in content["feature_names"])
            state = from_plain(content["transform_state"])
            if not isinstance(state, dict):
                raise TypeError("transform_state is not a dictionary")
        except (KeyError, TypeError, ValueError) as error:
            raise SpecificationError(
                "design",
                expected="the content that Design.to_dict writes",
                found=f"{type(error).__name__}: {error}",
                remedy="The content was damaged, or written by another program.",
            ) from error
        as_category = tuple(variable.kind == "category" for variable in variables)
        checked = tuple(tuple(check_factor(factor, as_category) for factor in term) for term in terms)
        return cls(variables, checked, feature_names, state)

    def _frame_of(self, data: pd.DataFrame | np.ndarray) -> pd.DataFrame:
        """A frame with string names; arrays and unnamed frames take the names of a plain design."""
        if isinstance(data, pd.DataFrame):
            numbered = {position: column for position, column in enumerate(self.columns)}
            if (
                self.is_plain
                and not set(self.columns) & set(data.columns)
                and set(numbered) <= set(data.columns)
            ):
                data = data.rename(columns=numbered)
            return named_columns(data)
        values = np.asarray(data)
        count = len(self.columns)
        if not self.is_plain or values.ndim != 2 or values.shape[1] not in (count, len(self.feature_names)):
            raise DataError(
                "X",
                expected=f"an array with {count} columns ({listing(self.columns)})"
                if self.is_plain
                else f"a DataFrame with the columns {listing(self.columns)}",
                found=f"an array of shape {values.shape}",
                remedy="Give the same features as in the training data.",
            )
        if values.shape[1] > count:
            if not np.all(values[:, 0] == 1):
                raise DataError(
                    "X",
                    expected=f"ones in the first of {values.shape[1]} columns (the intercept)",
                    found="other values",
                    remedy=f"Leave the intercept out and give the {count} features.",
                )
            values = values[:, 1:]
        return pd.DataFrame(values, columns=list(self.columns))

    def _evaluate(self, frame: pd.DataFrame) -> tuple[np.ndarray, list[str], dict[str, Any]]:
        """The features (m, D) of a frame, their names, and what the transforms remember."""
        prepared = pd.DataFrame(
            {alias(i): _prepare(variable, frame) for i, variable in enumerate(self.variables)},
            index=pd.RangeIndex(len(frame)),
        )
        # formulaic adds to the state it is given; the design's own must not change
        spec = ModelSpec(
            formula=SimpleFormula([_term(factors) for factors in self.terms], _ordering="none"),
            transform_state=copy.deepcopy(dict(self.transform_state)),
            na_action="ignore",
            output="numpy",
        )
        columns = [variable.column for variable in self.variables]
        try:
            with np.errstate(all="ignore"):  # what is not finite is reported by name afterwards
                matrix = spec.get_model_matrix(prepared, context=dict(ELEMENTWISE))
                values = np.ascontiguousarray(matrix, dtype=np.float64)
        except (FormulaicError, ArithmeticError, TypeError, ValueError, LookupError) as error:
            raise DataError(
                "formula",
                expected="an expression that can be computed for these rows",
                found=f"{spell_out(str(error), columns)} in {self.formula!r}",
                remedy="Check the arguments of the transforms and the range of their columns.",
            ) from error
        names = [spell_out(name, columns) for name in matrix.model_spec.column_names]
        return values.reshape(len(frame), len(names)), names, dict(matrix.model_spec.transform_state)


def _observe(source: Source, frame: pd.DataFrame) -> Variable:
    """Note the kind and levels of a training column."""
    values = take_column(frame, source.column, "feature")
    kind: Kind = "category" if source.as_category else kind_of(values, source.column)
    if kind != "category":
        return Variable(source.column, kind)
    is_categorical = isinstance(values.dtype, pd.CategoricalDtype)
    if not (source.as_category or is_categorical):
        refuse_numbers_in_text(values, source.column)
    ordered = is_categorical and bool(values.cat.ordered)
    return Variable(source.column, kind, encode_labels(values, source.column)[1], ordered)


def _prepare(variable: Variable, frame: pd.DataFrame) -> np.ndarray | pd.Categorical[str]:
    """A column as the formula sees it: float64, or a categorical with the training levels."""
    values = take_column(frame, variable.column, "feature")
    if variable.kind != "category":
        prepared = numbers(values, variable.column, role=f"in training it held {variable.kind}s")
        finite_features(prepared[:, None], [variable.column], frame.index)
        odd = (prepared != 0) & (prepared != 1)
        if variable.kind == "boolean" and odd.any():
            raise DataError(
                variable.column,
                expected="booleans, as in training",
                found=f"other values in {row_listing(frame.index, odd)}",
                remedy=f"Write column '{variable.column}' as True and False.",
            )
        return prepared
    codes, names = encode_labels(values, variable.column)
    unseen = [name for name in names if name not in variable.levels]
    if unseen:
        rows = np.isin(codes, [names.index(name) for name in unseen])
        raise DataError(
            variable.column,
            expected=f"one of the training categories ({listing(variable.levels)})",
            found=f"{listing(unseen)} in {row_listing(frame.index, rows)}",
            remedy="Drop these rows, or refit with training data that has this category.",
        )
    position: np.ndarray = np.array([variable.levels.index(name) for name in names], dtype=np.int64)
    return pd.Categorical.from_codes(position[codes], categories=pd.Index(variable.levels))


def _term(factors: Sequence[str]) -> Term:
    return Term([_factor(text) for text in factors])


def _factor(text: str) -> Factor:
    if alias_position(text) is not None:
        return Factor(text, eval_method="lookup")
    return Factor(text, eval_method="literal" if is_literal(text) else "python")


def _in_braces(factor: str) -> str:
    """Arithmetic needs braces in a formula, where ``a + b`` means two terms."""
    return (
        f"{{{factor}}}"
        if isinstance(ast.parse(factor, mode="eval").body, (ast.BinOp, ast.UnaryOp))
        else factor
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _kind(value: object) -> Kind:
    if value not in ("number", "boolean", "category"):
        raise ValueError(f"{value!r} is no kind of column")
    return value
