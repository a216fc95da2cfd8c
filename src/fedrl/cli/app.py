"""The commands and options of `fedrl`, with their help texts.

Each command imports its implementation when it is called: importing JAX would make `--help` take seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrl.cli.agent import agent
from fedrl.cli.audit import audit
from fedrl.cli.certs import certs
from fedrl.cli.completion import CONFIG, components, examples, experiments
from fedrl.cli.control import optout, pause, status, stop
from fedrl.cli.control import resume as resume_jobs
from fedrl.cli.coordinator import coordinator
from fedrl.cli.executor import ADDRESS, EXECUTOR, WORKERS, executor_of
from fedrl.cli.scale import scale
from fedrl.cli.up import up

TRUST = "Import the components of your own that the folder names. Someone else's folder may name any code."

app = typer.Typer(
    name="fedrl",
    help="Federated deep reinforcement learning: run experiments, compare them, look at them.",
    no_args_is_help=True,
    # A bug shows Python's own traceback, which can be pasted into an issue.
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> bool:
    if asked:
        from fedrl import __version__

        typer.echo(f"fedrl {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Federated deep reinforcement learning: run experiments, compare them, look at them."""
    del version


@app.command("run", no_args_is_help=True)
def run(
    config: Annotated[Path | None, typer.Argument(help=CONFIG, autocompletion=experiments)] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change one value of the configuration, in TOML syntax; may be repeated. Example: "
            "--set learner.clip=0.1 --set federation.aggregator=median",
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", metavar="N", help="Run seeds 0 to N-1.")] = None,
    rounds: Annotated[
        str | None,
        typer.Option("--rounds", metavar="N|+N", help="Rounds in all; with --resume also further rounds, such as +50."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run folder; runs/NAME-TIME by default.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="DIR",
            help="Continue an interrupted run bit for bit, instead of CONFIG; with --rounds also a complete one.",
        ),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help=TRUST)] = False,
    show: Annotated[
        list[str] | None,
        typer.Option(
            "--show",
            metavar="MEASURE",
            help="Show this measure beside the return during the run; may be repeated.",
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option("--devices", metavar="N", help="Compute on N devices of the processor; one per core by default."),
    ] = None,
    executor: Annotated[str | None, typer.Option(metavar="process|ray", help=EXECUTOR)] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help=WORKERS)] = None,
    address: Annotated[str | None, typer.Option(metavar="auto|HOST:PORT", help=ADDRESS)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json to stdout, and nothing else.")] = False,
    on_environment_error: Annotated[
        str | None,
        typer.Option(
            metavar="leave-out|restart|stop",
            help="If an environment of Gymnasium fails: leave its agent out of the round, repeat the agent's round, or "
            "end the run. leave-out by default.",
        ),
    ] = None,
) -> None:
    """Run an experiment: train every seed and baseline, and write a run folder.

    The run folder contains config.toml (with all defaults), records.jsonl (a line per seed, method and round),
    summary.json, params.safetensors and report.html. Ctrl-C leaves a complete folder; --resume continues from it.
    """
    from fedrl.cli.run import run_command

    given = (config, settings or [], seeds, rounds, out, resume, trust, show or [], devices, quiet, as_json)
    run_command(*given, on_environment_error, executor_of(executor, workers, address))


@app.command("sweep", no_args_is_help=True)
def sweep(
    config: Annotated[
        Path | None,
        typer.Argument(help=f"{CONFIG} Or the study.toml of an earlier study.", autocompletion=experiments),
    ] = None,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=V1,V2...]", help="More keys of --grid.", show_default=False)
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid",
            metavar="KEY=V1,V2,...",
            help="The values of one key, in TOML syntax; with several keys, every combination of their values is run. "
            "A stage is addressed by its position or its name. Example: --grid federation.agents=10,100 "
            "--grid federation.stages.quantize.bits=1,2,4,8",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value in all settings; may be repeated."),
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", metavar="N", help="Run seeds 0 to N-1.")] = None,
    target: Annotated[
        float | None,
        typer.Option(help="A return: the report shows how many rounds, bytes and seconds it takes to reach it."),
    ] = None,
    quantity: Annotated[
        str | None,
        typer.Option(
            metavar="MEASURE",
            help="Compare settings by this measure instead of the return. Example: --quantity success",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The study folder; runs/NAME-study-TIME by default.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="DIR", help="Continue an interrupted study bit for bit, instead of CONFIG."),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help=TRUST)] = False,
    again: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume, also run the settings again that failed.")
    ] = False,
    devices: Annotated[
        int | None,
        typer.Option("--devices", metavar="N", help="Compute on N devices of the processor; one per core by default."),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            metavar="process|ray",
            help="Run one setting after the other in this process, or several at the same time in worker processes of "
            "Ray; results are the same.",
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help=WORKERS)] = None,
    address: Annotated[str | None, typer.Option(metavar="auto|HOST:PORT", help=ADDRESS)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print study.json to stdout, and nothing else.")] = False,
    on_environment_error: Annotated[
        str | None,
        typer.Option(
            metavar="leave-out|restart|stop",
            help="If an environment of Gymnasium fails: leave its agent out of the round, repeat the agent's round, or "
            "end the run. leave-out by default.",
        ),
    ] = None,
) -> None:
    """Run an experiment in many settings: every combination of the values in a grid.

    The study folder contains study.toml (the configuration and the grid), study.json (the result of each setting),
    report.html and a run folder for each setting. Ctrl-C leaves a complete folder; --resume continues from it.
    """
    from fedrl.cli.sweep import sweep_command

    changes = ([*(grid or []), *(more or [])], settings or [], seeds)
    given = (config, *changes, target, quantity, out, resume, trust, again, devices, quiet, as_json)
    sweep_command(*given, on_environment_error, executor_of(executor, workers, address))


app.command("scale", no_args_is_help=True)(scale)
app.command("coordinator", no_args_is_help=True)(coordinator)
app.command("up", no_args_is_help=True)(up)
for told in (status, pause, resume_jobs, stop, optout):
    app.command(told.__name__, no_args_is_help=True)(told)
app.add_typer(certs)
app.add_typer(audit)
app.command("agent", no_args_is_help=True)(agent)


@app.command("report", no_args_is_help=True)
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="One folder of a run, a study or fedrl scale, or several of runs."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="DIR/report.html by default; comparison.html for several runs."),
    ] = None,
    public: Annotated[
        bool,
        typer.Option("--public", help="Leave out what the privacy guarantee of a run does not cover; needs --out."),
    ] = False,
) -> None:
    """Write one self-contained HTML page about a run, a study, a scale measurement, or several runs compared."""
    from fedrl.cli.report import report_command

    report_command(folders, out, public)


@app.command("list")
def list_components(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND|NAME]",
            help="Only this kind: environment, learner, aggregator, stage, optimizer, ... Or one component: ppo, ...",
            autocompletion=components,
        ),
    ] = None,
) -> None:
    """List the components that a configuration can name: what each does, its parameters with ranges, and its source.

    Of one component, a line for each parameter: its type, default and range, and what it is.
    """
    from fedrl.cli.list import list_command

    list_command(kind)


@app.command("examples")
def list_examples(
    name: Annotated[
        str | None, typer.Argument(help="Print this example instead of the list.", autocompletion=examples)
    ] = None,
    copy: Annotated[
        Path | None, typer.Option("--copy", metavar="DIR", help="Copy the example to this folder instead.")
    ] = None,
) -> None:
    """List the examples that come with fedrl, print one, or copy one to change it.

    fedrl run NAME runs one. fedrl examples NAME --copy . writes its file to the working directory.
    """
    from fedrl.cli.examples import examples_command

    examples_command(name, copy)


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where; the working directory by default.")] = Path(),
    python: Annotated[
        bool, typer.Option("--python", help="Write experiment.py, the same experiment in Python, instead.")
    ] = False,
) -> None:
    """Write a commented experiment.toml that runs as it is and shows what can be changed."""
    from fedrl.cli.examples import init_command

    init_command(folder, python)


@app.command("schema")
def schema() -> None:
    """Print a JSON Schema of experiment.toml, with which editors complete and check it.

    fedrl schema > fedrl.schema.json, and "#:schema fedrl.schema.json" as the first line of the experiment.
    """
    from fedrl.cli.schema import schema_command

    schema_command()


@app.command("explain", no_args_is_help=True)
def explain(
    config: Annotated[Path, typer.Argument(help=CONFIG, autocompletion=experiments)],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the configuration; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON, and nothing else.")] = False,
) -> None:
    """Show what each agent would send in a round, to whom, what protects it, and what privacy costs. Nothing is run."""
    from fedrl.cli.explain import explain_command

    explain_command(config, settings or [], as_json)


@app.command("evaluate", no_args_is_help=True)
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")],
    episodes: Annotated[int | None, typer.Option(help="Episodes per agent; as configured by default.")] = None,
    render: Annotated[
        Path | None,
        typer.Option("--render", metavar="FILE.gif|FILE.mp4", help="Film one greedy episode, as GIF or MP4."),
    ] = None,
    agent: Annotated[int, typer.Option(help="The agent in whose environment the episode is filmed.")] = 0,
    seed: Annotated[int | None, typer.Option(help="The seed whose policy is filmed; the first by default.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help=TRUST)] = False,
    devices: Annotated[
        int | None,
        typer.Option("--devices", metavar="N", help="Compute on N devices of the processor; one per core by default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the returns as JSON, and nothing else.")] = False,
) -> None:
    """Play greedy episodes with the trained global parameters in every agent's environment."""
    from fedrl.cli.evaluate import evaluate_command

    evaluate_command(folder, episodes, render, agent, seed, trust, devices, as_json)


@app.command("export", no_args_is_help=True)
def export(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run folder, or its params.safetensors; with --csv also a study.")
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="numpy|torch|onnx",
            help="numpy: one Python file that needs NumPy alone. torch: an exported program of PyTorch. onnx: a model.",
        ),
    ] = None,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="In place of the policy, write the rounds as a table: a row each.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Of the run; the first by default.")] = None,
    agent: Annotated[
        int | None, typer.Option(help="Whose policy, where agents have their own; the server's by default.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="DIR/policy.py, .pt2 or .onnx, or DIR/curves.csv by default."),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help=TRUST)] = False,
) -> None:
    """Write the policy of a run to a file that needs no fedrl, or the rounds of a run or study as CSV.

    A policy is checked against that of the run on 1,000 observations before it is written.
    """
    from fedrl.cli.export import export_command, export_curves_command

    if as_csv:
        export_curves_command(folder, {"--to": to, "--seed": seed, "--agent": agent}, out, trust)
    else:
        export_command(folder, to, seed, agent, out, trust)


@app.command("check-env", no_args_is_help=True)
def check_env(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="module:name of a class or function, or an id of Gymnasium.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An argument of it, or max_steps; may be repeated."),
    ] = None,
) -> None:
    """Check that an environment of Gymnasium keeps its contract: spaces, values, seeds, ends, copies, speed."""
    from fedrl.cli.check_env import check_env_command

    check_env_command(name, settings or [])


@app.command("doctor")
def doctor() -> None:
    """Show versions, devices, flags and extras, and train for a few seconds to test the installation."""
    from fedrl.cli.doctor import doctor_command

    doctor_command()
