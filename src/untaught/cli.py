"""The command line: maps options to arguments of the Python API. Heavy imports are inside the commands."""

from __future__ import annotations

import errno
import inspect
import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text at any terminal width, and start-up without rich
    help="Pretrain an encoder on unlabelled data and evaluate it against honest baselines.",
)

Data = Annotated[str, typer.Argument(help="a folder, a table, an archive, .npy/.npz, hf:NAME, builtin:digits, builtin:photos")]
Knobs = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="knobs of the loop and the method, encoder.X, and VIEW.X for a view")
]
Modality = Annotated[str | None, typer.Option(help="image, text, series ...; inferred from the data if unambiguous")]
Columns = Annotated[
    str | None,
    typer.Option(help="column of a field: image=photo; for csv also separator=tab, quote=none, header=no, encoding=cp1252"),
]
Group = Annotated[str | None, typer.Option(help="column of speakers, patients, runs ...: none is in two splits")]
Without = Annotated[str | None, typer.Option(metavar="COLUMN=VALUE", help="leave these rows out, e.g. speaker=george")]
Encoders = Annotated[
    list[str] | None,
    typer.Option(help="see: untaught encoders; or the encoder/ of an earlier run; with several encoders, repeat as image=NAME"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def _version(given: bool) -> None:
    if given:
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
    method: Annotated[str | None, typer.Option(help="see: untaught methods; combine as simclr+mae:0.5")] = None,
    encoder: Encoders = None,
    out: Annotated[Path | None, typer.Option(help="the run folder")] = None,
    modality: Modality = None,
    columns: Columns = None,
    label: Annotated[str | None, typer.Option(help="column of labels, used only for scores")] = None,
    split: Annotated[str | None, typer.Option(help="column with train, val or test")] = None,
    group: Group = None,
    without: Without = None,
    resume: Annotated[bool, typer.Option("--resume", help="resume from the newest checkpoint of --out, if there is one")] = False,
    seeds: Annotated[int | None, typer.Option(help="number of training seeds, run as --out/seed-S; reports mean and range")] = None,
    again: Annotated[Path | None, typer.Option("--from", help="repeat the run of a run.yaml or run folder")] = None,
    devices: Annotated[int | None, typer.Option(help="processes per machine, one per GPU")] = None,
    nodes: Annotated[int | None, typer.Option(help="number of machines; start this command on each with torchrun or srun")] = None,
    strategy: Annotated[str | None, typer.Option(help="ddp, or fsdp to shard the weights")] = None,
) -> None:
    """Train an encoder on unlabelled data. untaught pretrain photos/ --method simclr epochs=50"""
    from untaught import api

    if data and "=" in data and not Path(data).exists():
        data, knobs = None, [data, *(knobs or [])]
    if again is None and data is None and not (resume and out and seeds is None):
        raise api.UserError("no data given; pass a folder, a table or builtin:digits, or --out RUN --resume")
    places = {key: value for key, value in {"devices": devices, "nodes": nodes, "strategy": strategy}.items() if value is not None}
    how: dict[str, Any] = {"encoder": _encoders(encoder), "modality": modality, "label": label, "split": split}
    how["columns"] = _columns_of(columns, group, without)
    how |= {"data": data, "method": method, "out": out, "resume": resume, "again": again}
    if seeds is not None:
        api.pretrain_seeds(**how, seeds=seeds, **_own(_knobs(knobs) | places, api.pretrain_seeds))
    else:
        api.pretrain(**how, **_own(_knobs(knobs) | places, api.pretrain))


@app.command()
def compare(
    data: Annotated[
        str | None, typer.Argument(help="a folder, a table, an archive, .npy/.npz, hf:NAME, builtin:digits, builtin:photos")
    ] = None,
    knobs: Knobs = None,
    methods: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="names, simclr+mae:0.5, simclr:temperature=0.2; default: some that read the data")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="of training, over all methods and rounds; default: 5 a method; or steps=N")] = None,
    labels: Annotated[str | None, typer.Option(help="that the comparison may use: all, 10/class or 1%; used only for scores")] = None,
    against: Annotated[list[str] | None, typer.Option(help="an encoder to compare with; timm/NAME=FILE loads weights from a file")] = None,
    encoder: Annotated[str | None, typer.Option(help="for all methods; default: one that each method can train")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the comparison and its runs")] = None,
    modality: Modality = None,
    columns: Columns = None,
    label: Annotated[str | None, typer.Option(help="column of labels, used only for scores")] = None,
    split: Annotated[str | None, typer.Option(help="column with train, val or test")] = None,
    group: Group = None,
    without: Without = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the comparison in --out")] = False,
    as_json: Json = False,
) -> None:
    """Find the pretext task that suits the data: train several, half as many in each round, and measure the best.

    untaught compare photos/ --methods simclr,vicreg,mae --minutes 30
    """
    from untaught import api

    if data and "=" in data and not Path(data).exists():
        data, knobs = None, [data, *(knobs or [])]
    if data is None and not (resume and out):
        raise api.UserError("no data given; pass a folder, a table or builtin:digits, or --out FOLDER --resume")
    how: dict[str, Any] = {"labels": labels, "against": against or (), "encoder": encoder, "out": out, "modality": modality}
    how |= {"columns": _columns_of(columns, group, without), "label": label, "split": split, "resume": resume}
    named = [one for one in methods.split(",") if one.strip()] if methods is not None else None
    own = {**({"minutes": minutes} if minutes is not None else {}), **_knobs(knobs)}
    budget = {key: own.pop(key) for key in ("minutes", "steps") if key in own}
    found = api.compare(data, named, **how, **budget, **_own(own, api.compare))
    _echo(json.dumps(found.result, indent=1) if as_json else "\n".join(found.sentences))


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="searched for run folders, also in subfolders")] = Path("runs"),
    sort: Annotated[str | None, typer.Option(help="column: text from a to z, numbers from the largest; default: the path")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=".csv, or .html with sortable columns; default: print a table")] = None,
    as_json: Json = False,
) -> None:
    """List the runs in a folder: data, method, scores and their baselines, health. untaught runs runs/ --sort score"""
    import shutil

    from untaught import api
    from untaught.console import say

    rows = api.runs(folder, sort, out)
    if out is not None:
        say(f"wrote     {out}")
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    _echo(json.dumps(rows, indent=1) if as_json else api.runs_as_text(rows, width))


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|ENCODER", help="a run, an encoder folder, timm/NAME, transformers/NAME")],
    data: Annotated[str | None, typer.Option(help="labelled data, as for pretrain; default: the run's own")] = None,
    against: Annotated[list[str] | None, typer.Option(help="an encoder to compare with; timm/NAME=FILE loads weights from a file")] = None,
    label: Annotated[str | None, typer.Option(help="column of labels")] = None,
    split: Annotated[str | None, typer.Option(help="column with train, val or test")] = None,
    group: Annotated[
        str | None, typer.Option(help="column of speakers, patients, runs ...: leave each out once, instead of a split")
    ] = None,
    columns: Columns = None,
    modality: Modality = None,
    batch_size: Annotated[int, typer.Option(help="batch size for encoding")] = 256,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder or .json for the rows; default: the run folder")] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="classify, multilabel or regress: kind of labels; tag, segment, transcribe or forecast: a head on the frozen encoder; "
            "verify: pairs of samples; propagate: masks in videos"
        ),
    ] = None,
    as_json: Json = False,
    knobs: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="labels=1%,25%,10/class noise=0.3 boosting=yes; length=64 for a model not trained here"),
    ] = None,
) -> None:
    """Evaluate an encoder and its baselines. untaught evaluate runs/cells --data labelled/ --against timm/resnet18"""
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
        group=group,
        batch_size=batch_size,
        out=out,
        task=task,
        **_own(_knobs(knobs), api.evaluate),
    )
    _echo(json.dumps(rows, indent=1) if as_json else api.scores_as_text(rows, shutil.get_terminal_size().columns))


@app.command()
def embed(
    run: Annotated[Path, typer.Argument(help="a run folder, or its encoder folder")],
    data: Annotated[
        str | None, typer.Argument(help="a folder, a table, an archive, .npy/.npz, hf:NAME, builtin:digits, builtin:photos")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help=".parquet (row, name, vector) or .npy (N, width)")] = Path("vectors.parquet"),
    columns: Columns = None,
    batch_size: Annotated[int, typer.Option(help="batch size for encoding")] = 256,
    tokens: Annotated[bool, typer.Option("--tokens", help="the vectors of all tokens, or of the last map: .npy (N, h*w, width)")] = False,
    items: Annotated[
        bool, typer.Option("--items", help="instead of data, the vectors of all items (of events) that the encoder knows")
    ] = False,
) -> None:
    """Write the vectors of new data. untaught embed runs/cells photos/ -o vectors.parquet"""
    from untaught import api

    api.embed(run, data, out, columns=_pairs(columns), batch_size=batch_size, tokens=tokens, items=items)


@app.command()
def finetune(
    run: Annotated[Path, typer.Argument(help="a run folder, or its encoder folder")],
    knobs: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="e.g. labels=1% draws=5 train=partial balance=logits lr=3e-4")
    ] = None,
    data: Annotated[str, typer.Option(help="labelled data: class folders, a table, arrays; by default those of the run")] = "",
    task: Annotated[
        str,
        typer.Option(
            help="classify; multilabel for several classes each; regress for a number; segment for masks; tag for words; transcribe: "
            "speech; forecast: the next values of series"
        ),
    ] = "classify",
    out: Annotated[Path | None, typer.Option(help="folder of the model; default RUN/finetuned")] = None,
    columns: Columns = None,
    label: Annotated[str | None, typer.Option(help="column of labels")] = None,
    split: Annotated[str | None, typer.Option(help="column with train, val or test")] = None,
    group: Group = None,
    without: Without = None,
) -> None:
    """Fine-tune an encoder, and compare with training from scratch. untaught finetune runs/cells --data labelled/ --task classify"""
    from untaught import api

    how: dict[str, Any] = {"out": out, "columns": _columns_of(columns, group, without), "label": label, "split": split}
    api.finetune(run, data or None, task, **how, **_own(_knobs(knobs), api.Run.finetune))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="folder written by finetune, or a run folder")],
    data: Annotated[str, typer.Argument(help="a folder, a table, an archive, .npy/.npz; for a language model, a text")],
    out: Annotated[Path, typer.Option("--out", "-o", help=".csv or .parquet; for images also a folder")] = Path("predictions.csv"),
    columns: Columns = None,
    batch_size: Annotated[int, typer.Option(help="batch size")] = 256,
    tokens: Annotated[int, typer.Option(help="for a text: maximum number of new tokens")] = 60,
    temperature: Annotated[float, typer.Option(help="for a text: sampling temperature; 0 is greedy")] = 0.8,
    top_p: Annotated[float, typer.Option(help="for a text: nucleus sampling threshold")] = 0.95,
    seed: Annotated[int, typer.Option(help="random seed: of a text, or of masks and puzzles")] = 0,
    as_json: Json = False,
) -> None:
    """Apply a fine-tuned model to new data, the head of a pretext task, or a language model to a text.

    A run without a fine-tuned model solves its pretext task (jigsaw, rotation, colorization, mae ...), or shows prototypes or attention
    maps; of events, it ranks each user's next ten items. A language model fills "[MASK]", continues a prompt, or restores a corrupted text.

    untaught predict runs/cells/finetuned photos/ -o predictions.csv
    untaught predict runs/cells photos/ -o answers/
    untaught predict runs/shop events.csv -o next.csv
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
def anomaly(
    run: Annotated[Path, typer.Argument(help="a run of series, trained with window=N")],
    data: Annotated[str, typer.Argument(help="tables with one row per time step: a file, a folder, a pattern; .npy, .npz, .ts")],
    knobs: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="window=64 neighbours=10")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="a new folder for scores.csv, pictures and report.html")] = Path("anomalies"),
    ranges: Annotated[
        Path | None, typer.Option(help="labelled anomalies: .json {name: [[start, end], ...]} or .csv with name, start, end")
    ] = None,
    label: Annotated[str | None, typer.Option(help="column of 0 and 1 for each time step, used only for the measures")] = None,
    reference: Annotated[str | None, typer.Option(help="normal data to compare with; default: the data itself")] = None,
    columns: Columns = None,
    batch_size: Annotated[int, typer.Option(help="windows encoded at once")] = 256,
    as_json: Json = False,
) -> None:
    """Score every time step of long series, beside classical detectors. untaught anomaly runs/pump pump.csv -o anomalies/

    With labelled anomalies (--ranges or --label), VUS-PR and AUC-PR of each series are measured.
    """
    from untaught import api

    how: dict[str, Any] = {"ranges": ranges, "label": label, "reference": reference, "columns": _pairs(columns), "batch_size": batch_size}
    found = api.anomaly(run, data, out, **how, **_own(_knobs(knobs), api.anomaly))
    _echo(
        json.dumps(found.scores, indent=1)
        if as_json
        else "\n\n".join(filter(None, ["\n".join(found.sentences), api.anomalies_as_text(found)]))
    )


@app.command()
def preview(
    data: Data,
    knobs: Knobs = None,
    method: Annotated[str, typer.Option(help="see: untaught methods; combine as simclr+mae:0.5")] = "simclr",
    encoder: Encoders = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="the .png to write")] = Path("preview.png"),
    modality: Modality = None,
    columns: Columns = None,
    rows: Annotated[int, typer.Option(help="number of samples")] = 8,
) -> None:
    """Draw the views and targets that a method reads. untaught preview photos/ --method mae"""
    from untaught import api
    from untaught.console import say

    how: dict[str, Any] = {"modality": modality, "columns": _pairs(columns), "encoder": _encoders(encoder), "rows": rows}
    say(f"wrote     {api.preview(data, method, out, **how, **_own(_knobs(knobs), api.preview))}")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="a run folder, finished or not")]) -> None:
    """Write the report of a run, RUN/report.html, from its folder. untaught report runs/cells"""
    from untaught import api
    from untaught.console import say

    say(f"wrote     {api.report(run)}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="a run folder, or its encoder folder")],
    to: Annotated[str | None, typer.Option(help="timm, transformers, torch or onnx; default: the first that supports the encoder")] = None,
    data: Annotated[str | None, typer.Option(help="samples for the check; default: those saved with the run")] = None,
    columns: Columns = None,
) -> None:
    """Write the encoder for use without untaught, checked on real samples. untaught export runs/cells --to onnx"""
    from untaught import api
    from untaught.console import say

    say(f"export    {api.export(run, to, data, _pairs(columns))}")


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="show one method in full")] = None,
    write: Annotated[Path | None, typer.Option(help="write one page per method and an index to this folder")] = None,
    as_json: Json = False,
) -> None:
    """List the pretext tasks, or show one with its knobs.

    Score: kNN accuracy, and its gain over random init, after the given minutes. Cost: time per image relative to simclr with the same
    encoder. Blank: not measured.
    """
    from untaught import api
    from untaught.console import say

    if write:
        say(f"wrote     {api.write_method_pages(write)} pages and README.md to {write}")
    else:
        _show(api.method_cards(name), name, as_json)


@app.command()
def encoders(name: Annotated[str | None, typer.Argument(help="show one encoder in full")] = None, as_json: Json = False) -> None:
    """List the encoders, or show one with its knobs."""
    from untaught import api

    _show(api.encoder_cards(name), name, as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show the hardware and software of this machine, and what untaught uses of it."""
    from untaught import api

    _show([api.doctor()], "doctor", as_json)


@app.command()
def demo(
    modality: Annotated[
        str,
        typer.Argument(help="image: handwritten digits (from scikit-learn); audio: computed tones; series: computed waves; events; tables"),
    ] = "image",
    out: Annotated[Path | None, typer.Option(help="the run folder")] = None,
) -> None:
    """Pretrain on data that are at hand offline, evaluate and report. It takes a minute or two."""
    from untaught import api

    typer.echo("\n" + "\n".join(api.demo(out, modality)[1]))


@app.command()
def reproduce(
    recipe: Annotated[Path, typer.Argument(help="a .yaml of recipes/")],
    data: Annotated[str | None, typer.Option(help="local path to the recipe's data")] = None,
    out: Annotated[Path | None, typer.Option(help="the run folder; default runs/NAME of the recipe")] = None,
) -> None:
    """Run a recipe and check its scores. untaught reproduce recipes/images/simclr-digits.yaml"""
    from untaught import api

    api.reproduce(recipe, data, out)


def _show(cards: list[dict[str, Any]], one: str | None, as_json: bool) -> None:
    """Prints cards as a table, or one card with a line per field; JSON if `as_json`."""
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
    for line in _columns(rows):  # never truncated: terminals wrap long lines
        _echo(line)


def _echo(text: str) -> None:
    """Prints to stdout, with terminal control characters escaped."""
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

            raise UserError(f"{pair} is not a knob; write knobs as key=value, e.g. lr=3e-4")
        result[key] = value
    return result


def _own(knobs: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Knobs as keyword arguments of an API function. Raises UserError for the name of another argument, meant as an option."""
    if taken := sorted(knobs.keys() & inspect.signature(function).parameters.keys()):
        from untaught.api import UserError

        raise UserError(f"{taken[0]}={knobs[taken[0]]} is not a knob; see --help for the option")
    return knobs


def _encoders(given: list[str] | None) -> str | dict[str, str] | None:
    """["conv_small"] -> "conv_small"; ["image=conv_small", "text=bert"] -> the same by role. Raises UserError."""
    from untaught import api

    found = [re.fullmatch(r"([A-Za-z_]\w*)=(.+)", one) for one in given or ()]
    if not given or (len(given) == 1 and not found[0]):
        return given[0] if given else None
    roles = [role[1] for role in found if role]
    if len(roles) < len(given) or len(set(roles)) < len(roles):
        raise api.UserError(
            f"--encoder {' --encoder '.join(given)}: with several encoders, give each role once, as --encoder image=conv_small"
        )
    return {role[1]: role[2] for role in found if role}


def _pairs(text: str | None) -> dict[str, str] | None:
    return _knobs(text.split(",")) if text is not None else None


def _columns_of(text: str | None, group: str | None, without: str | None) -> dict[str, str] | None:
    """--columns, --group and --without as one choice of columns, None if none is given."""
    more = {name: value for name, value in (("group", group), ("without", without)) if value is not None}
    return {**(_pairs(text) or {}), **more} or None if more else _pairs(text)


def main() -> None:
    """Exits with 2 and one line for a fault that the user can fix; with 128 + signal and one line after a signal."""
    try:
        _run()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # raised by typer in this case
            end.code = 0
        _close_output()
        launch = sys.modules.get("untaught.distributed.launch")
        if launch is not None and launch.started():
            # With several processes, exit at once: threads of torch's connections may abort the process during Python's shutdown.
            os._exit(int(end.code or 0))
        raise


def _close_output() -> None:
    """Flushes stdout and stderr. A closed pipe (`| head -1`) is not an error; the remaining output is discarded."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            getattr(stream, "wrapped", stream).flush()  # typer's wrapper would hide the error
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
        _fail("the working directory no longer exists; change to another one")
    if hasattr(sys.stdout, "reconfigure"):  # characters missing in the terminal's encoding are escaped
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
        if message := _usage_error(error):
            _fail(message)
        launch = sys.modules.get("untaught.distributed.launch")
        if launch is not None and launch.lost(error):
            if not launch.watched():
                reason = str(error).splitlines()[0]
                _print_error(f"another process of this run exited; resume from the last checkpoint with --resume ({reason})")
            sys.exit(1)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail(f"{error.filename or 'the output'}: no space left on device; free some, or write elsewhere")
        if isinstance(error, RuntimeError) and "home directory" in str(error):
            _fail("a path starts with ~, but there is no home directory; give the full path")
        if not _users_fault(error):
            raise
        if launch is None or launch.reports(error):
            _fail(str(error))
        sys.exit(2)


def _refuse_empty(words: list[str]) -> None:
    """Refuses empty arguments, as from an unset variable: "" would mean the working directory, or an omitted option."""
    for before, word in zip(["untaught", *words], words, strict=False):
        option, equals, value = word.partition("=")
        prompt = words[0] == "predict" and before != "predict" and not before.startswith("-")  # may be empty
        if option.startswith("-") and equals and not value.strip():
            _fail(f"{option} is empty; give a value, or omit it")
        if not word.strip() and not prompt:
            _fail(f"the argument after {before} is empty; give a value (is a variable unset?)")


def _fail(message: str) -> None:
    _print_error(message)
    sys.exit(2)


def _print_error(message: str) -> None:
    from untaught.console import shown

    with suppress(BrokenPipeError):
        typer.secho(f"error: {shown(message)}", err=True, fg="red")


def _usage_error(error: Exception) -> str:
    """typer's message about a wrong option or argument (its errors have no public class), as one line."""
    if not hasattr(error, "format_message"):
        return ""
    context = getattr(error, "ctx", None)
    message = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
    return f"{message[:1].lower()}{message[1:]}; see: {context.command_path if context else 'untaught'} --help"


def _users_fault(error: Exception) -> bool:
    """Whether it is a UserError, without importing torch for a wrong command line."""
    core = sys.modules.get("untaught.core")
    return core is not None and isinstance(error, core.UserError)


if __name__ == "__main__":
    main()
