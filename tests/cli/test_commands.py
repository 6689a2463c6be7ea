"""Every command, by the registry: help, plan, JSON, exit codes, schema, and the same call from Python."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import cryoloom
from cryoloom.cli.main import TOOLS, cli, common_options, run_command
from cryoloom.contract import InputError, StageDeclaration
from cryoloom.pipeline.settings import RUN
from cryoloom.project.registry import STAGES, declarations, find_stage

DECLARATIONS = {**declarations(), RUN.name: RUN}
COMMANDS = [*DECLARATIONS, *TOOLS]


def call(capsys, *words):
    """Exit code, standard output and standard error of one command."""
    code = run_command(list(words))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    return code, captured.out, captured.err


def flags_of(name):
    """Spellings of all options of a command."""
    command = cli
    for word in name.split():
        command = command.get_command(None, word)
    return {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}


def needed_input(declaration):
    return next((declared for declared in declaration.inputs if declared.required), None)


def python_name(name):
    """Name of the function in the package; `import` is a word of the language."""
    return "import_" if name == "import" else name.replace(" ", "_").replace("-", "_")


@pytest.mark.capability("PLT-9")
def test_every_command_has_help_plan_json_exit_codes_a_schema_and_a_python_function(measure, capsys, tmp_path):
    faults = []

    def expect(holds, name, what):
        if not holds:
            faults.append(f"{name}: {what}")

    for name in COMMANDS:
        code, out, _ = call(capsys, *name.split(), "--help")
        expect(code == 0, name, "--help")
        expect("--plan" in out and "--json" in out, name, "--plan and --json in the help")
        code, _, error = call(capsys, *name.split(), "--no-such-option")
        expect(code == 2 and "--no-such-option" in error, name, "unknown option")
    for name, declaration in DECLARATIONS.items():
        schema = json.loads(json.dumps(declaration.settings.model_json_schema()))
        fields = schema["properties"]
        expect(set(fields) == set(declaration.settings.model_fields), name, "schema of all settings")
        expect(all(field.get("description") for field in fields.values()), name, "help of all settings")
        names = {declared.name for declared in declaration.inputs} | set(fields)
        expect({f"--{n.replace('_', '-')}" for n in names} <= flags_of(name), name, "an option for each of them")
        expect(callable(getattr(cryoloom, python_name(name))), name, "Python function")
        if needed_input(declaration) is not None or name == RUN.name:
            for extra in ([], ["--plan"], ["--plan", "--json"]):
                code, out, error = call(capsys, *name.split(), "--out", str(tmp_path / "none"), *extra)
                expect(code == 2 and error.count("\n") == 1 and not out, name, f"missing input {extra}")
    for name in ("simulate particles", "simulate movies", "validate-install", *TOOLS):
        code, out, _ = call(capsys, *name.split(), "--plan", "--json")
        expect(code == 0 and "reasons" in json.loads(out), name, "plan as JSON")
    n_good = len(COMMANDS) - len({fault.partition(":")[0] for fault in faults})
    measure(n_good, unit="commands", threshold="100 %", bound=len(COMMANDS), note="; ".join(faults))
    assert faults == [] and not (tmp_path / "none").exists()


def test_the_registry_lists_every_stage_under_its_own_name():
    root = Path(cryoloom.__file__).parent
    declared = {}  # a declaration may be imported where its inputs are shared
    for path in root.rglob("settings.py"):
        module = importlib.import_module(".".join(("cryoloom", *path.relative_to(root).with_suffix("").parts)))
        for value in vars(module).values():
            if isinstance(value, StageDeclaration):
                assert declared.setdefault(value.name, value) is value
    assert sorted(declared) == sorted(DECLARATIONS)
    for name in STAGES:
        module, _, function = find_stage(name).function.partition(":")
        assert (Path(cryoloom.__file__).parent.parent / (module.replace(".", "/") + ".py")).is_file() and function


@pytest.mark.parametrize("name", list(declarations()))
def test_python_refuses_what_the_command_line_refuses(name, tmp_path):
    function = getattr(cryoloom, python_name(name))
    with pytest.raises(InputError, match="no_such_setting"):
        function(no_such_setting=1, out=tmp_path / "x")
    needed = needed_input(find_stage(name))
    if needed is not None:
        with pytest.raises(InputError, match=f"--{needed.name.replace('_', '-')} is missing"):
            function(out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_stage_can_be_called_after_its_room_was_imported(tmp_path):
    import cryoloom.refine.settings

    assert cryoloom.refine.settings.REFINE.name == "refine"
    with pytest.raises(InputError, match="--particles is missing"):
        cryoloom.refine(out=tmp_path / "x")
    with pytest.raises(AttributeError, match="no attribute 'fourier'"):
        cryoloom.fourier()


def test_the_whole_way_is_a_function_too(tmp_path):
    with pytest.raises(InputError, match="out=DIR"):
        cryoloom.run(particles="particles.star")
    with pytest.raises(InputError, match="exactly one"):
        cryoloom.run(out=tmp_path / "project")
    with pytest.raises(InputError, match="no_such_setting"):
        cryoloom.run(particles="particles.star", no_such_setting=1, out=tmp_path / "project")


def test_words_that_are_no_command_or_value_are_wrong_input(capsys, tmp_path):
    for words in (["nonsense"], ["simulate", "nonsense"], ["ctf", "--micrographs", str(tmp_path / "none.star")],
                  ["simulate", "particles", "--snr", "-1"], ["import", "--files", "x", "--voltage", "many"],
                  ["report", str(tmp_path)], ["ctf", "--threads", "0"]):  # fmt: skip
        code, _, error = call(capsys, *words)
        assert code == 2 and error, words


def test_a_plan_is_made_from_the_sizes_of_the_files_and_writes_nothing(capsys, tmp_path, monkeypatch):
    (tmp_path / "half.mrc").write_bytes(bytes(3_000_000))
    monkeypatch.chdir(tmp_path)
    words = ["postprocess", "--half1", "half.mrc", "--half2", "half.mrc", "--plan", "--json", "--threads", "2"]
    code, out, _ = call(capsys, *words)
    plan = json.loads(out)
    assert code == 0 and plan["stage"] == "postprocess" and plan["threads"] == 2 and plan["input_mb"] == 6
    assert plan["seconds"] > 0 and plan["memory_mb"] > 0 and [p.name for p in tmp_path.iterdir()] == ["half.mrc"]


def test_options_common_to_all_stages_do_not_collide_with_settings():
    common = {flag for option in common_options() for flag in option.opts}
    for name, declaration in DECLARATIONS.items():
        own = {f"--{n.replace('_', '-')}" for n in declaration.settings.model_fields}
        own |= {f"--{declared.name.replace('_', '-')}" for declared in declaration.inputs}
        assert not own & common, name
        assert not {i.name for i in declaration.inputs} & set(declaration.settings.model_fields), name


def test_help_needs_neither_torch_nor_numpy():
    lines = ["import sys", "from cryoloom.cli.main import run_command"]
    lines += [f"assert run_command({[*name.split(), '--help']!r}) == 0" for name in COMMANDS]
    lines += ["slow = {'torch', 'numpy', 'numba', 'scipy', 'polars', 'matplotlib'} & set(sys.modules)"]
    lines += ["sys.exit(f'imported: {slow}' if slow else 0)"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
