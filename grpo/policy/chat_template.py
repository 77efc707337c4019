"""The policy's chat template: prompts as token ids, the text around a completion, and the text that is scored.

Checks of the policy, datasets, training and evaluations call it, so all of them use the same prompts. It does not know
about answers or rewards.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from grpo.config.schema import CommonConfig
from grpo.core.errors import UserError, first_line, shorten

Message = dict[str, str]
Prompt = str | tuple[Message, ...]  # a question, or the messages of a conversation

INSTRUCTION_ROLES = ("system", "developer")
TAG = re.compile(r"<([A-Za-z][\w:.-]*)>")
# The variables that transformers passes to a template in addition to special tokens.
PASSED_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now")
INSTRUCTION, QUESTION, REPLY = "Count them", "How many?", "42 pens"  # turns of conversations that show what it can do


@dataclass(frozen=True)
class TemplateFraming:
    """What the policy's chat template writes before and after a completion."""

    opened: str = ""  # the text that a prompt opens and a completion continues, such as "<think>\n"
    end_tokens: tuple[str, ...] = ()  # the tokens that end a completion


UNKNOWN_FRAMING = TemplateFraming()


def build_messages(prompt: Prompt, system_prompt: str) -> list[Message]:
    """The chat messages of a prompt; `system_prompt` is left out if it is empty, or if the prompt has its own."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not system_prompt or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def prompt_text(prompt: Prompt) -> str:
    """The text of a prompt without system prompt and chat template."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer under the settings of a run. What it can do is found by rendering it.

    Attributes:
        system_prompt: the text before each prompt that has no system message of its own; empty: none.
        kwargs: values of variables of the template, chat_template_kwargs.
        reasoning: the name of the tag around reasoning in the answer format, if it has one.
    """

    tokenizer: Any
    system_prompt: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    reasoning: str | None = None

    @classmethod
    def of(cls, tokenizer: Any, config: CommonConfig) -> "ChatTemplate":
        return cls(tokenizer, config.system_prompt, config.chat_template_kwargs, config.format.reasoning)

    def messages(self, prompt: Prompt) -> list[Message]:
        """The chat messages of a prompt; turns of a role that the template lacks are put into the user's next turn."""
        messages: list[Message] = []
        instructions: list[str] = []
        for message in build_messages(prompt, self.system_prompt):
            if message["role"] in self.missing_roles:
                instructions.append(message["content"].strip())
            elif message["role"] == "user":
                messages.append({"role": "user", "content": "\n\n".join([*instructions, message["content"]])})
                instructions = []
            else:
                messages.append(message)
        return messages

    def prompt_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The token ids of each prompt with the start of the assistant's turn, without padding.

        Special tokens such as BOS are those that the template writes; the tokenizer adds none, as in TRL.

        Raises:
            UserError: the chat template refuses the prompt.
        """
        if not prompts:
            return []
        chats = [self.messages(prompt) for prompt in prompts]
        with self._template_errors():
            encoded = self.tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, tokenize=True, return_dict=True, **self.kwargs
            )
        return encoded["input_ids"]

    def completion_texts(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """(N,) the text of each completion as it is scored: the text that the prompt opens, then its own tokens."""
        return [self.opened + text for text in self.tokenizer.batch_decode(completions, skip_special_tokens=True)]

    @cached_property
    def missing_roles(self) -> tuple[str, ...]:
        """The roles of instructions that the template lacks: it refuses such a turn, or leaves it out."""
        return tuple(role for role in INSTRUCTION_ROLES if INSTRUCTION not in self._render_roles((role, "user")))

    @cached_property
    def opened(self) -> str:
        """The end of a prompt from the first tag that it leaves open, such as "<think>\\n"; empty if there is none.

        Raises:
            UserError: the chat template refuses the prompt, or leaves out the question.
        """
        end = self._generation_prompt()
        # Tags that also precede the assistant's text in a conversation mark the turn, such as `<assistant>`; tags of
        # reasoning never do.
        conversation = self._render_roles(("user", "assistant"))
        ignored = {tag[0] for tag in _open_tags(conversation.rpartition(QUESTION)[2].partition(REPLY)[0])}
        ignored -= {"<think>", f"<{self.reasoning}>"}
        # Completions are decoded without special tokens.
        ignored |= {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return next((end[tag.start() :] for tag in _open_tags(end) if tag[0] not in ignored), "")

    @cached_property
    def end_of_turn_id(self) -> int | None:
        """The id of the special token that follows the assistant's text; None if there is none.

        If a conversation ends without such a token, as in GLM-4's template, the first token of the next turn ends the
        turn.
        """
        for roles in (("user", "assistant"), ("user", "assistant", "user")):
            after = self._render_roles(roles).partition(REPLY)[2].lstrip()
            for token in self.tokenizer(after, add_special_tokens=False)["input_ids"][:1]:
                if token in self.tokenizer.added_tokens_decoder or token in self.tokenizer.all_special_ids:
                    return int(token)
        return None

    def notes(self, policy: str, prompts: Iterable[Prompt]) -> list[str]:
        """Messages on how the template changes these prompts and their completions; `policy` is its name in them."""
        source = self.tokenizer.get_chat_template()
        notes = [
            f"chat_template_kwargs.{name}={shorten(value)}: the chat template of {policy} does not name '{name}', so "
            "it has no effect; correct the name, or leave it out."
            for name, value in self.kwargs.items()
            if not re.search(rf"\b{re.escape(name)}\b", source)
        ]
        used = {message["role"] for prompt in prompts for message in build_messages(prompt, self.system_prompt)}
        if missing := [role for role in self.missing_roles if role in used]:
            roles = " and ".join(missing)
            notes.append(
                f"The chat template of {policy} has no {roles} role: the {roles} prompt is put into the user's turn, "
                "before the question."
            )
        bos, (ids,) = self.tokenizer.bos_token_id, self.prompt_ids(["?"])
        if bos is not None and self.tokenizer("?")["input_ids"][0] == bos and bos not in ids:
            notes.append(
                f"The tokenizer of {policy} begins texts with {self.tokenizer.bos_token!r}, and its chat template does "
                "not write this token, so prompts are without it. If the policy was trained with it, start the "
                "template with {{ bos_token }}."
            )
        if note := self._date_note(policy):
            notes.append(note)
        if self.opened:
            notes.append(
                f"The chat template of {policy} ends the prompt with {self.opened!r}: completions are scored and shown "
                "with this text before them."
            )
        return notes

    def _date_note(self, policy: str) -> str | None:
        """A note if prompts depend on the day, with the variable of the template that sets it, if there is one."""
        from jinja2 import nodes

        clock, calls = nodes.Name("strftime_now", "load"), self._syntax_tree().find_all(nodes.Call)
        formats = [argument for call in calls if call.node == clock for argument in call.args[:1]]
        today = "".join(datetime.now().strftime(form.value) for form in formats[:1] if isinstance(form, nodes.Const))

        def rendered(**values: Any) -> str:
            chat = replace(self, kwargs={**self.kwargs, **values})
            return chat._render_if_possible([{"role": "user", "content": QUESTION}])

        if not today or today not in rendered():
            return None
        with_value = {name: rendered(**{name: REPLY}) for name in self._unset_variables()}
        names = [name for name, text in with_value.items() if REPLY in text and today not in text]
        advice = f" To keep this day's, type 'chat_template_kwargs.{names[0]}={today}'." if names else ""
        return (
            f"The chat template of {policy} writes the date into the prompt, {today}: on another day, the run, when it "
            f"is resumed or repeated, has other prompts.{advice}"
        )

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=False, **self.kwargs
        )

    def _generation_prompt(self) -> str:
        """The text that the template adds to a conversation for the assistant to continue.

        Raises:
            UserError: the chat template refuses the prompt, or leaves out the question.
        """
        messages = self.messages(QUESTION)
        with self._template_errors():
            prompt = self._render(messages, add_generation_prompt=True)
        if QUESTION not in prompt:  # templates for images take messages of another form
            raise UserError(
                f"the policy's chat template leaves out the question: it renders {QUESTION!r} as "
                f"{shorten(repr(prompt))}. Use a policy for text, or a tokenizer whose template takes text, "
                "model.tokenizer=FOLDER."
            )
        without = self._render_if_possible(messages)
        # Some templates start the assistant's turn in any case; the two texts are then equal.
        added = len(without) if prompt != without and prompt.startswith(without) else 0
        return prompt[max(added, prompt.rindex(QUESTION) + len(QUESTION)) :]

    def _render_roles(self, roles: Sequence[str]) -> str:
        """The text of a conversation with turns of these roles; empty if the template refuses it."""
        texts = {"user": QUESTION, "assistant": REPLY}
        return self._render_if_possible([{"role": role, "content": texts.get(role, INSTRUCTION)} for role in roles])

    def _render_if_possible(self, messages: Sequence[Message]) -> str:
        try:
            with self._template_errors():
                return self._render(messages)
        except UserError:
            return ""

    @contextmanager
    def _template_errors(self) -> Iterator[None]:
        """Convert the errors that a chat template, a program of the policy's author, can raise to a `UserError`."""
        import jinja2

        errors = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
        try:
            yield
        except (*errors, MemoryError, RecursionError) as error:
            why = first_line(error) if str(error) else type(error).__name__
            needed = [
                f"chat_template_kwargs.{name}=..."
                for name in self._unset_variables()
                if re.search(rf"\b{re.escape(name)}\b", why)
            ]
            advice = f"Set the variable that it needs, {' '.join(needed)}; or correct" if needed else "Correct"
            raise UserError(
                f"the policy's chat template refuses the prompt: {why}. {advice} the template, chat_template.jinja, or "
                "use another tokenizer and its template, model.tokenizer=FOLDER."
            ) from error

    def _unset_variables(self) -> list[str]:
        """The variables of the template that only chat_template_kwargs can set, and does not.

        Empty if the template cannot be parsed.
        """
        from jinja2 import meta

        set_elsewhere = {*PASSED_VARIABLES, *self.tokenizer.special_tokens_map, *self.kwargs}
        return sorted(meta.find_undeclared_variables(self._syntax_tree()) - set_elsewhere)

    def _syntax_tree(self) -> Any:
        """Jinja's syntax tree of the template; an empty one if it cannot be parsed."""
        from jinja2 import Environment, TemplateSyntaxError

        environment = Environment(extensions=["jinja2.ext.loopcontrols"])
        try:
            return environment.parse(self.tokenizer.get_chat_template())
        except TemplateSyntaxError:
            return environment.parse("")


def _open_tags(text: str) -> list[re.Match[str]]:
    """The tags in `text` that it does not close."""
    return [tag for tag in TAG.finditer(text) if f"</{tag[1]}>" not in text[tag.end() :]]
