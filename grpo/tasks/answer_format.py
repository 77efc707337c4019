"""The answer format: the tags of a completion, and the text of its answer block.

Called by the rewards and grpo/tasks/answer_types.py. It knows nothing of what counts as right.
"""

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def extract_answer(text: str) -> str | None:
    """The text inside the last closed `<answer>...</answer>`, stripped; None if no block is closed."""
    start = text.rfind("<answer>", 0, max(0, text.rfind("</answer>")))
    if start == -1:
        return None
    start += len("<answer>")
    return text[start : text.index("</answer>", start)].strip()
