"""Roles of a configuration: their purposes and examples decide, and the reasons name what decided."""

from __future__ import annotations

import time
from collections.abc import Set

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_server.orchestration.domain.status import Mode
from llm_server.orchestration.routing import word_rates
from llm_server.orchestration.routing.analysis import Analysis, analyse
from llm_server.orchestration.routing.own_roles import Description, OwnRoles, Score, joined
from llm_server.orchestration.routing.text_features import CONCEPT, MAX_WORDS, text_features
from llm_server.orchestration.routing.word_rates import load
from train.word_rates import pack

DEPOSIT = "Can my landlord keep the deposit?"
LAW = Description(
    name="Legal-Agent",
    purpose="Answers questions of law: contracts, tenancy, courts.",
    examples=(DEPOSIT, "Is a verbal agreement binding?", "How do I contest a parking fine?"),
)
FOOD = Description(
    name="Recipe-Agent",
    purpose="Finds recipes: cooking, baking, ingredients.",
    examples=("What can I make with chickpeas and spinach?", "How long do I roast a chicken?"),
)
TWO = OwnRoles.of([FOOD, LAW])
BOTH = ["Recipe-Agent", "Legal-Agent"]
ANY_TEXT = st.text(st.characters(codec=None) | st.characters(categories=["Cs"]), max_size=2_500)


def odds(roles: OwnRoles, prompt: str) -> dict[str, float]:
    return {score.role: score.odds for score in roles.scores(text_features(prompt))}


def odds_of(roles: OwnRoles, features: set[str]) -> float:
    return roles.scores(features)[0].odds


def with_examples(*examples: str, name: str = "A-Agent", purpose: str = "Does things.") -> Description:
    return Description(name=name, purpose=purpose, examples=examples)


def best(analysis: Analysis) -> tuple[Mode, str]:
    return analysis.mode, analysis.role


@pytest.mark.parametrize(
    ("prompt", "role"),
    [
        ("The landlord wants the whole deposit", "Legal-Agent"),
        ("chickpeas and spinach, quickly", "Recipe-Agent"),
        ("Who drafts contracts?", "Legal-Agent"),
        ("A word about baking", "Recipe-Agent"),
    ],
)
def test_a_profile_of_two_own_roles_is_divided_by_what_a_prompt_says(prompt: str, role: str) -> None:
    """Everything went to the first one, with confidence .907 and the reason "no role for talk is offered"."""
    analysis = analyse(prompt, roles=BOTH, own=TWO)

    assert best(analysis) == (Mode.AGENT, role)
    assert analysis.reasons[0].startswith("like its ")
    assert "no role for talk" not in " ".join(analysis.reasons)
    assert 0.7 < analysis.confidence < 1
    assert [other for other, _ in analysis.alternatives] == [other for other in BOTH if other != role]


def test_without_a_word_for_any_role_the_first_one_is_used_and_the_confidence_is_low() -> None:
    """So that the threshold sends the prompt to the profile's default role."""
    analysis = analyse("zzz 12345", roles=BOTH, own=TWO)

    assert best(analysis) == (Mode.CHAT, "Recipe-Agent")
    assert analysis.confidence <= 0.5
    assert analysis.reasons == ("no word speaks for a role: the first one is used",)


def test_the_only_role_of_a_profile_is_sure_to_be_it() -> None:
    """There is nothing to choose."""
    analysis = analyse("zzz", roles=["Legal-Agent"], own=TWO)

    assert best(analysis) == (Mode.CHAT, "Legal-Agent")
    assert analysis.confidence > 0.7
    assert analysis.reasons == ("no other role is offered",)


def test_the_reason_names_the_example_and_its_words() -> None:
    """The words are those of the example, strongest first, each once."""
    reasons = analyse("The landlord wants the whole deposit", roles=BOTH, own=TWO).reasons

    assert reasons[0].startswith(f'like its example "{DEPOSIT}" (words: ')
    assert "landlord" in reasons[0].rpartition("words: ")[2]
    assert "concepts: " in reasons[0]
    assert reasons[1].startswith("likelier (")


def test_the_reason_names_the_purpose_if_that_decided() -> None:
    """A role without examples has nothing else."""
    assert (
        analyse("Who drafts contracts?", roles=BOTH, own=TWO).reasons[0]
        == "like its purpose (words: contracts; concepts: law)"
    )


def test_a_reason_never_quotes_the_prompt() -> None:
    """Reasons are logged."""
    secret = "hunter2secret landlord deposit hunter2secret"

    assert "hunter2" not in " ".join(analyse(secret, roles=BOTH, own=TWO).reasons)


def test_a_long_example_is_cut_in_the_reason() -> None:
    """Reasons are short."""
    page = OwnRoles.of([with_examples("marmalade " * 300)])

    assert len(page.reason("A-Agent", text_features("marmalade"))) < 130


def test_own_and_packaged_roles_compete() -> None:
    """A clear prompt for either goes there, and the other one's role is an alternative at most."""
    roles = ["Chat-Agent", "Fast-Coder-Agent", "Legal-Agent"]

    law = analyse("Can the landlord keep my deposit?", roles=roles, own=TWO)
    code = analyse("Write a Python function that reverses a string", roles=roles, own=TWO)

    assert best(law) == (Mode.AGENT, "Legal-Agent")
    assert best(code) == (Mode.AGENT, "Fast-Coder-Agent")
    assert any(reason.startswith("about code (+") for reason in code.reasons)


def test_roles_for_which_nothing_speaks_change_no_decision() -> None:
    """Fifty own roles leave a clear decision for a packaged role as sure as it was."""
    many = OwnRoles.of(with_examples(f"quux{n} blarg{n}", name=f"R{n}-Agent", purpose=f"Zork{n}.") for n in range(50))
    prompt, packaged = "Write a Python function that reverses a string", ["Chat-Agent", "Fast-Coder-Agent"]

    beside = analyse(prompt, roles=[*packaged, *many.names], own=many)

    assert best(beside) == best(analyse(prompt, roles=packaged))
    assert beside.confidence == pytest.approx(analyse(prompt, roles=packaged).confidence, abs=0.002)


def test_only_offered_roles_are_chosen() -> None:
    """A profile has its own roles."""
    assert (
        analyse("Can my landlord keep the deposit?", roles=["Recipe-Agent", "Chat-Agent"], own=TWO).role
        != "Legal-Agent"
    )


def test_a_mode_of_the_caller_is_kept() -> None:
    """Agent mode chooses among own roles, too; Chat mode still talks."""
    assert best(analyse(DEPOSIT, roles=BOTH, own=TWO, mode=Mode.AGENT)) == (Mode.AGENT, "Legal-Agent")
    assert best(analyse("zzz", roles=BOTH, own=TWO, mode=Mode.AGENT)) == (Mode.AGENT, "Recipe-Agent")
    assert analyse(DEPOSIT, roles=["Chat-Agent", *BOTH], own=TWO, mode=Mode.CHAT).role == "Chat-Agent"


def test_examples_add_to_what_a_packaged_role_is_chosen_for() -> None:
    """It keeps its training."""
    own = OwnRoles.of([with_examples("Zork the grommets", "Grommets, zorked", name="Writing-Agent", purpose="Texts.")])
    roles = ["Chat-Agent", "Writing-Agent"]

    assert analyse("Zork the grommets now", roles=roles).role == "Chat-Agent"
    assert best(analyse("Zork the grommets now", roles=roles, own=own)) == (Mode.AGENT, "Writing-Agent")
    assert analyse("Draft a blog post about remote work", roles=roles, own=own).role == "Writing-Agent"


def test_near_identical_roles_share_the_confidence() -> None:
    """The decision is not sure, and the reason gives both figures."""
    twins = OwnRoles.of([LAW, Description(name="Legal-2-Agent", purpose=LAW.purpose, examples=LAW.examples)])

    analysis = analyse("Can my landlord keep the deposit?", roles=["Legal-Agent", "Legal-2-Agent"], own=twins)

    assert analysis.confidence == pytest.approx(0.5, abs=0.1)
    assert analysis.alternatives[0][1] == pytest.approx(0.5, abs=0.1)


def test_an_example_in_the_prompts_language_decides() -> None:
    """Examples of several languages may stand side by side, also those without spaces between words."""
    own = OwnRoles.of(
        [
            with_examples("Mein Vermieter kündigt mir", "解雇されました。会社を訴える", name="Legal-Agent"),
            with_examples("Wie wird Käsekuchen nicht rissig?", "豚肉と白菜の夕食", name="Recipe-Agent"),
        ]
    )

    assert analyse("Der Vermieter war hier", roles=["Recipe-Agent", "Legal-Agent"], own=own).role == "Legal-Agent"
    assert analyse("会社に解雇された", roles=["Recipe-Agent", "Legal-Agent"], own=own).role == "Legal-Agent"
    assert analyse("白菜と豚肉", roles=["Legal-Agent", "Recipe-Agent"], own=own).role == "Recipe-Agent"


def test_a_prompt_that_is_an_example_is_surer_than_one_with_its_words() -> None:
    """Users try an example first, and expect its role, whatever else the profile has."""
    roles = ["Chat-Agent", "Financial-Agent", "Legal-Agent", "Recipe-Agent", "Writing-Agent"]

    example = analyse(DEPOSIT, roles=roles, own=TWO)
    words = analyse("The landlord wants the whole deposit", roles=roles, own=TWO)

    assert (example.role, words.role) == ("Legal-Agent", "Legal-Agent")
    assert example.confidence > 0.97 > words.confidence


def test_a_rare_word_says_more_than_a_common_one() -> None:
    """How rare a word is comes from the packaged table."""
    own = OwnRoles.of([with_examples("please quinces")])

    assert load().rate("please") > 10 * load().rate("quinces")
    assert odds(own, "a quinces b")["A-Agent"] > odds(own, "a please b")["A-Agent"] * 1.3


def test_what_several_examples_share_says_more_than_what_one_has() -> None:
    """An accident of one example counts less."""
    own = OwnRoles.of([with_examples("quinces x1", "quinces x2", "quinces x3", "parsnips x4")])
    padding = " ".join(f"pad{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(200))

    assert odds(own, f"quinces {padding}")["A-Agent"] > odds(own, f"parsnips {padding}")["A-Agent"]


def test_a_page_among_the_examples_does_not_drown_the_others() -> None:
    """A short example still decides."""
    page = " ".join(f"grommet{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(MAX_WORDS))
    own = OwnRoles.of([with_examples(page, "My landlord keeps the deposit"), FOOD])

    found = odds(own, "the landlord and the deposit")
    assert found["A-Agent"] > 1.5 * found["Recipe-Agent"]


def test_the_words_of_a_page_weigh_less_than_those_of_a_short_example() -> None:
    """A page has many words by chance."""
    page = " ".join(f"{CONCEPT}{n}" for n in range(200))
    own = OwnRoles.of([with_examples(page, "#few")], features=lambda text: set(text.split()))
    padding = {f"pad{n}" for n in range(900)}

    assert odds_of(own, {"#few"} | padding) > 1.01 * odds_of(own, {"#7"} | padding)


def test_what_is_rarer_at_large_weighs_more() -> None:
    """By the table, and not only because common words are damped: kinds of things are not."""
    prompts = [f"#often w{n}" for n in range(20)] + [f"#seldom w{n}" for n in range(5)] + [f"w{n}" for n in range(75)]
    rates = word_rates.parse(pack(prompts, lambda text: set(text.split())))
    own = OwnRoles.of([with_examples("#often #seldom")], features=lambda text: set(text.split()), rates=rates)
    padding = {f"pad{n}" for n in range(400)}

    assert odds_of(own, {"#seldom"} | padding) > 1.01 * odds_of(own, {"#often"} | padding)


def test_concepts_join_words_of_different_languages() -> None:
    """The analysis may pass features of its own; a role and a prompt without a common word meet in a concept."""

    def features(text: str) -> Set[str]:
        law = {CONCEPT + "law"} if "tenancy" in text or "Mietrecht" in text else set()
        return text_features(text) | law

    own = OwnRoles.of([LAW, FOOD], features=features)
    scores = {score.role: score for score in own.scores(features("Mietrecht"))}

    assert scores["Legal-Agent"].odds > scores["Recipe-Agent"].odds
    assert own.reason("Legal-Agent", features("Mietrecht")) == "like its purpose (concepts: law)"


def test_the_shares_of_all_roles_and_of_none_are_one() -> None:
    """They are likelihoods; own roles without a word are left out beside packaged ones."""
    scores = [Score(role="A", odds=3.0, spoken=True), Score(role="B", odds=0.5, spoken=False)]

    beside = joined({"Chat-Agent": 0.9, "Coder": 0.1}, scores, fields=11)
    alone = joined({}, scores, fields=0)

    assert list(beside) == ["A", "Chat-Agent", "Coder"]
    assert sum(beside.values()) == pytest.approx(1)
    assert list(alone) == ["A", "B"]
    assert 0.9 < sum(alone.values()) < 1


def test_many_own_roles_share_their_part() -> None:
    """Otherwise the likelihood of any of them would grow with their number."""
    few, many = (
        joined({"Chat-Agent": 1.0}, [Score(role=f"R{n}", odds=1.0, spoken=True) for n in range(size)], fields=11)
        for size in (1, 40)
    )

    assert 0.4 < few["R0"] < 0.5
    assert many["Chat-Agent"] > 0.1


@given(prompt=ANY_TEXT, example=ANY_TEXT)
def test_no_text_breaks_the_comparison(prompt: str, example: str) -> None:
    """Neither a prompt nor a description; the decision is always the same one, and within its bounds."""
    own = OwnRoles.of([with_examples(example), FOOD])
    first = analyse(prompt, roles=["A-Agent", "Recipe-Agent", "Chat-Agent"], own=own)

    assert first == analyse(
        prompt, roles=["A-Agent", "Recipe-Agent", "Chat-Agent"], own=OwnRoles.of([with_examples(example), FOOD])
    )
    assert 0 <= first.confidence < 1
    assert first.role not in dict(first.alternatives)
    assert first.reasons


def test_many_roles_are_read_and_compared_quickly() -> None:
    """The limits are five times what an idle machine takes: 45 ms for 50 roles, 0.03 ms for a prompt."""
    texts = [" ".join(f"word{(n * 7 + k * n) % 997}x" for k in range(15)) for n in range(1_000)]
    roles = [with_examples(*texts[n : n + 20], name=f"R{n}-Agent") for n in range(0, 1_000, 20)]
    load()

    start = time.process_time()
    OwnRoles.of(roles)
    assert time.process_time() - start < 1
    ten, prompt = OwnRoles.of(roles[:10]), text_features(" ".join(texts[:10]))
    start = time.process_time()
    for _ in range(100):
        ten.scores(prompt)
    assert (time.process_time() - start) / 100 < 0.005
