"""What must be said of a result besides its numbers: who was passed over, how do trials and configurations count?"""

from __future__ import annotations

from bilevel.study.history import History


def passed(history: History) -> str:
    """Of a stopped trial that had reached more than the best one; "" where there is none."""
    over = history.passed_over() if history.value else None
    if over is None:
        return ""
    best = history.leaders(1)[0]
    return (
        f"trial {over.trial.number}, stopped at step {over.trial.step}, had {history.metric} {over.mean:.5g}; the best"
        f" is trial {best.trial.number} with {best.mean:.5g}, as completed trials come first: values of early steps may"
        " not compare. If they do, Study(comparable=True) counts them; confirm=3 tries the leaders to their end"
    )


def tried(history: History) -> str:
    """How many configurations the trials are of; "" where each is of its own."""
    trials = [trial for trial in history.trials.values() if not trial.confirms]
    again = len(history.trials) - len(trials)
    configurations = sum(trial.of is None for trial in trials)
    if configurations == len(history.trials):
        return ""
    text = f"{configurations} configurations"
    text += f" in {len(trials)} trials" if configurations < len(trials) else ""
    return text + (f", and {again} trials that confirm the leaders" if again else "")
