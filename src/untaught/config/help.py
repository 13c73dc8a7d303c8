"""The meanings of knobs: the comments next to their declarations."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Callable

from untaught.config.overrides import declared_by
from untaught.methods.composite import Hybrid


def meanings_of(target: Callable | type) -> dict[str, str]:
    """name -> the comment on the line where the keyword-only argument ends, if there is one; names as in `knobs_of`.

    Empty without source, as for code typed into an interpreter.
    """
    if inspect.isclass(target) and issubclass(target, Hybrid):
        return {f"{name}.{knob}": meaning for name, (cls, _) in target.members.items() for knob, meaning in meanings_of(cls).items()}
    try:
        source = textwrap.dedent(inspect.getsource(declared_by(target)))
        (function,) = ast.parse(source).body
    except (OSError, TypeError, SyntaxError):
        return {}
    if not isinstance(function, ast.FunctionDef):
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    knobs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    ends = {argument.arg: (default or argument).end_lineno for argument, default in knobs}
    return {name: comments[line] for name, line in ends.items() if line in comments}
