"""Rollout engines of other projects: their settings on the way to TRL, what they return, and how they refuse.

vLLM needs a GPU; in its place stands `Engine`, behind TRL's own code: it samples with a copy of the policy that nothing
but TRL's weight sync changes. transformers' continuous batching runs as it is.
"""

import json
import os
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from trl.generation import vllm_generation

from grpo.config.batch import derive_batch
from grpo.config.composition import compose
from grpo.config.samplers import ENGINES
from grpo.config.schema import Config
from grpo.core.errors import UserError
from grpo.policy.loading import build_policy, build_tokenizer
from grpo.policy.prefix_sharing import ATTENTION_NAME
from grpo.rewards.stack import RewardStack
from grpo.runs.resume import find_checkpoint, truncate_to_checkpoint
from grpo.runs.settings import save_settings
from grpo.sampling import engines
from grpo.sampling.engines import VLLM_INSTALL, check_engine_package, check_engine_processes, check_engine_server
from grpo.sampling.generate_sampler import GenerateSampler
from grpo.sampling.prefix_sharing_sampler import PrefixSharingSampler
from grpo.sweeps.launchers import parallel_jobs
from grpo.training.arguments import build_args
from grpo.training.session import train_run
from grpo.training.trainer import Trainer
from tests.conftest import SMALL
from tests.helpers.runs import metrics
from tests.helpers.sweeps import jobs_of
from tests.helpers.trainers import micro_batches, step

VLLM = ["rollout=vllm", "device=cuda"]
SERVER = ["rollout=vllm_server", "device=cuda"]
RATIO = "sampling/importance_sampling_ratio"


def log_probabilities(policy: Any, prompt: list[int], completion: list[int], temperature: float = 1.0) -> Tensor:
    """Of a completion's tokens, by a plain forward."""
    with torch.no_grad():
        logits = policy(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]


class Engine:
    """Stands for vllm.LLM."""

    made: ClassVar[list["Engine"]] = []
    # What it makes of its log-probabilities, and whether weights reach it.
    off: ClassVar[Callable[[Tensor], Tensor]] = staticmethod(lambda logps: logps)
    deaf: ClassVar[bool] = False

    def __init__(self, model: str, **settings: Any) -> None:
        self.model, self.settings, self.calls = model, settings, []
        self.policy = AutoModelForCausalLM.from_pretrained(model).eval()
        self.tokenizer = build_tokenizer(compose().model)
        self.sampled: list[tuple[list[int], list[int]]] = []
        worker = SimpleNamespace(model_runner=SimpleNamespace(model=self))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))
        torch.manual_seed(settings.get("seed", 0))  # as vLLM leaves the process that it runs in
        Engine.made.append(self)

    def load_weights(self, weights: list[tuple[str, Tensor]]) -> None:
        for name, value in weights:
            self.calls.append(name)
            if not Engine.deaf:
                self.policy.get_parameter(name).data.copy_(value)

    def reset_prefix_cache(self) -> None:
        self.calls.append("synced")

    def sleep(self, level: int) -> None:
        self.calls.append("asleep")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"awake {tags[0]}")

    def complete(self, prompts: list[list[int]], limit: int, temperature: float) -> list[tuple[list[int], list[float]]]:
        completions = PrefixSharingSampler(self.policy, self.tokenizer, False, fused=True).complete(
            prompts, limit, temperature
        )
        self.sampled += zip(prompts, completions, strict=True)
        self.policy.set_attn_implementation("sdpa")
        logps = [
            Engine.off(log_probabilities(self.policy, prompt, completion, temperature)).tolist()
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        return list(zip(completions, logps, strict=True))

    def generate(self, prompts: list[dict[str, Any]], sampling_params: Any, use_tqdm: bool) -> list[Any]:
        self.calls.append("generated")
        self.asked = sampling_params
        rows = [prompt["prompt_token_ids"] for prompt in prompts]
        answered = self.complete(rows, sampling_params.max_tokens, sampling_params.temperature)
        return [
            SimpleNamespace(
                prompt_token_ids=row,
                outputs=[
                    SimpleNamespace(
                        token_ids=ids,
                        logprobs=[
                            {token: SimpleNamespace(logprob=logp, rank=1)}
                            for token, logp in zip(ids, logps, strict=True)
                        ],
                    )
                ],
            )
            for row, (ids, logps) in zip(rows, answered, strict=True)
        ]


class Client(Engine):
    """Stands for trl's VLLMClient, and the server behind it."""

    fails_at: ClassVar[int | None] = None

    def __init__(self, base_url: str, group_port: int, connection_timeout: float) -> None:
        super().__init__(build_policy(compose().model, 0).name_or_path)
        self.where = (base_url, group_port, connection_timeout)

    def init_communicator(self, device: Any) -> None:
        self.calls.append("joined")

    def close_communicator(self) -> None:
        self.calls.append("left")

    def get_server_info(self) -> dict[str, Any]:
        return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    def update_named_params(self, metadata: list[tuple[str, str, list[int]]], named: Any) -> None:
        sent = list(named)
        assert [(name, str(value.dtype), list(value.shape)) for name, value in sent] == [
            (name, f"torch.{dtype}", shape) for name, dtype, shape in metadata
        ]
        self.load_weights(sent)

    def generate(self, prompts: list[list[int]], features: Any, n: int, **settings: Any) -> dict[str, Any]:  # type: ignore[override]
        self.calls.append("generated")
        if Client.fails_at == self.calls.count("generated"):
            raise ConnectionError("HTTPConnectionPool(host='localhost', port=8000): Max retries exceeded")
        self.asked, self.n = prompts, n
        rows = [prompt for prompt in prompts for _ in range(n)]
        answered = self.complete(rows, settings["max_tokens"], settings["temperature"])
        return {
            "prompt_ids": prompts,
            "completion_ids": [ids for ids, _ in answered],
            "logprobs": [[[logp] for logp in logps] for _, logps in answered],
        }


@pytest.fixture
def vllm(monkeypatch) -> type[Engine]:
    """Put the stand-ins where TRL finds vLLM."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # TRL sets them; they are gone after the test
        monkeypatch.delenv(name)
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "LLM", Engine, raising=False)
    monkeypatch.setattr(vllm_generation, "SamplingParams", SimpleNamespace, raising=False)
    monkeypatch.setattr(vllm_generation, "VLLMClient", Client)
    monkeypatch.setattr("grpo.training.environment.check_engine_package", lambda config: None)
    for module in ("training.environment", "sweeps.jobs"):
        monkeypatch.setattr(f"grpo.{module}.check_engine_server", lambda config: None)
    monkeypatch.setattr(Engine, "made", [])
    return Engine


def train_on(out: Path, *overrides: str) -> list[dict[str, Any]]:
    """The metrics of a run with a stand-in."""
    typed = [*SMALL, "tracking=none", *overrides]
    config = compose(typed)
    config.device = "cpu"
    out.mkdir()
    save_settings(out, config, typed)
    train_run(config, out)
    return metrics(out)


LEARNING = ["max_steps=4", "optimizer.lr=3e-3", "optimizer.warmup=0"]


@pytest.mark.parametrize("rollout", [VLLM, SERVER, [*VLLM, "rollout.sleep=true"]], ids=["vllm", "server", "sleep"])
def test_a_run_with_vllm(vllm, tmp_path: Path, rollout: list[str]) -> None:
    rows = train_on(tmp_path / "run", *rollout, *LEARNING)
    (engine,) = vllm.made
    # Each rollout is of the weights as they then are: the trainer finds its samples as probable as the engine did.
    for row in rows:
        for which in ("min", "mean", "max"):
            assert row[f"{RATIO}/{which}"] == pytest.approx(1, abs=1e-3)
        assert row["sampling/sampling_logp_difference/max"] < 1e-3
    assert engine.calls.count("generated") == 4
    names = {name for name, _ in engine.policy.named_parameters()}
    assert [engine.calls.count(name) for name in sorted(names)] == [engine.calls.count("synced")] * len(names)
    assert engine.calls.count("synced") >= 4
    # Evaluations are ours.
    protocol = json.loads((tmp_path / "run" / "evaluations" / "after.json").read_text())["protocol"]
    assert protocol["computing"]["rollout"] == "fast"
    assert rows[-1]["grad_norm"] > 0
    assert "LOCAL_RANK" not in os.environ  # else a sweep's next job would be taken for a part of a distributed run
    if isinstance(engine, Client):
        assert engine.where == ("http://localhost:8000", 51216, 60.0) and engine.calls[-1] == "left"
        assert engine.n == 4 and len(engine.asked) == 2  # a prompt is sent once
    else:
        assert engine.settings["max_model_len"] == 256 + 16 and engine.settings["gpu_memory_utilization"] == 0.3
        assert engine.settings["max_num_seqs"] == 8
        asked = engine.asked
        assert (asked.temperature, asked.top_p, asked.top_k, asked.min_p, asked.max_tokens) == (1.0, 1.0, 0, 0.0, 16)
        assert engine.calls.count("asleep") == (5 if "rollout.sleep=true" in rollout else 0)


@pytest.mark.parametrize("rollout", [VLLM, ["rollout=continuous_batching"]], ids=["vllm", "continuous batching"])
def test_a_run_that_goes_on(vllm, tmp_path: Path, rollout: list[str]) -> None:
    out = tmp_path / "run"
    half = train_on(out, *rollout, *LEARNING, "max_steps=2")
    config = compose([*SMALL, "tracking=none", *rollout, *LEARNING])
    config.device = "cpu"
    found = find_checkpoint(out, config)
    assert found.step == 2
    train_run(config, out, checkpoint=found.checkpoint, begin=partial(truncate_to_checkpoint, found))
    rows = metrics(out)
    assert rows[:2] == half and [row["step"] for row in rows] == [1, 2, 3, 4]
    if rollout == VLLM:  # the weights that were saved were sent
        assert all(row[f"{RATIO}/mean"] == pytest.approx(1, abs=1e-3) for row in rows)


def test_weights_that_do_not_arrive_show(vllm, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Engine, "deaf", True)
    rows = train_on(tmp_path / "run", *VLLM, *LEARNING)
    assert rows[0][f"{RATIO}/mean"] == pytest.approx(1, abs=1e-3)
    assert rows[-1]["sampling/sampling_logp_difference/max"] > 0.05


def test_the_seed_is_the_runs(vllm, trainer) -> None:
    """Where vLLM, as it starts, seeds this process with its own."""

    def completions(seed: int) -> list[list[int]]:
        built = trainer(*VLLM, f"seed={seed}")
        return built._generate_single_turn([[1, 2, 3, 4]] * 8, None, {}, 8)[0]

    assert completions(1) == completions(1) != completions(2)


MODES = {
    "token_truncate": lambda ratio: ratio.clamp(0.9, 1.1),
    "token_mask": lambda ratio: ratio.where((ratio >= 0.9) & (ratio <= 1.1), 0),
    "sequence_truncate": lambda ratio: ratio.prod(-1, keepdim=True).clamp(0.9, 1.1),
    "sequence_mask": lambda ratio: (whole := ratio.prod(-1, keepdim=True)).where((whole >= 0.9) & (whole <= 1.1), 0),
}
BOUNDS = ["rollout.correction_min=0.9", "rollout.correction_max=1.1"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_ratio_is_the_formulas(vllm, trainer, monkeypatch, mode: str, temperature: float) -> None:
    # Log-probabilities that are off by more than the bounds now and then.
    monkeypatch.setattr(Engine, "off", staticmethod(lambda logps: logps + 0.12 * torch.cos(torch.arange(len(logps)))))
    settings = [f"rollout.correction={mode}", *BOUNDS, f"temperature={temperature}", "micro_batch_size=12"]
    built = trainer(*VLLM, *settings)
    batches = micro_batches(built)
    assert built.shares_prompts and len(batches) == 2
    (engine,) = vllm.made
    cut = False
    for inputs in batches:
        mask = inputs["completion_mask"]
        ratios = torch.ones(mask.shape)
        for row, ids in enumerate(inputs["completion_ids"]):
            prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
            completion = ids[mask[row].bool()].tolist()
            assert (prompt, completion) in engine.sampled
            mine = log_probabilities(
                AutoModelForCausalLM.from_pretrained(engine.model), prompt, completion, temperature
            )
            its = Engine.off(mine)
            ratios[row, : len(completion)] = (mine - its).exp()
        expected = MODES[mode](ratios)
        got = inputs["importance_sampling_ratio"]
        real = mask.bool() if got.shape == mask.shape else torch.ones_like(got).bool()
        torch.testing.assert_close(got[real], expected[real], atol=1e-4, rtol=1e-4)
        cut |= bool(
            (expected[real] != (ratios if got.shape == mask.shape else ratios.prod(-1, keepdim=True))[real]).any()
        )
    assert cut
    logged = built._metrics["train"][f"{RATIO}/mean"]
    assert len(logged) == 1 and 0 < logged[0] < 1.1


def test_without_correction_there_is_no_ratio(vllm, trainer) -> None:
    built = trainer(*VLLM, "rollout.correction=null")
    (inputs,) = micro_batches(built)
    assert "importance_sampling_ratio" not in inputs and f"{RATIO}/mean" not in built._metrics["train"]
    # vLLM itself knows only of the end tokens in the policy's folder.
    assert vllm.made[0].asked.stop_token_ids == [640]


@pytest.mark.parametrize("overrides", [[], ["micro_batch_size=4"], ["algorithm=grpo_kl"], ["model.lora_rank=4"]])
def test_the_corrected_step_equals_trls(vllm, trainer, monkeypatch, overrides: list[str]) -> None:
    monkeypatch.setattr(Engine, "off", staticmethod(lambda logps: logps + 0.3 * torch.sin(torch.arange(len(logps)))))
    built = trainer(*VLLM, *overrides)
    batches = micro_batches(built)
    assert any((inputs["importance_sampling_ratio"] != 1).any() for inputs in batches)
    theirs, ours = step(built, batches, shared=False), step(built, batches, shared=True)
    assert built.shares_prompts
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
    a, b = ours[2].double(), theirs[2].double()
    assert b.norm() > 0 and a @ b / (a.norm() * b.norm()) >= 1 - 1e-9
    plain = [{**inputs, "importance_sampling_ratio": torch.ones(1, 1)} for inputs in batches]
    assert (step(built, plain, shared=True)[2].double() - a).norm() > 1e-3 * a.norm()  # the correction is in it


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_are_merged_for_vllm_and_the_weights_stay(vllm, trainer, dtype: str) -> None:
    built = trainer(*VLLM, "model.lora_rank=4", f"model.dtype={dtype}")
    frozen = {name: each.clone() for name, each in built.model.named_parameters() if not each.requires_grad}
    for _ in range(3):
        built.vllm_generation.sync_weights()
    (engine,) = vllm.made
    layer = "model.layers.0.mlp.up_proj.weight"
    base = frozen[f"base_model.model.{layer.removesuffix('.weight')}.base_layer.weight"]
    assert (engine.policy.get_parameter(layer) - base).abs().max() > 1e-4  # the adapters have arrived
    for name, each in built.model.named_parameters():
        if name in frozen:
            torch.testing.assert_close(each, frozen[name], atol=1e-7 if dtype == "float32" else 0, rtol=0)


def test_random_weights_are_there_for_vllm_to_load(vllm, trainer) -> None:
    built = trainer(*VLLM, "model.init=random", "model.num_layers=1")
    micro_batches(built)
    assert built._metrics["train"][f"{RATIO}/mean"] == [pytest.approx(1, abs=1e-3)]
    assert len(vllm.made[0].policy.model.layers) == 1


def test_a_server_that_fails_in_training(vllm, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Client, "fails_at", 3)
    with pytest.raises(UserError) as error:
        train_on(tmp_path / "run", *SERVER, *LEARNING)
    assert str(error.value).startswith(
        "step 3: the vLLM server at http://localhost:8000 failed: HTTPConnectionPool(host='localhost', port=8000): Max "
        "retries exceeded. Checkpoints stay; once it runs again, resume="
    )


class Answers(BaseHTTPRequestHandler):
    """A vLLM server, as far as it says how it was started."""

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


def test_a_server_that_is_ready(address: str, monkeypatch) -> None:
    monkeypatch.setattr(Answers, "info", READY)
    check_engine_server(on_server(address))
    check_engine_server(on_server(f"{address}/"))


def test_a_server_is_waited_for_aloud(address: str, monkeypatch) -> None:
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
def test_a_server_that_was_started_otherwise(address: str, monkeypatch, info: Any, message: str) -> None:
    monkeypatch.setattr(Answers, "info", info)
    with pytest.raises(UserError) as error:
        check_engine_server(on_server(address))
    assert message in str(error.value) and "vllm serve embedded:tiny --weight-transfer-config '{" in str(error.value)
    if "logprobs" in message:
        check_engine_server(on_server(address, "rollout.correction=null"))


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(UserError) as error:
        check_engine_server(on_server("http://127.0.0.1:9"))
    assert str(error.value).startswith(
        "rollout.server=http://127.0.0.1:9: no vLLM server answers there after 0 s (rollout.server_timeout): [Errno 111] "
        "Connection refused. Start it with: VLLM_SERVER_DEV_MODE=1 vllm serve"
    )
    assert "\n" not in str(error.value)


def test_vllm_is_asked_for_where_it_is_not_installed(monkeypatch) -> None:
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
def test_versions_of_vllm(monkeypatch, installed: str, fits: bool) -> None:
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


def test_the_extra_is_what_is_asked_for() -> None:
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
        ([*VLLM, "model.init=random", "model.lora_rank=4"], "random weights with adapters have none; leave one of the"),
    ],
)
def test_mistakes(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        compose(overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("rollout", ENGINES)
def test_engines_do_not_evaluate(command, rollout: str) -> None:
    refused = command("grpo.evaluate", f"rollout={rollout}", "device=cuda")
    assert refused.returncode == 1 and refused.stderr == (
        f"error: rollout={rollout}: it samples in training only; evaluate with rollout=fast, as a run does itself.\n"
    )


def test_as_typed(command) -> None:
    """Where vLLM is not installed, at once."""
    if find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    refused = command("grpo.train", *VLLM, "tracking=none")
    assert refused.returncode == 1 and refused.stdout == ""
    assert refused.stderr == (
        "error: rollout=vllm: vLLM is not installed: pip install 'vllm>=0.27,<0.31'. Without it, use rollout=fast on this "
        "GPU.\n"
    )


def test_processes_are_parted_into_copies() -> None:
    config = compose([*VLLM, "rollout.tensor_parallel=2"])
    check_engine_processes(config, 4)
    with pytest.raises(UserError, match=r"rollout.tensor_parallel=2: must divide the number of processes, 3: 1, 3\."):
        check_engine_processes(config, 3)


def test_jobs_at_once_do_not_share_a_server() -> None:
    config = compose(SERVER)

    class JoblibLauncher:
        pass

    assert parallel_jobs(JoblibLauncher(), None, 4, config) == 1  # type: ignore[arg-type]
    with pytest.raises(UserError, match="rollout=vllm_server: 2 parallel jobs would send their weights to one server"):
        parallel_jobs(JoblibLauncher(), 2, 4, config)  # type: ignore[arg-type]
    assert parallel_jobs(JoblibLauncher(), 2, 4, compose(VLLM)) == 2  # type: ignore[arg-type]


def test_what_trl_is_told(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "overrides", [[], ["model.lora_rank=4"], ["share_prompts=false"]], ids=["full", "lora", "plain"]
)
def test_continuous_batching_in_bfloat16_leaves_the_policy_as_it_was(
    trainer,
    monkeypatch,
    overrides: list[str],
) -> None:
    built = trainer("rollout=continuous_batching", "bf16=true", "max_steps=2", "optimizer.lr=1e-3", *overrides)
    policy = built.model
    inner = policy.get_base_model() if overrides[:1] == ["model.lora_rank=4"] else policy
    sampled, generate_batch = [], type(inner).generate_batch
    kept: dict[str, Tensor] = {}

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        assert {each.dtype for each in policy.parameters()} == {torch.bfloat16}
        assert {each.dtype for each in policy.buffers()} == {torch.float32}
        for name, each in policy.named_parameters():
            torch.testing.assert_close(each, kept[name].to(torch.bfloat16), atol=0, rtol=0)
        sampled.append(generate_batch(self, *args, **kwargs))
        return sampled[-1]

    def before(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept.update({name: each.detach().clone() for name, each in policy.named_parameters()})
        answer = single_turn(self, *args, **kwargs)
        for name, each in policy.named_parameters():
            assert each.dtype == torch.float32
            torch.testing.assert_close(each.detach(), kept[name], atol=0, rtol=0)
        assert self.args.bf16 and inner.config._attn_implementation == (
            ATTENTION_NAME if built.sampler is None and fast else "sdpa"
        )
        return answer

    fast = inner.config._attn_implementation == ATTENTION_NAME
    single_turn = Trainer._generate_single_turn
    monkeypatch.setattr(type(inner), "generate_batch", spy)
    monkeypatch.setattr(Trainer, "_generate_single_turn", before)
    start = {name: each.detach().clone() for name, each in policy.named_parameters()}
    built.train()
    assert len(sampled) == 2
    learnt = [name for name, each in policy.named_parameters() if each.requires_grad]
    assert any((policy.get_parameter(name) != start[name]).any() for name in learnt)
    states = [value for state in built.optimizer.state.values() for value in state.values() if value.ndim]
    assert states and {value.dtype for value in states} == {torch.float32}


def test_continuous_batching_samples_from_the_policy(trainer) -> None:
    built = trainer("rollout=continuous_batching", "temperature=1e-3")  # so cold that it is greedy but for ties
    (inputs,) = micro_batches(built)
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True)]
    sampled = [
        ids[mask.bool()].tolist() for ids, mask in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True)
    ]
    greedy = GenerateSampler(built.model, built.processing_class, bf16=False).complete(prompts, 20)
    assert sum(mine == its for mine, its in zip(sampled, greedy, strict=True)) >= len(prompts) - 6  # a group at a tie
    assert len(set(map(tuple, greedy))) > 1


def test_continuous_batching_that_fails_is_not_trained_on(trainer, monkeypatch) -> None:
    built = trainer("rollout=continuous_batching")
    forward, calls = built.model.forward, 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise RuntimeError("a fault of the engine")
        return forward(*args, **kwargs)

    monkeypatch.setattr(built.model, "forward", failing)
    with pytest.raises(UserError, match="step 1: rollout=continuous_batching gave up on [1-9][0-9]* of 24 completions"):
        micro_batches(built)
    assert built.model.config._attn_implementation == ATTENTION_NAME


def test_a_run_with_continuous_batching(start, tmp_path: Path) -> None:
    run = start(*SMALL, "rollout=continuous_batching", "bf16=true", "tracking=none", "threads=1", "hydra.run.dir=run")
    assert run.ended() == 0 and run.complained() == ""  # its engine has much to tell
    said = "rollout continuous_batching: run again, or gone on with, the numbers are others in the last digits"
    assert said in " ".join(run.said().split())
    out = tmp_path / "run"
    assert len(metrics(out)) == 2
    protocol = json.loads((out / "evaluations" / "after.json").read_text())["protocol"]
    assert protocol["computing"]["rollout"] == "fast"
