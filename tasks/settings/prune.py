"""`prune`: a smaller model."""

from pydantic import model_validator

from tasks.settings.base import Section, setting


class PruneSettings(Section):
    """Magnitude pruning over further federated rounds."""

    rounds: int = setting(10, ge=1, title="Rounds", description="federated rounds of pruning, after the training")
    initial_sparsity: float = setting(
        0.3,
        ge=0,
        lt=1,
        title="Initial sparsity",
        description="fraction of the prunable weights that are zero after begin_round",
    )
    final_sparsity: float = setting(
        0.8,
        ge=0,
        lt=1,
        title="Final sparsity",
        description="fraction of the prunable weights that are zero from end_round on",
    )
    begin_round: int = setting(
        1, ge=1, title="Begin round", description="first round that sets weights to zero; pruning rounds count from 1"
    )
    end_round: int = setting(
        8, ge=1, title="End round", description="round that reaches final_sparsity; pruning rounds count from 1"
    )
    frequency: int = setting(
        1, ge=1, title="Frequency", description="rounds from one choice of the zero weights to the next"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "PruneSettings":
        if self.initial_sparsity > self.final_sparsity:
            raise ValueError(
                f"initial_sparsity must be <= final_sparsity, got {self.initial_sparsity} and {self.final_sparsity}"
            )
        if self.end_round > self.rounds:
            raise ValueError(f"end_round must be <= prune.rounds ({self.rounds}), got {self.end_round}")
        if self.begin_round >= self.end_round:
            raise ValueError(f"begin_round must be < prune.end_round ({self.end_round}), got {self.begin_round}")
        if (self.end_round - self.begin_round) % self.frequency:
            raise ValueError(
                f"frequency must divide end_round - begin_round ({self.end_round - self.begin_round}), or the final "
                f"sparsity is never reached, got {self.frequency}"
            )
        return self
