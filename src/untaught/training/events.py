"""What happens between steps, and when: logs, looks at the health, scores, checkpoints."""

from __future__ import annotations

from untaught.config.train_config import TrainConfig
from untaught.training.collapse import PROBE
from untaught.training.plan import Plan

EVALUATIONS = 4  # parts that kNN scores cut a run into
LOOKS = 16  # at a run's health, at most
LOOK = 1 << 13  # samples trained on between two looks at the health, at least: 64 times those that a look is taken of
LEAST_SAVED = 50  # steps between checkpoints, at least, unless the config says otherwise


class Events:
    """When what is due, by the steps so far. evaluations: parts that scores cut a run into, unless evaluate_every is given."""

    def __init__(self, recipe: TrainConfig, plan: Plan, step: int = 0, evaluations: int = EVALUATIONS) -> None:
        self.recipe, self.plan, self.evaluations = recipe, plan, evaluations
        self.logged_at = step
        self.saved_at = -1
        self.scored = self._scores_due(step) if step else 0

    def logs(self, step: int) -> bool:
        return step % self.recipe.log_every == 0 or step == self.plan.total

    def saves(self, step: int) -> bool:
        every = self.recipe.save_every or max(LEAST_SAVED, (self.plan.total or 0) // 20)
        if self.recipe.minutes and not self.recipe.save_every:  # a total that moves
            return step - self.saved_at >= every
        return step % every == 0

    def looks(self, step: int) -> bool:
        """Whether a look at the health has become due since the last log."""
        every = self.recipe.health_every
        if every is None:
            every = max(min(LOOK // (self.recipe.batch_size or 1), LOOK // PROBE), (self.plan.total or 0) // LOOKS, 1)
        return step == self.plan.total or (every > 0 and step // every > self.logged_at // every)

    def evaluates(self, step: int) -> bool:
        """Whether scores are due; asked once a step."""
        if self.recipe.evaluate_every is not None:
            return self.recipe.evaluate_every > 0 and step % self.recipe.evaluate_every == 0
        before, self.scored = self.scored, self._scores_due(step)
        return self.scored > before

    def _scores_due(self, step: int) -> int:
        """How many of the parts that evaluations cut the schedule into lie behind."""
        return int(self.evaluations * self.plan.progress(step) + 1e-9)
