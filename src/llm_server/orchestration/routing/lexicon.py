"""The names of the packaged roles, and the words that choose a specialist within a field, as data."""

from __future__ import annotations

CHAT = "Chat-Agent"
PLANNER = "Planner-Agent"
FAST = "Fast-Coder-Agent"
DEEP = "Deep-Coder-Agent"
DEBUG = "Debug-Agent"
ARCHITECT = "Architect-Agent"
QA = "QA-Agent"
RESEARCH = "Research-Agent"
VISION = "Vision-Agent"
WRITING = "Writing-Agent"
EMAIL = "Email-Agent"
DOCUMENT = "Document-Agent"
SPREADSHEET = "Spreadsheet-Agent"
TEACHER = "Teacher-Agent"
FINANCIAL = "Financial-Agent"
TRAINER = "Personal-Trainer-Agent"

# Within a field, one of these words in the request chooses the specialist. The words of a phrase are joined by `_`.
SPECIALISTS: dict[str, str] = {
    DEBUG: """
        debug failing_test failing_tests traceback stack_trace stacktrace segfault nullpointerexception
        exception bug bugs fix_this fix_the_bug not_working doesn't_work does_not_work error_message
        typeerror valueerror keyerror syntax_error fehlermeldung what's_wrong_with_this throws crashes
        crashing
    """,
    ARCHITECT: """
        software_architecture system_design architecture_for microservices microservice
        system_architecture event-driven design_a_system high-level_design software_architect
        scalable_architecture database_schema
    """,
    EMAIL: """
        e-mail_to email_to an_email an_e-mail this_email_politely reply_to_this_email follow-up_email
        emails subject_line draft_a_reply mail_to courriel cold_email
    """,
    DOCUMENT: """
        contract clause nda meeting_minutes minutes powerpoint pptx ppt slide_deck slides
        terms_of_service privacy_policy technical_documentation user_manual white_paper whitepaper
    """,
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


QUESTIONS = _words("""
    who what whats what's when where which whose whom why is are am was were does do did can could should
    would will has have wer wann wo welche warum wieso wie ist sind kann que qué quién cuándo dónde cuál
    por_qué cómo qui quoi quand où pourquoi comment quel quelle est-ce chi cosa quando dove perché come kim
    ne nerede neden nasıl
""")
