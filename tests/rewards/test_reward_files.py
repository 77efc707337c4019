"""Reward files: valid return values, the restored state of the process, and how their modules are found."""

import random
import sys
from pathlib import Path

import pytest
import torch

from grpo.core.errors import UserError
from grpo.rewards.reward_files import load_reward_files
from grpo.rewards.scoring import NonFiniteReward
from grpo.rewards.stack import build_rewards
from tests.helpers.scoring import score

HEAD = "from grpo.rewards import reward\n"


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(HEAD + text)
    return str(folder / name)


def scored(*completions: str, name: str = "mine") -> list[float]:
    return score(name, completions, ["1"] * len(completions), ["?"] * len(completions))


def returning(folder: Path, value: str, argument: str = "completion") -> None:
    text = (
        "import decimal, enum, fractions, numbers\nimport numpy as np\nimport pandas as pd\nimport torch\n\n\n"
        "class Whole(enum.IntEnum):\n    ONE = 1\n\n\n"
        "class Odd(float):\n    def __float__(self):\n        raise OSError('no float')\n\n\n"
        "class Negative(float):\n    def __abs__(self):\n        raise OSError('no abs')\n\n\n"
        "class Mute(float):\n    def __repr__(self):\n        raise OSError('no repr')\n\n\n"
        "class Plain(float):\n    pass\n\n\n"
        f"@reward\ndef mine({argument}):\n    return {value}\n"
    )
    load_reward_files([write(folder, text)])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("np.float32(0.5)", 0.5),
        ("np.float16(0.5)", 0.5),
        ("np.longdouble(0.5)", 0.5),
        ("np.int64(2)", 2.0),
        ("np.bool_(True)", 1.0),
        ("np.array(0.5)", 0.5),
        ("torch.tensor(0.5)", 0.5),
        ("torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True)", 0.5),
        ("torch.tensor(True)", 1.0),
        ("decimal.Decimal('0.5')", 0.5),
        ("fractions.Fraction(1, 2)", 0.5),
        ("Whole.ONE", 1.0),
        ("Plain(0.5)", 0.5),
        ("Negative(0.5)", 0.5),
        ("-1e12", -1e12),
    ],
)
def test_numbers_of_any_type_are_scores(tmp_path, value: str, expected: float) -> None:
    returning(tmp_path, value)
    (found,) = scored("x")
    assert found == expected and type(found) is float


FINITE = "a reward is a finite number"
TOO_LARGE = r"a reward is between -1e\+12 and 1e\+12, otherwise float32 overflows"


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("np.float32('inf')", NonFiniteReward, FINITE),
        ("np.float16('-inf')", NonFiniteReward, FINITE),
        ("np.array(np.inf)", NonFiniteReward, FINITE),
        ("torch.tensor(float('inf'))", NonFiniteReward, FINITE),
        ("torch.tensor(float('nan'))", NonFiniteReward, FINITE),
        ("decimal.Decimal('Infinity')", NonFiniteReward, FINITE),
        ("decimal.Decimal('NaN')", NonFiniteReward, FINITE),
        ("fractions.Fraction(10**400)", NonFiniteReward, FINITE),
        ("10**5000", NonFiniteReward, "returned a value of type int; a reward is a finite number"),
        ("Plain('nan')", NonFiniteReward, "returned nan"),
        ("Negative('inf')", NonFiniteReward, "returned inf"),
        ("1e39", NonFiniteReward, TOO_LARGE),
        ("np.float64(1e300)", NonFiniteReward, TOO_LARGE),
        ("decimal.Decimal('1e20')", NonFiniteReward, TOO_LARGE),  # its square is infinite in float32
        ("Mute('inf')", NonFiniteReward, "returned a value of type Mute"),
        ("1j", UserError, r"returned 1j; a reward is a finite number"),
        ("np.complex64(1)", UserError, r"returned np.complex64\(1\+0j\)"),
        ("np.array([1.0])", UserError, r"returned array\(\[1.\]\)"),
        ("torch.tensor([1.0])", UserError, r"returned tensor\(\[1.\]\)"),
        ("np.str_('1')", UserError, "returned np.str_"),
        ("np.datetime64('2020-01-01')", UserError, "returned np.datetime64"),
        ("pd.NA", UserError, "returned <NA>"),
        ("np.ma.masked", UserError, "returned masked"),
        ("'1'", UserError, "returned '1'"),
        ("decimal.Decimal('sNaN')", UserError, "raised ValueError: cannot convert signaling NaN"),
        ("Odd(1)", UserError, "raised OSError: no float"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_score_that_is_not_a_finite_number_is_refused(
    tmp_path, value: str, kind: type[UserError], message: str
) -> None:
    returning(tmp_path, value)
    with pytest.raises(UserError, match=f"reward 'mine' .*{message}") as error:
        scored("the text")
    assert type(error.value) is kind and "The completion: 'the text'" in str(error.value)


@pytest.mark.parametrize(
    "value",
    ["(0, 1)", "range(2)", "{'a': 0, 'b': 1}.values()", "np.arange(2)", "torch.arange(2)", "pd.Series([0, 1])"],
)
def test_a_batch_is_scored_in_order(tmp_path, value: str) -> None:
    returning(tmp_path, value, "completions")
    assert scored("a", "b") == [0.0, 1.0]


@pytest.mark.parametrize(
    "value",
    [
        "{0: 1.0, 1: 2.0}",
        "{0.0, 1.0}",
        "{0: 1.0, 1: 2.0}.keys()",
        "'12'",
        "b'12'",
        "bytearray(2)",
        "np.array(1.0)",
        "np.zeros((2, 1))",
        "torch.zeros(2, 1)",
        "pd.DataFrame({0: [1.0, 2.0], 1: [3.0, 4.0]})",
        "(each for each in [0.0, 1.0])",
        "1.0",
    ],
)
def test_a_batch_without_an_order_is_refused(tmp_path, value: str) -> None:
    returning(tmp_path, value, "completions")
    with pytest.raises(
        UserError, match=r"(?s)'mine' returned .* for 2 completions; return a list with one score for each"
    ):
        scored("a", "b")


@pytest.mark.parametrize("weight", [1e300, 1e39, -1e39, 10_001, float("nan"), float("-inf")])
def test_weights_that_overflow_are_refused(weight: float) -> None:
    with pytest.raises(UserError, match=r"rewards.int=.*: a weight is a finite number between -10000 and 10000"):
        build_rewards({"int": weight})


RAISED = {
    "class End(BaseException): pass\n    raise End('timeout')": "raised End: timeout",
    "raise SystemExit(3)": "raised SystemExit: 3",
    "class Mute(Exception):\n        def __str__(self): raise OSError\n    raise Mute": r"raised Mute \(mine.py",
    "mine(completion)": "raised RecursionError",
    "from grpo.core.errors import UserError\n    raise UserError('mine')": "raised UserError: mine",
}


@pytest.mark.parametrize("body", RAISED)
def test_every_exception_is_reported(tmp_path, body: str) -> None:
    load_reward_files([write(tmp_path, f"@reward\ndef mine(completion):\n    {body}\n")])
    with pytest.raises(UserError, match=f"reward 'mine' {RAISED[body]}"):
        scored("x")


# A change that a reward may make to the process -> code that would detect it.
CHANGES = {
    "os.chdir('/')": "os.getcwd()",
    "os.umask(0o777)": "(mask := os.umask(0o077), os.umask(mask))[0]",
    "sys.setrecursionlimit(400)": "sys.getrecursionlimit()",
    "random.seed(1)": "random.getstate()",
    "np.random.seed(1)": "np.random.get_state()[1].tolist()",
    "torch.manual_seed(1)": "torch.get_rng_state().tolist()",
    "torch.set_grad_enabled(False)": "torch.is_grad_enabled()",
    "torch.inference_mode().__enter__()": "torch.is_inference_mode_enabled()",
    "torch.set_default_dtype(torch.float64)": "torch.get_default_dtype()",
    "torch.set_default_device('meta')": "torch.get_default_device()",
    "torch.use_deterministic_algorithms(True)": "torch.are_deterministic_algorithms_enabled()",
    "torch.utils.deterministic.fill_uninitialized_memory = False": "torch.utils.deterministic.fill_uninitialized_memory",
    "torch.autograd.set_detect_anomaly(True)": "torch.is_anomaly_enabled()",
    "torch.set_num_threads(7)": "torch.get_num_threads()",
    "torch.set_float32_matmul_precision('medium')": "torch.get_float32_matmul_precision()",
    "np.seterr(all='raise')": "np.geterr()",
    "decimal.getcontext().prec = 3": "decimal.getcontext().prec",
    "sys.stdout.close()": "sys.stdout.write('') and sys.stdout.closed",
    "sys.stdout = None": "sys.stdout",
    "sys.stderr = io.StringIO()": "sys.stderr",
    "sys.stdout = io.TextIOWrapper(sys.stdout.buffer)": "print(end='')",
    "sys.stdout = io.TextIOWrapper(sys.stdout.detach())": "print(end='')",
    "signal.signal(signal.SIGINT, signal.SIG_IGN)": "signal.getsignal(signal.SIGINT)",
    "signal.alarm(60)": "signal.getitimer(signal.ITIMER_REAL)[0]",
    "sys.path.clear()": "list(sys.path)",
}
IMPORTS = "import decimal, io, os, random, signal, sys\nimport numpy as np\nimport torch\n"


@pytest.mark.parametrize("change", CHANGES)
def test_the_process_state_is_restored_after_a_reward(tmp_path, change: str) -> None:
    modules: dict = {}
    exec(IMPORTS, modules)
    before = eval(CHANGES[change], modules)
    load_reward_files([write(tmp_path, f"{IMPORTS}{change}\n@reward\ndef mine(completion):\n    return 1\n")])
    assert eval(CHANGES[change], modules) == before
    load_reward_files([write(tmp_path, f"{IMPORTS}@reward\ndef mine(completions):\n    {change}\n    return [1, 2]\n")])
    assert scored("a", "b") == [1.0, 2.0]
    assert eval(CHANGES[change], modules) == before


def test_random_numbers_are_seeded_by_the_completions(tmp_path) -> None:
    draw = "random.random() + np.random.random() + torch.rand(()).item()"
    load_reward_files([write(tmp_path, f"{IMPORTS}@reward\ndef mine(completion):\n    return {draw}\n")])
    first, again, other = scored("a", "a"), scored("a", "a"), scored("a", "b")
    assert first == again and first[0] != first[1] and first[0] != other[0]


def test_training_does_not_depend_on_what_a_reward_does_to_the_process(train, tmp_path) -> None:
    wild = "; ".join(change for change in CHANGES if change != "sys.stdout = None")
    found = []
    for name, change in (("plain", "pass"), ("wild", wild)):
        scores = "[i / 10 for i, _ in enumerate(completions)]"
        text = f"{IMPORTS}@reward\ndef mine(completions):\n    {change}\n    return {scores}\n"
        out, results = train(f"reward_files=[{write(tmp_path / name, text)}]", "+rewards.mine=0.1")
        found.append((results["before"], results["after"]))
        out.rename(tmp_path / name / "run")
    assert found[0] == found[1] and Path.cwd() == tmp_path


DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass
from grpo.rewards import reward


@dataclass
class Weight:
    value: float = 0.5


@reward
def mine(completion):
    return Weight().value
"""


def test_a_reward_file_is_a_module(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(DATACLASS)
    load_reward_files([str(tmp_path / "mine.py")])
    assert scored("x") == [0.5]


POOL = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from helper import length


def half(text):
    return length(text) / 2


@reward
def mine(completions):
    with ProcessPoolExecutor(1, multiprocessing.get_context("{method}")) as pool:
        return list(pool.map(half, completions))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_reward_may_use_a_process_pool(tmp_path, method: str) -> None:
    (tmp_path / "helper.py").write_text("def length(text):\n    return len(text)\n")
    load_reward_files([write(tmp_path, POOL.format(method=method), "my-rewards.py")])
    assert scored("abc", "") == [1.5, 0.0]


def test_modules_in_the_folder_of_the_file(tmp_path) -> None:
    before = list(sys.path), set(sys.modules)
    lazy = (
        "import helper\n\n\n@reward\ndef {name}(completion):\n    import late\n    return helper.VALUE + late.VALUE\n"
    )
    files = []
    for folder, value in (("a", 1), ("b", 2)):
        files.append(write(tmp_path / folder, lazy.format(name=f"of_{folder}")))
        (tmp_path / folder / "helper.py").write_text(f"VALUE = {value}\n")
        (tmp_path / folder / "late").mkdir()
        (tmp_path / folder / "late" / "__init__.py").write_text("from late.part import VALUE\n")
        (tmp_path / folder / "late" / "part.py").write_text(f"VALUE = {value * 10}\n")
    # Two files with the same name, with helpers of the same name, in one run.
    load_reward_files(files)
    assert [scored("x", name=f"of_{folder}") for folder in "abab"] == [[11.0], [22.0]] * 2
    # A helper that changed between two runs in one process.
    (tmp_path / "a" / "helper.py").write_text("VALUE = 500\n")
    load_reward_files(files[:1])
    assert scored("x", name="of_a") == [510.0]
    assert sys.path == before[0] and not {"mine", "helper", "late"} & (set(sys.modules) - before[1])


def test_a_path_that_the_file_adds_applies_to_that_file(tmp_path) -> None:
    text = f"import sys\nsys.path.append({str(tmp_path / 'lib')!r})\n@reward\ndef mine(completion):\n"
    file = write(tmp_path, f"{text}    import only_in_lib\n    return only_in_lib.VALUE\n")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "only_in_lib.py").write_text("VALUE = 3\n")
    load_reward_files([file])
    assert scored("x") == [3.0] and str(tmp_path / "lib") not in sys.path


@pytest.mark.parametrize("name", ["random.py", "torch.py", "my.rewards.py", "class.py"])
def test_any_file_name_is_accepted(tmp_path, name: str) -> None:
    load_reward_files([write(tmp_path, "@reward\ndef mine(completion):\n    return 1\n", name)])
    assert scored("x") == [1.0]
    assert (sys.modules["random"], sys.modules["torch"]) == (random, torch)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def brevity(completion):\n    return 1\n", "mine.py defines no reward; write @reward, .* above brevity"),
        ("def a(completion): ...\ndef b(completion): ...\n", "defines no reward; .* above a or b"),
        ("", "defines no reward; .* above a function"),
        ("@reward\ndef other(gold):\n    return 1\ndef brevity(gold): ...\n", "mine.py, brevity has no decorator"),
        ("@reward\ndef other(gold):\n    return 1\nfrom helper import brevity\n", "mine.py, brevity has no decorator"),
        ("@reward\ndef brevty(gold):\n    return 1\n", "there is no reward 'brevity'. Did you mean 'brevty'"),
        ("@reward\ndef int(completion):\n    return 1\n", "mine.py: reward 'int' is defined twice"),
        ("class End(BaseException): ...\nraise End('now')\n", r"mine.py failed with End: now \(mine.py:3\)"),
        ("brevity = nothing\n", r"mine.py failed with NameError: .*\(mine.py:2\)"),
    ],
)
def test_a_reward_file_that_does_not_define_the_reward(tmp_path, text: str, message: str) -> None:
    (tmp_path / "helper.py").write_text("def brevity(completion):\n    return 1\n")
    with pytest.raises(UserError, match=message):
        build_rewards({"brevity": 1.0}, [write(tmp_path, text)])
    assert "helper" not in sys.modules
