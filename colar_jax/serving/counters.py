"""What is counted while a model is served, for Prometheus: `/metrics`."""

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

from colar_jax.serving.jobs import Observer

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROUTES = ("/v1/completions", "/v1/chat/completions", "/v1/models", "/healthz", "/metrics")


class Metrics(Observer):
    """All counters of one server."""

    def __init__(self):
        self.registry = registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.GCCollector(registry=registry)
        self.replies = Counter("colar_replies", "Replies by route and status", ["route", "status"], registry=registry)
        self.given_up = Counter(
            "colar_given_up", "Requests without a whole answer: the client left, a limit, a fault", registry=registry
        )
        self.answers = Counter("colar_answers", "Finished answers", registry=registry)
        self.latents = Counter("colar_thoughts", "Thoughts of finished answers", registry=registry)
        self.tokens = Counter("colar_answer_tokens", "Tokens of finished answers", registry=registry)
        self.prompt_tokens = Counter("colar_prompt_tokens", "Tokens of questions", registry=registry)
        self.first_token = Histogram(
            "colar_first_token_seconds", "From a request to its first token", registry=registry, buckets=_SECONDS
        )
        self.whole_answer = Histogram(
            "colar_answer_seconds", "From a request to its last answer", registry=registry, buckets=_SECONDS
        )
        self.steps = Counter("colar_steps", "Steps of all slots", registry=registry)
        self.slot_steps = Counter("colar_slot_steps", "Steps, times slots", registry=registry)
        self.useful_slot_steps = Counter("colar_useful_slot_steps", "Those of slots at work", registry=registry)
        self.run_seconds = Counter("colar_run_seconds", "Time in which steps were under way", registry=registry)
        self.waiting = Gauge("colar_waiting", "Answers that wait for a slot", registry=registry)
        self.active = Gauge("colar_active_slots", "Slots at work", registry=registry)

    def ran(self, num_steps: int, num_useful: int, num_slots: int, seconds: float) -> None:
        self.steps.inc(num_steps)
        self.slot_steps.inc(num_steps * num_slots)
        self.useful_slot_steps.inc(num_useful)
        self.run_seconds.inc(seconds)

    def now(self, num_waiting: int, num_active: int) -> None:
        self.waiting.set(num_waiting)
        self.active.set(num_active)

    def replied(self, path: str, status: int) -> None:
        """A reply was begun; paths that are none of ours share a label, for clients choose them."""
        self.replies.labels(path if path in _ROUTES else "other", str(status)).inc()

    def text(self) -> bytes:
        """All of it, in Prometheus' form."""
        return prometheus_client.generate_latest(self.registry)
