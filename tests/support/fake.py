"""A model that numbers its replies."""

from dynagent.llm.base import Reply, Request


class FakeModel:
    """Numbers its replies, so that a second computation shows; batches are consecutive requests."""

    def __init__(self, identity="fake-float32", batch_size=3, text="reply {}", first=0):
        self.identity = identity
        self.batch_size = batch_size
        self.text = text
        self.first = first
        self.ran: list[list[Request]] = []

    def batches(self, requests):
        indices = list(range(len(requests)))
        return [indices[i : i + self.batch_size] for i in range(0, len(indices), self.batch_size)]

    def reply(self, requests):
        number = self.first + sum(map(len, self.ran))
        self.ran.append(list(requests))
        return [self._one(request, number + i) for i, request in enumerate(requests)]

    def _one(self, request, number):
        tokens = len(request.prompt)
        if request.options:
            return Reply(None, tuple(-number - i / 3 for i in range(len(request.options))), (1, 2), tokens, 7)
        return Reply(self.text.format(number), prompt_tokens=tokens, completion_tokens=number)

    @property
    def num_computed(self):
        return sum(map(len, self.ran))
