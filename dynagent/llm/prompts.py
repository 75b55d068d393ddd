"""What a local model reads: a chat in its own template, without thoughts that the template or the model begins."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import TemplateError

from dynagent.llm.base import Chat

SWITCHES = ("enable_thinking", "thinking")  # variables of templates whose models can also reply at once
_OPENED = re.compile(r"(?P<open>[<\[])(?P<tag>[\w:|-]*(?:think|thought|reason)[\w:|-]*)[>\]]\s*$", re.IGNORECASE)
_PROBE: Chat = (("user", "a question"),)


class ChatTemplate:
    """A tokenizer's chat template; without one, the messages' texts below each other."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        template = tokenizer.chat_template
        text = " ".join(template.values()) if isinstance(template, dict) else template or ""
        self._off = {name: False for name in SWITCHES if re.search(rf"\b{name}\b", text)}

    @property
    def thoughts(self) -> str:
        """What is done about a model's thoughts, "" where its template has none."""
        if self.tokenizer.chat_template is None:
            return ""
        try:
            if _OPENED.search(self._written(_PROBE)):
                return "thoughts closed"
        except TemplateError:  # it wants another chat, and says so when it gets one
            pass
        return "thoughts switched off" if self._off else ""

    def render(self, chat: Chat) -> str:
        """The chat up to where the reply begins; thoughts that the template opens are closed."""
        if self.tokenizer.chat_template is None:
            return "\n\n".join(content for _, content in chat) + "\n\n"
        begins_with_system = chat[0][0] == "system"
        try:
            text = self._written(chat)
        except TemplateError:
            if not begins_with_system:
                raise
            text = ""
        # A template without a system role raises its own error, or leaves the message out without a word.
        if begins_with_system and chat[0][1].strip() not in text:
            (_, system), (_, user), *rest = chat
            return self.render((("user", f"{system}\n\n{user}"), *rest))
        if opened := _OPENED.search(text):
            tag = opened["tag"]
            closing = f"</{tag}>" if opened["open"] == "<" else f"[/{tag}]"
            text = f"{text.rstrip()}\n\n{closing}\n\n"
        return text

    def _written(self, chat: Chat) -> str:
        messages = [{"role": role, "content": content} for role, content in chat]
        render = self.tokenizer.apply_chat_template
        return str(render(messages, tokenize=False, add_generation_prompt=True, **self._off))


def adds_end(tokenizer: Any) -> bool:
    """Whether a tokenizer ends every text with a token that would keep a prompt from going on."""
    return list(tokenizer("a").input_ids)[-1] in {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
