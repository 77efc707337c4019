"""Settings of engines: how wrong ones are refused, what a vLLM server must report, and the arguments that TRL gets."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest

from grpo.config.batch import derive_batch
from grpo.config.composition import compose
from grpo.config.samplers import ENGINES
from grpo.config.schema import Config
from grpo.core.errors import UserError
from grpo.rewards.stack import RewardStack
from grpo.sampling import engines
from grpo.sampling.engines import VLLM_INSTALL, check_engine_package, check_engine_processes, check_engine_server
from grpo.sweeps.launchers import parallel_jobs
from grpo.training.arguments import build_args
from tests.helpers.sweeps import jobs_of
from tests.helpers.vllm_engine import BOUNDS, SERVER, VLLM


class Answers(BaseHTTPRequestHandler):
    """The endpoints of a vLLM server that report its health and its settings."""

    info: ClassVar[dict[str, Any] | None] = {}
    unready: ClassVar[int] = 0

    def do_GET(self) -> None:
        content = b""
        if self.path.startswith("/health"):
            code = 503 if Answers.unready else 200
            Answers.unready = max(0, Answers.unready - 1)
        else:
            code = 404 if Answers.info is None else 200
            content = json.dumps({"vllm_config": Answers.info}).encode()
        self.send_response(code)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def address():
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


READY = {
    "weight_transfer_config": {"backend": "nccl"},
    "model_config": {"logprobs_mode": "processed_logprobs", "max_model_len": 1024},
}


def on_server(address: str, *overrides: str) -> Config:
    return compose([*SERVER, f"rollout.server={address}", "rollout.server_timeout=0", *overrides])


def test_a_ready_server_passes_the_check(address: str, monkeypatch) -> None:
    monkeypatch.setattr(Answers, "info", READY)
    check_engine_server(on_server(address))
    check_engine_server(on_server(f"{address}/"))


def test_waiting_for_a_server_prints_a_message(address: str, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(engines, "say", said.append)
    monkeypatch.setattr(Answers, "info", READY)
    monkeypatch.setattr(Answers, "unready", 2)
    check_engine_server(on_server(address, "rollout.server_timeout=20"))
    assert said == [f"Waiting up to 20 s for the vLLM server at {address}: 503 Service Unavailable."]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (
            None,
            "the server reports no settings, so it takes no weights: 404 Not Found. Start it with: VLLM_SERVER_DEV",
        ),
        ({}, "the server was started without weight transfer."),
        (
            READY | {"model_config": {"logprobs_mode": "raw_logprobs"}},
            "without the temperature (logprobs_mode raw_logprobs).",
        ),
        (
            READY | {"model_config": {"logprobs_mode": "processed_logprobs", "max_model_len": 300}},
            "the server takes at most 300 tokens per text, and max_prompt_length + max_completion_length is 320.",
        ),
    ],
)
def test_a_server_with_wrong_settings_is_refused(address: str, monkeypatch, info: Any, message: str) -> None:
    monkeypatch.setattr(Answers, "info", info)
    with pytest.raises(UserError) as error:
        check_engine_server(on_server(address))
    assert message in str(error.value) and "vllm serve embedded:tiny --weight-transfer-config '{" in str(error.value)
    if "logprobs" in message:
        check_engine_server(on_server(address, "rollout.correction=null"))


def test_a_server_that_does_not_answer_is_refused() -> None:
    with pytest.raises(UserError) as error:
        check_engine_server(on_server("http://127.0.0.1:9"))
    assert str(error.value).startswith(
        "rollout.server=http://127.0.0.1:9: no vLLM server answers there after 0 s (rollout.server_timeout): [Errno 111] "
        "Connection refused. Start it with: VLLM_SERVER_DEV_MODE=1 vllm serve"
    )
    assert "\n" not in str(error.value)


def test_without_vllm_the_message_has_the_command_that_installs_it(monkeypatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    for rollout in (VLLM, SERVER):
        message = f"{rollout[0]}: vLLM is not installed: {VLLM_INSTALL}. Without it, use rollout=fast on this GPU."
        with pytest.raises(UserError) as error:
            check_engine_package(compose(rollout))
        assert str(error.value) == message
        with pytest.raises(UserError) as error:  # before the first job
            jobs_of(*rollout, "seed=0,1")
        assert str(error.value) == message
    for others in ("fast", "generate", "continuous_batching"):
        check_engine_package(compose([f"rollout={others}"]))


@pytest.mark.parametrize(
    ("installed", "fits"), [("0.26.3", False), ("0.27.0+cu129", True), ("0.30.2", True), ("0.31.0", False)]
)
def test_supported_versions_of_vllm(monkeypatch, installed: str, fits: bool) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: object())
    monkeypatch.setattr(engines, "version", lambda name: installed)
    if fits:
        check_engine_package(compose(VLLM))
    else:
        with pytest.raises(
            UserError, match=f"rollout=vllm: vLLM {installed} is installed, and .* supports 0.27 or later, before 0.31"
        ):
            check_engine_package(compose(VLLM))


def test_continuous_batching_needs_a_newer_transformers(monkeypatch) -> None:
    monkeypatch.setattr(engines, "version", lambda name: "5.18.0")
    check_engine_package(compose(["rollout=generate"]))
    with pytest.raises(UserError, match=r"transformers 5.18.0 is installed, and 5.19 or newer is needed: pip install"):
        check_engine_package(compose(["rollout=continuous_batching"]))


def test_the_message_and_the_extra_name_the_same_vllm_versions() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["vllm"] == [VLLM_INSTALL.removeprefix("pip install '").removesuffix("'")]
    assert "vllm" not in project["optional-dependencies"]["dev"][0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rollout=generate", "rollout.native=true"], "rollout=generate has no such setting; rollout=fast has it."),
        (["rollout=continuous_batching", "rollout.top_p=0.9"], "samples from the policy's own distribution and has no"),
        (["rollout=continuous_batching", "rollout.sleep=true"], "rollout=continuous_batching has no such setting"),
        ([*VLLM, "rollout.server=http://a"], "rollout=vllm has no such setting; rollout=vllm_server has it."),
        ([*SERVER, "rollout.memory=0.5"], "rollout=vllm_server has no such setting; rollout=vllm has it."),
        ([*SERVER, "rollout.server=localhost"], "must be an address such as http://localhost:8000."),
        ([*SERVER, "rollout.server=null"], "rollout.server=null: rollout=vllm_server needs a value there."),
        ([*VLLM, "rollout.memory=1"], "rollout.memory=1.0: must be above 0 and below 1."),
        ([*VLLM, "rollout.correction=mask"], "must be one of token_truncate, token_mask, sequence_truncate, sequence"),
        (
            [*VLLM, "rollout.correction_max=0.5"],
            "rollout.correction_max=0.5: must be between 1 and 1,000,000: the ratio is 1 where",
        ),
        ([*VLLM, "rollout.correction_min=1.5"], "rollout.correction_min=1.5: must be between 0 and 1."),
        ([*VLLM, "rollout.correction_max=null"], "needs a bound for the ratios, rollout.correction_max=2.0."),
        (
            [*SERVER, "device=cpu"],
            "device=cpu: rollout=vllm_server needs a GPU, device=cuda; on a CPU use rollout=fast",
        ),
        ([*VLLM, "model.init=random", "model.lora_rank=4"], "these weights with new adapters have none"),
    ],
)
def test_wrong_settings_of_an_engine_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        compose(overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("rollout", ENGINES)
def test_an_engine_is_refused_for_evaluation(light, rollout: str) -> None:
    refused = light("grpo.evaluate", f"rollout={rollout}", "device=cuda")
    assert refused.returncode == 1 and refused.stderr == (
        f"error: rollout={rollout}: it samples in training only; evaluate with rollout=fast, as a run does itself.\n"
    )


def test_the_training_command_refuses_vllm_that_is_not_installed(light) -> None:
    """If vLLM is not installed."""
    if find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    refused = light("grpo.train", *VLLM, "tracking=none")
    assert refused.returncode == 1 and refused.stdout == ""
    assert refused.stderr == (
        "error: rollout=vllm: vLLM is not installed: pip install 'vllm>=0.27,<0.31'. Without it, use rollout=fast on this "
        "GPU.\n"
    )


def test_tensor_parallel_must_divide_the_number_of_processes() -> None:
    config = compose([*VLLM, "rollout.tensor_parallel=2"])
    check_engine_processes(config, 4)
    with pytest.raises(UserError, match=r"rollout.tensor_parallel=2: must divide the number of processes, 3: 1, 3\."):
        check_engine_processes(config, 3)


def test_parallel_jobs_do_not_share_a_server() -> None:
    config = compose(SERVER)

    class JoblibLauncher:
        pass

    assert parallel_jobs(JoblibLauncher(), None, 4, config) == 1  # type: ignore[arg-type]
    with pytest.raises(UserError, match="rollout=vllm_server: 2 parallel jobs would send their weights to one server"):
        parallel_jobs(JoblibLauncher(), 2, 4, config)  # type: ignore[arg-type]
    assert parallel_jobs(JoblibLauncher(), 2, 4, compose(VLLM)) == 2  # type: ignore[arg-type]


def test_settings_of_engines_become_arguments_of_trl(tmp_path: Path) -> None:
    def told(*overrides: str) -> Any:
        config = compose(list(overrides))
        config.device = "cpu"
        return build_args(config, derive_batch(16, 4, 64), RewardStack(config.rewards), tmp_path)

    for plain in ("fast", "generate"):
        args = told(f"rollout={plain}")
        assert not args.use_vllm and not args.use_transformers_continuous_batching
    args = told(*VLLM, "rollout.memory=0.5", "rollout.sleep=true", "rollout.tensor_parallel=2", "rollout.top_p=0.9")
    assert (args.use_vllm, args.vllm_mode, args.vllm_gpu_memory_utilization) == (True, "colocate", 0.5)
    assert (args.vllm_enable_sleep_mode, args.vllm_tensor_parallel_size, args.vllm_max_model_length) == (True, 2, 320)
    assert (args.top_p, args.top_k, args.min_p, args.repetition_penalty) == (0.9, 0, None, 1.0)
    assert (args.vllm_importance_sampling_correction, args.vllm_importance_sampling_mode) == (True, "token_truncate")
    assert (args.vllm_importance_sampling_clip_max, args.vllm_importance_sampling_clip_min) == (2.0, None)
    args = told(*VLLM, "max_prompt_length=null", "rollout.correction=sequence_mask", *BOUNDS)
    assert args.vllm_max_model_length is None and args.vllm_importance_sampling_mode == "sequence_mask"
    assert (args.vllm_importance_sampling_clip_max, args.vllm_importance_sampling_clip_min) == (1.1, 0.9)
    args = told(*SERVER, "rollout.server=https://node7:8100", "rollout.group_port=5", "rollout.correction=null")
    assert (args.vllm_mode, args.vllm_server_base_url, args.vllm_group_port) == ("server", "https://node7:8100", 5)
    assert (args.vllm_server_timeout, args.vllm_importance_sampling_correction) == (60, False)
    args = told("rollout=continuous_batching", "algorithm.steps_per_generation=2")
    assert args.use_transformers_continuous_batching and not args.use_vllm
    assert args.transformers_continuous_batching_config == {
        "auto_switch_to_flash": False,
        "page_size": 256,
        "num_blocks": 321,  # 128 completions of two pages are four fifths of it
        "max_memory_percent": 0.9,
    }
    args = told("rollout=continuous_batching", "bf16=true", "max_prompt_length=null")
    assert args.transformers_continuous_batching_config == {"auto_switch_to_flash": True}
