"""Chat templates of many kinds: what the policy is asked, where completions end, and the text that is scored."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from grpo.config.composition import compose
from grpo.policy.chat_template import ChatTemplate
from grpo.policy.end_tokens import add_end_of_turn_token
from grpo.policy.hub import ASSETS
from grpo.policy.loading import build_policy, build_tokenizer
from grpo.sampling.build import build_sampler
from tests.helpers.models import QWEN, model, needs_qwen

CHATML = (ASSETS / "tiny" / "chat_template.jinja").read_text()
EACH = "{% for m in messages %}"
NO_SYSTEM = (
    "{% if messages[0].role in ('system', 'developer') %}{{ raise_exception('System role not supported') }}{% endif %}"
)
GEMMA = (
    f"{{{{ bos_token }}}}{NO_SYSTEM}{EACH}<start_of_turn>{{{{ 'model' if m.role == 'assistant' else m.role }}}}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
DROPPING = (
    f"{EACH}{{% if m.role == 'user' %}}User: {{{{ m.content }}}}\n{{% elif m.role == 'assistant' %}}Bot: "
    "{{ m.content }}</s>\n{% endif %}{% endfor %}{% if add_generation_prompt %}Bot:{% endif %}"
)
OPENS_THINK = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
OPENS_REASONING = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<reasoning>")
# As Qwen3: the thinking of earlier turns is left out, and a switch writes an empty, closed block.
SWITCH = CHATML.replace(
    "<|im_start|>assistant\n",
    "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}",
)
LLAMA3 = (
    "{{ bos_token }}"
    f"{EACH}<|start_header_id|>{{{{ m.role }}}}<|end_header_id|>\n\n{{{{ m.content | trim }}}}<|eot_id|>{{% endfor %}}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GLM4 = (
    f"{EACH}<|{{{{ m.role }}}}|>\n{{{{ m.content }}}}{{% endfor %}}{{% if add_generation_prompt %}}<|assistant|>\n"
    "{% endif %}"
)
ALPACA = (
    f"{EACH}### {{{{ m.role }}}}:\n{{{{ m.content }}}}\n\n{{% endfor %}}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
HARMONY = (
    f"{EACH}<|start|>{{{{ 'developer' if m.role == 'system' else m.role }}}}<|message|>{{{{ m.content }}}}"
    "{% if loop.last and m.role == 'assistant' %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
XML = (
    f"{EACH}<{{{{ m.role }}}}>{{{{ m.content }}}}</{{{{ m.role }}}}>{{% endfor %}}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_DEVELOPER = (
    f"{EACH}{{% if m.role in ('system', 'user', 'assistant') %}}<|im_start|>{{{{ m.role }}}}\n{{{{ m.content }}}}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Earlier turns begin with the tag as well: "<think>" and the reply, whose text closes it.
THINKS_ALWAYS = (
    f"{EACH}<|im_start|>{{{{ m.role }}}}\n{{% if m.role == 'assistant' %}}<think>{{% endif %}}{{{{ m.content }}}}"
)
THINKS_ALWAYS += "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
DATED = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%Y') %}{% endif %}{{ date_string }}\n"
    + CHATML
)
STRICT = "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}{{ messages[0].content }}"

QUESTION = "How many pens?"
YEAR = str(datetime.now().year)
OWN_SYSTEM = ({"role": "system", "content": "Count."}, {"role": "user", "content": QUESTION})
DEVELOPER = ({"role": "developer", "content": "Count."}, {"role": "user", "content": QUESTION})
TURNS = (*({"role": role, "content": text} for role, text in [("user", "Hi"), ("assistant", "Hello")]), OWN_SYSTEM[1])
ASKED = f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
IM_END, EOT = "<|im_end|>", "<|eot_id|>"
LLAMA_TOKENS = ("<|begin|>", EOT, "<|start_header_id|>", "<|end_header_id|>")


@dataclass
class Case:
    """A template and tokenizer, what the policy is asked, and the text of a completion."""

    template: str
    asked: str
    opened: str = ""
    ends: tuple[str, ...] = ()  # the tokens beside <|im_end|>, the tokenizer's own, that end a completion
    prompt: Any = QUESTION
    special: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    bos: str | None = None
    adds_bos: bool = False
    kwargs: dict[str, Any] = field(default_factory=dict)
    tokens: str = "12 pens"
    text: str = "12 pens"
    note: str = ""  # what the user is told


LACKS = (
    "The chat template of MODEL has no system role: the system prompt is put into the user's turn, before the question."
)
THINK = r"The chat template of MODEL ends the prompt with '<think>\n': completions are scored and shown with this text before them."
CASES = {
    "system role": Case(CHATML, ASKED),
    "own system prompt": Case(CHATML, ASKED.replace("Be brief.", "Count."), prompt=OWN_SYSTEM),
    "system role is refused, BOS is written": Case(
        GEMMA,
        f"<bos><start_of_turn>user\nBe brief.\n\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n",
        special=("<bos>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        adds_bos=True,
        ends=("<end_of_turn>",),
        note=LACKS,
    ),
    "own system prompt is refused": Case(
        GEMMA,
        f"<start_of_turn>user\nCount.\n\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n",
        prompt=OWN_SYSTEM,
        note=LACKS,
    ),
    "system prompt before several turns": Case(
        GEMMA,
        "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n"
        f"<start_of_turn>user\n{QUESTION}<end_of_turn>\n<start_of_turn>model\n",
        prompt=TURNS,
        note=LACKS,
    ),
    "system role is dropped": Case(
        DROPPING, f"User: Be brief.\n\n{QUESTION}\nBot:", special=("</s>",), ends=("</s>",), note=LACKS
    ),
    "<think> is opened": Case(OPENS_THINK, f"{ASKED}<think>\n", opened="<think>\n", text="<think>\n12 pens", note=THINK),
    "<reasoning> is opened": Case(
        OPENS_REASONING,
        f"{ASKED}<reasoning>",
        opened="<reasoning>",
        tokens="\n3 x 4\n</reasoning>",
        text="<reasoning>\n3 x 4\n</reasoning>",
    ),
    "a tag and words are opened": Case(
        OPENS_THINK.replace("<think>\n", "<think>\nWell, "), f"{ASKED}<think>\nWell, ", opened="<think>\nWell, ",
        text="<think>\nWell, 12 pens",
    ),
    "tags in the vocabulary": Case(
        OPENS_THINK, f"{ASKED}<think>\n", opened="<think>\n", plain=("<think>", "</think>"), tokens="12</think>",
        text="<think>\n12</think>",
    ),
    "tags are special tokens": Case(
        OPENS_THINK, f"{ASKED}<think>\n", special=("<think>", "</think>"), tokens="12</think>pens", text="12pens"
    ),
    "thinking is on": Case(SWITCH, f"{ASKED}<think>\n", opened="<think>\n", text="<think>\n12 pens", note=THINK),
    "thinking is off": Case(SWITCH, f"{ASKED}<think>\n\n</think>\n\n", kwargs={"enable_thinking": False}),
    "unused variable": Case(
        CHATML,
        ASKED,
        kwargs={"enable_thinking": False},
        note="chat_template_kwargs.enable_thinking=False: the chat template of MODEL does not name 'enable_thinking', so "
        "it has no effect; correct the name, or leave it out.",
    ),
    "headers and another end of turn, BOS is written": Case(
        LLAMA3,
        "<|begin|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
        f"<|end_header_id|>\n\n{QUESTION}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        special=LLAMA_TOKENS,
        bos="<|begin|>",
        ends=(EOT,),
    ),
    "end of turn without a token of its own": Case(
        LLAMA3.replace("{{ bos_token }}", ""),
        "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
        f"<|end_header_id|>\n\n{QUESTION}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "BOS is added to texts and not written": Case(
        CHATML,
        ASKED,
        special=("<s>",),
        bos="<s>",
        adds_bos=True,
        note="The tokenizer of MODEL begins texts with '<s>', and its chat template does not write this token, so prompts "
        "are without it. If the policy was trained with it, start the template with {{ bos_token }}.",
    ),
    "the next turn ends a turn": Case(
        GLM4,
        f"<|system|>\nBe brief.<|user|>\n{QUESTION}<|assistant|>\n",
        special=("<|system|>", "<|user|>", "<|assistant|>"),
        ends=("<|user|>",),
    ),
    "no end of turn": Case(
        ALPACA, f"### system:\nBe brief.\n\n### user:\n{QUESTION}\n\n### assistant:\n", special=("</s>",)
    ),
    "developer role, two tokens end a turn": Case(
        HARMONY,
        f"<|start|>developer<|message|>Be brief.<|end|><|start|>user<|message|>{QUESTION}<|end|><|start|>assistant",
        special=("<|start|>", "<|message|>", "<|end|>", "<|return|>"),
        ends=("<|return|>",),  # <|end|> ends a part of a turn only
    ),
    "developer role is dropped": Case(
        NO_DEVELOPER,
        ASKED.replace(QUESTION, f"Count.\n\n{QUESTION}"),
        prompt=DEVELOPER,
        note="The chat template of MODEL has no developer role: the developer prompt is put into the user's turn, before "
        "the question.",
    ),
    "<think> is opened in every turn": Case(
        THINKS_ALWAYS, f"{ASKED}<think>", opened="<think>", text="<think>12 pens", note=THINK.replace(r"\n", "")
    ),
    "the tag of the format is opened in every turn": Case(
        THINKS_ALWAYS.replace("think", "why"), f"{ASKED}<why>", opened="<why>", text="<why>12 pens"
    ),
    "the date": Case(
        DATED, f"{YEAR}\n{ASKED}",
        note=f"The chat template of MODEL writes the date into the prompt, {YEAR}: on another day, the run, when it is "
        f"resumed or repeated, has other prompts. To keep this day's, type 'chat_template_kwargs.date_string={YEAR}'.",
    ),
    "a date that is set": Case(DATED, f"26 Jul 2024\n{ASKED}", kwargs={"date_string": "26 Jul 2024"}),
    "tags mark the turns": Case(XML, f"<system>Be brief.</system><user>{QUESTION}</user><assistant>"),
    "the user's turn names a tag": Case(
        f"{EACH}<|im_start|>{{{{ m.role }}}}\n{{{{ m.content }}}}{{% if loop.last and m.role == 'user' %}} Use <answer>.{{% endif %}}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}",
        f"{ASKED.replace(QUESTION, QUESTION + ' Use <answer>.')}<think>", opened="<think>", text="<think>12 pens",
    ),
    "the assistant's turn is always started": Case(
        f"{EACH}{{{{ m.content }}}}<|im_end|>\n{{% endfor %}}<think>", f"Be brief.<|im_end|>\n{QUESTION}<|im_end|>\n<think>",
        opened="<think>", text="<think>12 pens",
    ),
    "one turn only": Case(STRICT, f"Be brief.\n\n{QUESTION}", note=LACKS),
}  # fmt: skip


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {name: compose([f"rollout={name}"]) for name in ("fast", "generate")}


@pytest.fixture(scope="module")
def policy() -> Any:
    """The embedded policy with rows for the tokens that the templates add."""
    policy = build_policy(model(), 0)
    policy.resize_token_embeddings(860)
    return policy


def tokenizer_of(case: Case) -> Any:
    tokenizer = build_tokenizer(model())
    tokenizer.add_tokens(list(case.special), special_tokens=True)
    tokenizer.add_tokens(list(case.plain))
    tokenizer.bos_token, tokenizer.chat_template = case.bos, case.template
    if case.adds_bos:
        bos = (case.bos, tokenizer.convert_tokens_to_ids(case.bos))
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{case.bos} $A", special_tokens=[bos])
        assert tokenizer("?")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


@pytest.mark.parametrize("name", CASES)
def test_a_chat_template(name: str, settings, policy) -> None:
    case = CASES[name]
    tokenizer = tokenizer_of(case)
    chat = ChatTemplate(tokenizer, "Be brief.", case.kwargs, "why")
    (ids,) = chat.prompt_ids([case.prompt])
    assert tokenizer.decode(ids) == case.asked
    assert chat.opened == case.opened
    completion = tokenizer(case.tokens, add_special_tokens=False)["input_ids"]
    assert chat.completion_texts([[*completion, tokenizer.eos_token_id]]) == [case.text]
    assert not case.note or chat.notes("MODEL", [case.prompt]) == [case.note]
    policy.generation_config.eos_token_id = tokenizer.eos_token_id
    add_end_of_turn_token(policy, chat, "MODEL", 860)
    for config in settings.values():
        ends = build_sampler(policy, tokenizer, config).end_token_ids
        assert set(tokenizer.convert_ids_to_tokens(ends)) == {IM_END, *case.ends}


def test_every_other_case_has_no_note() -> None:
    chat = ChatTemplate(tokenizer_of(CASES["system role"]), "Be brief.")
    assert chat.notes("MODEL", [QUESTION, OWN_SYSTEM, DEVELOPER]) == []


@needs_qwen
def test_the_chat_template_of_a_real_policy() -> None:
    chat = ChatTemplate(build_tokenizer(model(path=QWEN)), "Be brief.")
    assert chat.tokenizer.decode(chat.prompt_ids([QUESTION])[0]) == ASKED
    assert chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn_id) == IM_END
    assert chat.opened == "" and chat.missing_roles == ("developer",) and chat.notes("MODEL", [QUESTION]) == []
