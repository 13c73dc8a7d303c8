"""The command line: options to arguments of the Python API, and nothing else. Imports what is heavy only inside a command."""

from __future__ import annotations

import errno
import inspect
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain words in any width of terminal, and a start without rich
    help="Pretrain an encoder on data nobody labelled, and know what it is worth.",
)

Data = Annotated[str, typer.Argument(help="a folder, a table, an archive, .npy/.npz, hf:NAME, builtin:digits, builtin:photos")]
Knobs = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="knobs of the loop, the method, encoder.X, and NAME.X of a view")
]
Modality = Annotated[str, typer.Option(help="what the data is")]
Columns = Annotated[
    str | None,
    typer.Option(help="which column holds a field: image=photo; of a csv also separator=tab, quote=none, header=no, encoding=cp1252"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def _version(asked: bool) -> None:
    if asked:
        import untaught

        typer.echo(f"untaught {untaught.__version__}")
        raise typer.Exit


@app.callback()
def every(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False) -> None:
    pass


@app.command()
def pretrain(
    data: Annotated[
        str | None, typer.Argument(help="a folder, a table, an archive, .npy/.npz, hf:NAME, builtin:digits, builtin:photos")
    ] = None,
    knobs: Knobs = None,
    method: Annotated[str | None, typer.Option(help="see: untaught methods; several as simclr+mae:0.5")] = None,
    encoder: Annotated[str | None, typer.Option(help="see: untaught encoders")] = None,
    out: Annotated[Path | None, typer.Option(help="the run folder")] = None,
    modality: Modality = "image",
    columns: Columns = None,
    label: Annotated[str | None, typer.Option(help="the column of labels, for the scores alone")] = None,
    split: Annotated[str | None, typer.Option(help="the column that says train, val or test")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the newest checkpoint of --out, if there is one")] = False,
    seeds: Annotated[int | None, typer.Option(help="train so many seeds, as --out/seed-S, and report their spread")] = None,
    again: Annotated[Path | None, typer.Option("--from", help="repeat the run of this run.yaml or folder")] = None,
    devices: Annotated[int | None, typer.Option(help="processes on each machine, one a GPU")] = None,
    nodes: Annotated[int | None, typer.Option(help="machines; each runs this command by torchrun or srun")] = None,
    strategy: Annotated[str | None, typer.Option(help="ddp, or fsdp to share out the weights as well")] = None,
) -> None:
    """Train an encoder on unlabelled data. untaught pretrain photos/ --method simclr epochs=50"""
    from untaught import api

    if data and "=" in data and not Path(data).exists():
        data, knobs = None, [data, *(knobs or [])]
    if again is None and data is None and not (resume and out and seeds is None):
        raise api.UserError("no data was named; give a folder, a table or builtin:digits, or --out RUN --resume")
    places = {key: value for key, value in {"devices": devices, "nodes": nodes, "strategy": strategy}.items() if value is not None}
    how: dict[str, Any] = {"encoder": encoder, "modality": modality, "columns": _pairs(columns), "label": label, "split": split}
    how |= {"data": data, "method": method, "out": out, "resume": resume, "again": again}
    if seeds is not None:
        api.pretrain_seeds(**how, seeds=seeds, **_own(_knobs(knobs) | places, api.pretrain_seeds))
    else:
        api.pretrain(**how, **_own(_knobs(knobs) | places, api.pretrain))


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|ENCODER", help="a run, an encoder folder, timm/NAME, transformers/NAME")],
    data: Annotated[str | None, typer.Option(help="labelled data, as for pretrain; the run's own if none is named")] = None,
    against: Annotated[list[str] | None, typer.Option(help="an encoder to compare with; timm/NAME=FILE has its weights in a file")] = None,
    label: Annotated[str | None, typer.Option(help="the column of labels")] = None,
    split: Annotated[str | None, typer.Option(help="the column that says train, val or test")] = None,
    columns: Columns = None,
    modality: Modality = "image",
    batch_size: Annotated[int, typer.Option(help="samples encoded at once")] = 256,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="a folder or .json for the rows; the run's own if it has one")] = None,
    as_json: Json = False,
) -> None:
    """Measure an encoder beside its baselines. untaught evaluate runs/cells --data labelled/ --against timm/resnet18"""
    import shutil

    from untaught import api

    rows = api.evaluate(
        target,
        data,
        against=against or (),
        modality=modality,
        columns=_pairs(columns),
        label=label,
        split=split,
        batch_size=batch_size,
        out=out,
    )
    _echo(json.dumps(rows, indent=1) if as_json else api.scores_as_text(rows, shutil.get_terminal_size().columns))


@app.command()
def embed(
    run: Annotated[Path, typer.Argument(help="a run folder, or its encoder folder")],
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help=".parquet (row, name, vector) or .npy (N, width)")] = Path("vectors.parquet"),
    columns: Columns = None,
    batch_size: Annotated[int, typer.Option(help="samples encoded at once")] = 256,
) -> None:
    """Write the vectors of new data. untaught embed runs/cells photos/ -o vectors.parquet"""
    from untaught import api

    api.embed(run, data, out, columns=_pairs(columns), batch_size=batch_size)


@app.command()
def finetune(
    run: Annotated[Path, typer.Argument(help="a run folder, or its encoder folder")],
    knobs: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="as labels=1% draws=5 train=partial balance=logits lr=3e-4")
    ] = None,
    data: Annotated[str, typer.Option(help="labelled data: class folders, a table, arrays")] = "",
    task: Annotated[str, typer.Option(help="classify; regress for a number; segment for masks; tag for words")] = "classify",
    out: Annotated[Path | None, typer.Option(help="the folder of the model; RUN/finetuned")] = None,
    columns: Columns = None,
    label: Annotated[str | None, typer.Option(help="the column of labels")] = None,
    split: Annotated[str | None, typer.Option(help="the column that says train, val or test")] = None,
) -> None:
    """Teach an encoder a task by labels, and compare. untaught finetune runs/cells --data labelled/ --task classify"""
    from untaught import api

    if not data:
        raise api.UserError("no labelled data was named; give --data FOLDER, or a table")
    how: dict[str, Any] = {"out": out, "columns": _pairs(columns), "label": label, "split": split}
    api.finetune(run, data, task, **how, **_own(_knobs(knobs), api.Run.finetune))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="the folder that finetune wrote, or its run folder; or the run of a language model")],
    data: Annotated[str, typer.Argument(help="a folder, a table, an archive, .npy/.npz; or a text, for a language model")],
    out: Annotated[Path, typer.Option("--out", "-o", help=".csv or .parquet; of masks also a folder")] = Path("predictions.csv"),
    columns: Columns = None,
    batch_size: Annotated[int, typer.Option(help="samples read at once")] = 256,
    tokens: Annotated[int, typer.Option(help="of a text: how many to go on for")] = 60,
    temperature: Annotated[float, typer.Option(help="of a text: 0 takes the likeliest words")] = 0.8,
    top_p: Annotated[float, typer.Option(help="of a text: share of the probability that words are drawn from")] = 0.95,
    seed: Annotated[int, typer.Option(help="of a text")] = 0,
    as_json: Json = False,
) -> None:
    """Apply a fine-tuned model to new data, or let a language model fill "[MASK]", go on with a prompt, or restore a damaged text.

    untaught predict runs/cells/finetuned photos/ -o predictions.csv
    untaught predict runs/news "It is beautiful and [MASK] outside"
    """
    from untaught import api
    from untaught.console import CONTROLS

    how: dict[str, Any] = {"tokens": tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    found = api.predict(model, data, out, columns=_pairs(columns), batch_size=batch_size, **how)
    if not isinstance(found, list):
        return
    if as_json:
        typer.echo(CONTROLS.sub(lambda control: json.dumps(control[0])[1:-1], json.dumps(found, ensure_ascii=False)))
    for row in [] if as_json else found:
        _echo(row["text"] if "text" in row else f"{row['mask']}  {row['probability']:6.1%}  {row['word']}")


@app.command()
def preview(
    data: Data,
    knobs: Knobs = None,
    method: Annotated[str, typer.Option(help="see: untaught methods; several as simclr+mae:0.5")] = "simclr",
    encoder: Annotated[str | None, typer.Option(help="see: untaught encoders")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="the .png to write")] = Path("preview.png"),
    modality: Modality = "image",
    columns: Columns = None,
    rows: Annotated[int, typer.Option(help="samples shown")] = 8,
) -> None:
    """Draw what the network will be shown, and must predict. untaught preview photos/ --method mae"""
    from untaught import api
    from untaught.console import say

    how: dict[str, Any] = {"modality": modality, "columns": _pairs(columns), "encoder": encoder, "rows": rows}
    say(f"wrote     {api.preview(data, method, out, **how, **_own(_knobs(knobs), api.preview))}")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="a run folder, finished or not")]) -> None:
    """Write one page about a run, RUN/report.html, from what its folder holds. untaught report runs/cells"""
    from untaught import api
    from untaught.console import say

    say(f"wrote     {api.report(run)}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="a run folder, or its encoder folder")],
    to: Annotated[str | None, typer.Option(help="timm, torch or onnx; the first of them that can hold the encoder, if not given")] = None,
    data: Annotated[str | None, typer.Option(help="what to check it on; what the run kept of its own data, if not given")] = None,
    columns: Columns = None,
) -> None:
    """Write the encoder for use without untaught, checked on real samples. untaught export runs/cells --to onnx"""
    from untaught import api
    from untaught.console import say

    say(f"export    {api.export(run, to, data, _pairs(columns))}")


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="one method, whole")] = None,
    write: Annotated[
        Path | None, typer.Option(help="write a page a method of untaught's into this folder, and one that lists them")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the pretext tasks, or show one with its knobs.

    Score is kNN, and its gain over the same encoder untrained, after so many minutes; cost the time that an image takes, beside simclr
    with the same encoder. What nobody has measured is blank.
    """
    from untaught import api
    from untaught.console import say

    if write:
        say(f"wrote     {api.write_method_pages(write)} pages and README.md to {write}")
    else:
        _show(api.method_cards(name), name, as_json)


@app.command()
def encoders(name: Annotated[str | None, typer.Argument(help="one encoder, whole")] = None, as_json: Json = False) -> None:
    """List the encoders, or show one with its knobs."""
    from untaught import api

    _show(api.encoder_cards(name), name, as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine has, and what untaught will use of it."""
    from untaught import api

    _show([api.doctor()], "doctor", as_json)


@app.command()
def demo(out: Annotated[Path | None, typer.Option(help="the run folder")] = None) -> None:
    """Pretrain on handwritten digits that ship with scikit-learn, measure and report. It takes about a minute."""
    from untaught import api

    typer.echo("\n" + "\n".join(api.demo(out)[1]))


@app.command()
def reproduce(
    recipe: Annotated[Path, typer.Argument(help="a .yaml of recipes/")],
    data: Annotated[str | None, typer.Option(help="where the recipe's data lies here")] = None,
    out: Annotated[Path | None, typer.Option(help="the run folder; runs/NAME of the recipe if not given")] = None,
) -> None:
    """Run a recipe, and fail unless its scores are reached. untaught reproduce recipes/images/simclr-digits.yaml"""
    from untaught import api

    api.reproduce(recipe, data, out)


def _show(cards: list[dict[str, Any]], one: str | None, as_json: bool) -> None:
    """A table of many cards, or one card a line a fact; JSON if asked."""
    if as_json:
        typer.echo(json.dumps(cards[0] if one else cards, indent=1))
        return
    if one:
        for key, value in cards[0].items():
            if isinstance(value, dict) and value:
                inner = [[k, *map(str, v.values() if isinstance(v, dict) else [v])] for k, v in value.items()]
                _echo("\n".join([f"{key}:", *(f"  {line}" for line in _columns(inner))]))
            else:
                _echo(f"{key:<12} {value}".rstrip(" "))
        return
    rows = [list(cards[0]), *([str(value) for value in card.values()] for card in cards)]
    for line in _columns(rows):  # whole, in any width: a terminal wraps a line, but can't bring back what was cut
        _echo(line)


def _echo(text: str) -> None:
    """To standard output, without what a terminal would obey."""
    from untaught.console import escaped

    typer.echo(escaped(text, kept="\n\t"))


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{value:<{width}}" for value, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _knobs(pairs: list[str] | None) -> dict[str, str]:
    result = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            from untaught.api import UserError

            raise UserError(f"{pair} is no knob; knobs are written key=value, as lr=3e-4")
        result[key] = value
    return result


def _own(knobs: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Knobs as arguments of a function of the API; one that has the name of another argument was meant as that."""
    if taken := sorted(knobs.keys() & inspect.signature(function).parameters.keys()):
        from untaught.api import UserError

        raise UserError(f"{taken[0]}={knobs[taken[0]]} is no knob; see --help for the option")
    return knobs


def _pairs(text: str | None) -> dict[str, str] | None:
    return _knobs(text.split(",")) if text is not None else None


def main() -> None:
    """Exit 2 and one line for what the user can mend; 128 + signal and one line for what a signal stopped."""
    try:
        _run()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # as typer ends then
            end.code = 0
        _close_output()
        launch = sys.modules.get("untaught.distributed.launch")
        if launch is not None and launch.started():
            # One of several processes ends here and now: threads of torch's connection may abort it while Python tidies up.
            os._exit(int(end.code or 0))
        raise


def _close_output() -> None:
    """Who reads it may have had enough (`| head -1`): that is no fault. What is left goes nowhere."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            getattr(stream, "wrapped", stream).flush()  # typer's own wrapper would hide that it is broken
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if not isinstance(error, BrokenPipeError):
                _fail(f"the output can't be written: {error.strerror}")


def _run() -> None:
    from untaught.signals import Interrupted, raise_interrupted
    from untaught.surroundings import ask_for_huge_pages, settle

    try:
        os.getcwd()
    except OSError:
        _fail("the working directory is gone; change to another one")
    if hasattr(sys.stdout, "reconfigure"):  # a name that the terminal's encoding lacks is shown by its number
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    settle()
    ask_for_huge_pages()
    try:
        raise_interrupted()
        _refuse_empty(sys.argv[1:])
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False, prog_name="untaught"))
    except Interrupted as stop:
        from untaught.console import say

        if stop.when is not None:
            say(f"stopped   {stop}")
        sys.exit(128 + stop.number)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if said := _misspelt(error):
            _fail(said)
        launch = sys.modules.get("untaught.distributed.launch")
        if launch is not None and launch.lost(error):
            if not launch.watched():
                reason = str(error).splitlines()[0]
                _say(f"another process of this run is gone; go on from the last checkpoint with --resume ({reason})")
            sys.exit(1)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail(f"{error.filename or 'what takes the output'} has no space left; free some, or write elsewhere")
        if isinstance(error, RuntimeError) and "home directory" in str(error):
            _fail("a name begins with ~, and there is no home directory; write it in full")
        if not _users_fault(error):
            raise
        if launch is None or launch.reports(error):
            _fail(str(error))
        sys.exit(2)


def _refuse_empty(words: list[str]) -> None:
    """An unset variable in a script is no name: "" would be read as the working directory, or as nothing asked for."""
    for before, word in zip(["untaught", *words], words, strict=False):
        option, equals, value = word.partition("=")
        prompt = words[0] == "predict" and before != "predict" and not before.startswith("-")  # which may be empty
        if option.startswith("-") and equals and not value.strip():
            _fail(f"{option} is empty; give it a value, or leave it out")
        if not word.strip() and not prompt:
            _fail(f"the word after {before} is empty; give a name (is a variable unset?)")


def _fail(said: str) -> None:
    _say(said)
    sys.exit(2)


def _say(fault: str) -> None:
    from untaught.console import shown

    with suppress(BrokenPipeError):
        typer.secho(f"error: {shown(fault)}", err=True, fg="red")


def _misspelt(error: Exception) -> str:
    """What typer says of a wrong option or argument (its errors have no public class), as one line."""
    if not hasattr(error, "format_message"):
        return ""
    context = getattr(error, "ctx", None)
    said = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
    return f"{said[:1].lower()}{said[1:]}; see: {context.command_path if context else 'untaught'} --help"


def _users_fault(error: Exception) -> bool:
    """Without importing torch just to say that a command line was wrong."""
    core = sys.modules.get("untaught.core")
    return core is not None and isinstance(error, core.UserError)


if __name__ == "__main__":
    main()
