"""Say which parts of a prompt decided its field of work: the weights of the decision itself, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llm_server.orchestration.routing.weights import Scores, Weights

_MAX_REASONS = 4
_MIN_WEIGHT = 0.05
_STEPS, _ONE_STEP = "several steps", "one step"


def field_reasons(
    weights: Weights, scores: Scores, fields: Sequence[str], lean: Mapping[str, float], *, one_step: bool
) -> tuple[str, ...]:
    """Return the parts of the prompt that speak most for the best field against the second one, strongest first.

    `fields` are the possible fields, best first, and `lean` is what the profile adds to one of them. The weights of a
    concept in its places are one reason, and the words as a whole are one reason.
    """
    if len(fields) < 2:
        return (f"only {fields[0]} is offered",)
    best, second = fields[:2]
    a, b = (weights.fields.index(field) for field in (best, second))
    found = {f"about {name}": weight for name, weight in weights.concept_weights(scores, a, b).items()}
    found |= {_ONE_STEP if one_step and name == _STEPS else name: p[a] - p[b] for name, p in scores.form.items()}
    found["wording as in the training examples"] = scores.words[a] - scores.words[b]
    found |= {f"profile leans to {field}": weight for field, weight in lean.items() if field == best}
    strongest = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:_MAX_REASONS]
    said = tuple(f"{what} ({weight:+.1f} {best} over {second})" for what, weight in strongest if weight >= _MIN_WEIGHT)
    return said or (f"nothing speaks clearly for {best} over {second}",)
