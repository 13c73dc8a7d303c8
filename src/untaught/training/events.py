"""The schedule of events between steps: logs, health checks, evaluations, checkpoints."""

from __future__ import annotations

from untaught.config.train_config import TrainConfig
from untaught.training.collapse import PROBE
from untaught.training.plan import Plan

EVALUATIONS = 4  # intervals between evaluations in a run
LOOKS = 16  # health checks in a run, at most
LOOK = 1 << 13  # samples between two health checks, at least: 64 times the probe batch
LEAST_SAVED = 50  # steps between checkpoints, at least, unless save_every is set


class Events:
    """Which events are due after a step. evaluations: number of intervals between evaluations, unless evaluate_every is given."""

    def __init__(self, train_config: TrainConfig, plan: Plan, step: int = 0, evaluations: int = EVALUATIONS) -> None:
        self.train_config, self.plan, self.evaluations = train_config, plan, evaluations
        self.logged_at = step
        self.saved_at = -1
        self.scored = self._scores_due(step) if step else 0

    def logs(self, step: int) -> bool:
        return step % self.train_config.log_every == 0 or step == self.plan.total

    def saves(self, step: int) -> bool:
        every = self.train_config.save_every or max(LEAST_SAVED, (self.plan.total or 0) // 20)
        if self.train_config.minutes and not self.train_config.save_every:  # the total may change
            return step - self.saved_at >= every
        return step % every == 0

    def looks(self, step: int) -> bool:
        """Whether a health check has become due since the last log."""
        every = self.train_config.health_every
        if every is None:
            every = max(min(LOOK // (self.train_config.batch_size or 1), LOOK // PROBE), (self.plan.total or 0) // LOOKS, 1)
        return step == self.plan.total or (every > 0 and step // every > self.logged_at // every)

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due; call once per step."""
        if self.train_config.evaluate_every is not None:
            return self.train_config.evaluate_every > 0 and step % self.train_config.evaluate_every == 0
        before, self.scored = self.scored, self._scores_due(step)
        return self.scored > before

    def _scores_due(self, step: int) -> int:
        """How many of the schedule's evaluation intervals are complete."""
        return int(self.evaluations * self.plan.progress(step) + 1e-9)
