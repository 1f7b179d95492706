"""Parameters: a file is read as it looks, a notebook takes what its cells say, and nothing else."""

import contextlib
import io
import json
import re
import runpy

import pytest
import yaml

from dits_lib.search import SearchSettings
from dits_lib.settings import ROOT, ParamsError, parse_yaml, read_yaml, write_yaml
from dits_lib.settings.messages import LONGEST
from dits_lib.suite.cells import HEADER
from dits_lib.suite.params import check_params, load_params, notebook_params

REFUSED = {
    "a section twice": ("search: {rollouts: 2}\nseed: 1\nsearch: {repetitions: 3}", 3, "twice"),
    "a key of a section twice": ("search: {rollouts: 2, rollouts: 3}", 1, "twice"),
    "octal": ("seed: 1\nworkers: 010", 2, "'010' begins with 0"),
    "not a number": ("dpo:\n  beta: .nan", 2, ".nan is no finite number"),
    "infinite": ("dpo: {beta: -.inf}", 1, "-.inf is no finite number"),
    "too large for a float": ("dpo: {beta: 1e999}", 1, "1e999 is no finite number"),
    "five thousand digits": ("seed: " + "9" * 5000, 1, "5000 digits"),
    "a type by name": ("seed: !!int abc", 1, "types such as"),
    "an object": ("seed: !!python/object:os.system x", 1, "types such as"),
    "a billion laughs": ("a: &a [x, x]\nb: &b [*a, *a]", 1, "names for values"),
    "very deep": ("[" * 100_000, 1, "inside each other"),
    "a number as key": ("1: 2", 1, "a key must be a word"),
    "a list as key": ("? [1]\n: 2", 1, "a key must be a word"),
    "two documents": ("seed: 1\n---\nseed: 2", 2, "another document"),
    "cut short": ("seed: [1, 2", 1, "expected"),
    "a character of no text": ("seed: 1\nworkers: \0", 2, "character 0x0"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_yaml_with_two_meanings_is_refused_with_its_line(tmp_path, name):
    text, row, message = REFUSED[name]
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ParamsError) as error:
        load_params(file)
    told = str(error.value)
    assert told.startswith(f"{file}:{row}: ") and message in told and len(told.splitlines()) == 1
    assert len(told) < len(str(file)) + 3 * LONGEST


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("workers: on", "workers = 'on': must be a valid integer"),
        ("workers: true", "workers = True: must be a valid integer"),
        ("dpo: {beta: yes}", "dpo.beta = 'yes': must be a valid number"),
        ("dpo: {beta: true}", "dpo.beta = True: must be a valid number"),
        ("workers: 1:30", "workers = '1:30': must be a valid integer"),
        ("seed: 2026-13-45", "seed = '2026-13-45': must be a valid integer"),
        ("seed: '3'", "seed = '3': must be a valid integer"),
        ("seed: 3.0", "seed = 3.0: must be a valid integer"),
        ("model: {eager: on}", "model.eager = 'on': must be true or false"),
        ("model: {eager: 1}", "model.eager = 1: must be true or false"),
        ("model: {path: 3}", "model.path = 3: must be text"),
        ("model: {path: ''}", "model.path = '': must be a text of one line"),
        ("sizes: {test_questions: 1e12}", "sizes.test_questions = 1000000000000.0"),
        ("sizes: {test_questions: 100000000}", "must be less than or equal to 10000000"),
        ("web: {seconds: 1e10}", "web.seconds = 10000000000.0: must be less than or equal to 3600"),
        ("dpo: {beta: 1e9}", "dpo.beta = 1000000000.0: must be less than or equal to 1000"),
        (
            "selection: {small_alpha: 0.5}",
            "selection.small_alpha is 0.5, but selection.alpha is 0.5: it must be the smaller",
        ),
        ("budget: {rollouts: [12, 3]}", "budget.rollouts = [12, 3]: must rise: [3, 12]"),
        ("influence: {step_sizes: [1.0, 1]}", "must not repeat a value, but 1.0 stands there"),
        ("sensitivity: {gamma: []}", "sensitivity.gamma = []"),
        ("notebooks: [01_rollout, 01_rollout]", "must not repeat a value, but 01_rollout"),
        ("fidelity: {validation: {}}", "fidelity.validation = {}"),
        ("fidelity: {validation: {nope: 3}}", "fidelity.validation.nope = 'nope': must be"),
        (
            "agents: {exchange: {max_turn: 3}}",
            "agents.exchange.max_turn: unknown key; did you mean",
        ),
        ("agents: {exchange: {max_turns: {x: 1}}}", "agents.exchange.max_turns = {'x': 1}"),
        ("influence: {options: {race: {}}}", "influence.options.race: no such estimator; did you"),
        ("influence: {options: {racing: {eror: 1}}}", "did you mean 'error'?"),
        ("search:", "search = None: must be keys and their values"),
        ("profile: ..", "profile = '..': must be a plain word"),
        ("profile: .", "profile = '.': must be a plain word"),
        ("profile: .hidden", "must be a plain word"),
        ("profile: a/b", "must be a plain word"),
        ("profile: nul.x", "is the name of something else"),
        ("profile: regimes", "is the name of something else"),
        ("profile: micro-changed-0123abcd", "must not end as"),
        ("world: {questions: ~nobody-of-that-name/q.jsonl}", "no user with a home folder"),
    ],
)
def test_a_value_is_of_its_kind_and_within_its_bounds(tmp_path, line, message):
    file = tmp_path / "mine.yaml"
    file.write_text(line)
    with pytest.raises(ParamsError) as error:
        load_params(file)
    told = str(error.value)
    assert told.startswith(f"{file}: ") and message in told and len(told.splitlines()) == 1


def test_every_file_here_reads_as_before():
    for file in [*ROOT.glob("params/*.yaml"), *ROOT.glob("results/*/params.yaml")]:
        assert repr(read_yaml(file)) == repr(yaml.safe_load(file.read_text()))
    values = {"a": ["on", "1e-5", "010", "1:30", "true", "", ".inf", 1, 0.5, 1e-9, None, True]}
    assert parse_yaml(write_yaml(values), "x") == values
    assert parse_yaml("{a: 1e-5, b: -3, c: 2026-01-01}", "x") == {
        "a": 1e-5,
        "b": -3,
        "c": "2026-01-01",
    }
    assert load_params("micro", ["notebooks=[05_iterations, 01_rollout]"]).notebooks == [
        "01_rollout",
        "05_iterations",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed=010", "--set seed=010: not valid YAML"),
        ("seed=.nan", "--set seed=.nan: not valid YAML"),
        ("seed=on", "seed = 'on': must be a valid integer"),
        ("search={rollouts: 2, rollouts: 3}", "twice"),
        ("seed=" + "[" * 9000, "inside each other"),
        ("a.b.c.d.e.f.g.h=1", "expected KEY=VALUE"),
        ("search..rollouts=1", "expected KEY=VALUE"),
        ("seed", "expected KEY=VALUE"),
        ("agents.exchange.max_turn=3", "did you mean 'max_turns'?"),
    ],
)
def test_set_reads_values_as_a_file_does(change, message):
    with pytest.raises(ParamsError) as error:
        load_params("micro", [change])
    told = str(error.value)
    assert message in told and len(told.splitlines()) == 1 and len(told) < 400


def test_a_change_that_is_given_twice_is_refused():
    with pytest.raises(ParamsError, match="--set seed: given twice"):
        load_params("micro", ["seed=1", "seed=2"])


ODD = (
    None,
    [],
    {},
    "",
    -1,
    0,
    1e12,
    10**30,
    float("nan"),
    float("inf"),
    True,
    "x",
    [[[1]]],
    {"x": {"y": [1]}},
    "9" * 5000,
    "two\nlines",
    [1, 1],
    [2, 1],
    {3: 4},
)


def keys_of(values, place=()):
    """{path of a key: its value}, sections included."""
    found = {}
    for key, value in values.items():
        found[*place, key] = value
        if isinstance(value, dict):
            found |= keys_of(value, (*place, key))
    return found


KEYS = keys_of(load_params("micro").model_dump())
TAKEN = {  # by the few keys to which params/micro.yaml gives the value a meaning
    "None": "agents.exchange agents.debate data.data_dir model.cache_gb world.questions web.model "
    "web.cache web.search_engine web.calls web.nesting web.tokens web.max_new_tokens "
    "web.page_characters web.snippet_words web.judge_url web.judge_model influence.lora_seed "
    "influence.gradient_tokens influence.target_repeatable",
    "{}": "agents.exchange agents.debate "
    + " ".join(".".join(place) for place, value in KEYS.items() if isinstance(value, dict)),
    "0": "seed sft.lora_rank dpo.lora_rank sft.min_reward pairs.min_value pairs.min_gap "
    "influence.temperature search.token_weight search.fluency_weight search.candidate_distance "
    "search.merge_distance world.harmful.share dpo.nll_weight iterations.gamma fidelity.subsets "
    "fidelity.race_pairs fidelity.use_seeds fidelity.first_use_seed web.snippet_words "
    "influence.lora_seed influence.warmup_steps ray.gpus ray.retries",
    "-1": "search.token_weight search.fluency_weight pairs.min_value sft.min_reward",
    "True": "model.eager model.compile pairs.upper_half sft.gradient_checkpointing "
    "dpo.gradient_checkpointing influence.gradient_checkpointing web.replay",
    "[2, 1]": "testing.temperatures",
    "'x'": "profile model.path data.data_dir world.questions web.model web.site web.cache "
    "web.judge_url web.judge_model",
}


@pytest.mark.parametrize("place", KEYS, ids=".".join)
def test_no_odd_value_is_taken_for_something_or_ends_in_a_traceback(place):
    """Every key with every odd value: refused by lines that name the file and the key, or, where
    `params/micro.yaml` gives the value a meaning, taken as it is."""
    key = ".".join(place)
    for value in ODD:
        raw: object = value
        for part in reversed(place):
            raw = {part: raw}
        try:
            check_params(raw, "mine.yaml")
        except ParamsError as error:
            lines = str(error).splitlines()
            assert all(line.startswith("mine.yaml: ") for line in lines), lines
            assert place[-1] in str(error) and max(map(len, lines)) < 600, lines
        else:
            assert key in TAKEN.get(repr(value), "").split(), f"{key} took {value!r:.60}"


def test_settings_that_are_built_in_python_are_as_strict():
    for odd in (True, "3", 2.0, None):
        with pytest.raises(ValueError, match="repetitions"):
            SearchSettings(repetitions=odd)
    assert SearchSettings(temperature=1) == SearchSettings(temperature=1.0)


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("model: {path: ~/model}\nweb: {cache: ~/pages}\n")
    for params in (
        load_params("~/mine.yaml"),
        load_params("micro", ["model.path=~/model", "web.cache=~/pages"]),
    ):
        assert params.model_paths()[0] == str(tmp_path / "model")
        assert ROOT / params.web.cache == tmp_path / "pages"


def test_a_file_names_its_profile(tmp_path):
    (tmp_path / "mine.yaml").write_text("seed: 3")
    assert load_params(tmp_path / "mine.yaml").profile == "mine"
    (tmp_path / ".mine.yaml").write_text("seed: 3")
    with pytest.raises(ParamsError, match=r"profile = '\.mine': must be a plain word"):
        load_params(tmp_path / ".mine.yaml")
    for name in ("../params/micro", "", "a b", "x" * 300, "\0"):
        with pytest.raises(ParamsError, match="must be a plain word"):
            load_params(name)


CELL = f'{HEADER}\nprofile = "micro"\n'
INJECTED = "# Parameters\n"


def ran(*sources, **others):
    """The variables of a kernel that ran these cells."""
    return {"In": ["", *sources], **others}


def test_a_notebook_takes_what_its_cells_say_and_no_other_variable():
    plain = notebook_params(ran(CELL), "01_rollout")
    assert plain == load_params("micro").serving("01_rollout")
    # A second Run All, a reader's variables, and those of the notebook itself.
    mine = {"influence": {}, "model": "mine", "data": [1], "seed": 99, "profile": "smoke"}
    assert notebook_params(ran("x = 1", CELL, "model = 3", **mine), "01_rollout") == plain
    changed = notebook_params(ran(CELL + 'search = {"repetitions": 3}'), "01_rollout")
    assert changed.search == plain.search.changed(repetitions=3)
    # A line that was deleted is out of force.
    assert notebook_params(ran(CELL + "seed = 3", CELL), "01_rollout") == plain
    assert notebook_params(ran(CELL), "08_deep_search") == load_params("micro").serving(
        "08_deep_search"
    )


def test_papermill_stands_on_top_of_the_cell_that_ran_before_it():
    given = INJECTED + 'profile = "smoke"\nseed = 5\n'
    assert notebook_params(ran(CELL, given), "01_rollout") == load_params(
        "smoke", ["seed=5"]
    ).serving("01_rollout")
    # Its cell ran, then the parameters cell once more: what the reader sees last is meant.
    again = notebook_params(ran(CELL, given, CELL + "seed = 7"), "01_rollout")
    assert (again.profile, again.seed) == ("micro", 7)


def injected(values):
    from papermill.translators import PythonTranslator

    return PythonTranslator.codify(values)


def test_what_reproduce_gives_is_whole_also_without_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("sizes: {test_questions: 7}\nagents: {prompts: micro}\n")
    for params in (
        load_params(tmp_path / "mine.yaml"),
        load_params("llama3-8b", dataset="mmlu"),
        load_params("smoke", ["seed=3"]),
    ):
        notebook = params.notebooks[0]
        assert notebook_params(ran(CELL, injected(params.model_dump())), notebook) == (
            params.serving(notebook)
        )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("serach = {}", "serach: unknown key; did you mean 'search'?"),
        ('search = {"repetition": 3}', "did you mean 'repetitions'?"),
        ("seed = 1\nseed = 2", "line 4: seed is assigned twice"),
        ('search = {"rollouts": 1, "rollouts": 2}', "'rollouts' stands there twice"),
        ("seed = 1 + 1", "line 3: seed = 1 + 1: must be a plain value"),
        ("seed = n", "seed = n: must be a plain value"),
        ("import os", "line 3: import os: only assignments"),
        ("seed: int = 3", "only assignments of plain values"),
        ("a = b = 3", "only assignments of plain values"),
        ("seed = (", "not valid Python"),
        ('dpo = {"beta": float("nan")}', "is no finite number"),
        ('dpo = {"beta": 1e999}', "dpo.beta = inf"),
        ("search = " + "[" * 150 + "]" * 150, "01_rollout"),
        ("seed = True", "seed = True: must be a valid integer"),
        ("tasks = {'debate'}", "must be a list"),
    ],
)
def test_anything_but_plain_values_of_known_keys_is_refused(source, message):
    for cells in (
        (CELL + source,),
        (CELL, INJECTED + "x = 1", INJECTED + "\n" + source),
    ):
        with pytest.raises(ParamsError) as error:
            notebook_params(ran(*cells), "01_rollout")
        told = str(error.value)
        assert message in told and len(told.splitlines()) == 1 and len(told) < 600


def test_a_profile_is_one_of_those_that_are_there():
    for name in ("smoek", "results", "micro-hotpotqa", "../params/micro", "", None, 3, ["micro"]):
        with pytest.raises(ParamsError, match="profiles here: .*micro.*smoke") as error:
            notebook_params(ran(f"{HEADER}\nprofile = {name!r}"), "01_rollout")
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(ParamsError, match="profile is missing; profiles here"):
        notebook_params(ran(HEADER), "01_rollout")
    with pytest.raises(ParamsError, match="its parameters cell was not run"):
        notebook_params(ran("profile = 'micro'", profile="micro"), "01_rollout")
    with pytest.raises(ParamsError, match="its parameters cell was not run"):
        notebook_params({"profile": "micro"}, "01_rollout")


def test_a_script_made_of_a_notebook_is_read_from_its_file(tmp_path):
    nbconvert = pytest.importorskip("nbconvert")
    notebook = json.loads((ROOT / "notebooks" / "01_rollout.ipynb").read_text())
    first = next(n for n, c in enumerate(notebook["cells"]) if HEADER in "".join(c["source"]))
    cell = notebook["cells"][first]
    cell["source"] += ["\nseed = 4"]
    del notebook["cells"][first + 2 :]
    (tmp_path / "n.ipynb").write_text(json.dumps(notebook))
    text, _ = nbconvert.PythonExporter().from_filename(str(tmp_path / "n.ipynb"))
    (tmp_path / "n.py").write_text("model = 'mine'\n" + text)
    with contextlib.redirect_stdout(io.StringIO()):
        found = runpy.run_path(str(tmp_path / "n.py"))["params"]
    assert found == load_params("micro", ["seed=4"]).serving("01_rollout")


def test_a_mistake_in_a_notebook_is_one_line_without_a_traceback():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    code = (
        "from dits_lib.suite.params import notebook_params\n"
        "notebook_params(globals(), '01_rollout')"
    )
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        shell.run_cell(CELL + "sed = 3", store_history=True)
        shell.run_cell(code, store_history=True)
    told = out.getvalue().strip().splitlines()
    assert len(told) == 1 and "sed: unknown key; did you mean 'seed'?" in told[0]


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")))
def test_all_notebooks_share_the_line_by_which_their_parameters_are_known(name):
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"]]
    tagged = [
        n for n, c in enumerate(notebook["cells"]) if "parameters" in c["metadata"].get("tags", [])
    ]
    assert [n for n, cell in enumerate(cells) if cell.startswith(HEADER)] == tagged
    called = [n for n, cell in enumerate(cells) if "notebook_params(" in cell]
    assert called == [tagged[0] + 1] and f'notebook_params(globals(), "{name}")' in cells[called[0]]
    assert cells[called[0]].startswith(("import ", "from "))  # where a script's parameters end
    assert notebook_params(ran(cells[tagged[0]]), name).profile in (
        "micro",
        "fidelity",
        "sensitivity",
    )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("[1]", "by_data_set: expected data sets: hotpotqa"),
        ("{squad: {dpo: {beta: 1}}}", "by_data_set.squad: no such data set; allowed: hotpotqa"),
        ("{cbt: 0.7}", "by_data_set.cbt: expected sections and their keys"),
        ("{cbt: {beta: 0.7}}", "by_data_set.cbt: expected sections and their keys"),
        ("{cbt: {dpo: {beta: -1}}}", "by_data_set.cbt: dpo.beta = -1: must be greater than 0"),
        ("{cbt: {dpo: {bta: 1}}}", "by_data_set.cbt: dpo.bta: unknown key; did you mean 'beta'"),
    ],
)
def test_what_a_profile_changes_by_data_set_is_checked_when_it_is_read(tmp_path, section, message):
    file = tmp_path / "mine.yaml"
    file.write_text(f"by_data_set: {section}\n")
    with pytest.raises(ParamsError, match=re.escape(f"{file}: {message}")):
        load_params(file)


def test_a_profile_changes_parameters_by_data_set(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "dpo: {beta: 0.2, batch: 4}\n"
        "by_data_set: {cbt: {dpo: {beta: 0.7}, sft: {min_reward: 0.6}}, mmlu: {dpo: {batch: 2}}}\n"
    )

    def of(dataset, *changes):
        params = load_params(file, list(changes), dataset)
        return params.dpo.beta, params.dpo.batch, params.sft.min_reward

    assert of(None) == (0.2, 4, 0.5)
    assert of("cbt") == (0.7, 4, 0.6) and of("mmlu") == (0.2, 2, 0.5) == of("mmlu")
    assert of("hotpotqa") == of(None)
    assert of("cbt", "dpo.beta=0.3") == (0.3, 4, 0.6)
    assert "by_data_set" not in load_params(file, dataset="cbt").model_dump()
