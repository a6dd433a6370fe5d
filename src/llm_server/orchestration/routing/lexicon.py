"""The words the analysis reads, as data: which role a word speaks for, and how strongly.

Weights were chosen by hand: 3 marks a word that certainly names the speciality, 2 a typical word, 1 a hint. The words
of a phrase are joined by `_`. The question words and the words of hard tasks stand below this table.
"""

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

WORDS: dict[str, dict[float, str]] = {
    FAST: {
        3.0: """
            python javascript typescript golang java c++ c# php sql html css html5 css3 bash powershell
            haskell kotlin vb.net .net vba latex cobol fortran scala matlab regex regexp numpy pandas
            pytorch tensorflow keras sklearn scikit-learn matplotlib seaborn django flask fastapi svelte
            sveltekit angular vue next.js node.js nodejs kubernetes docker dockerfile terraform ansible
            nginx github_actions graphql in_r in_go in_c postgres postgresql mysql mongodb flutter swiftui
            opencv arduino webgl opengl shader compute_shader npm pytest linux_kernel ecmascript snippet
            code_snippet source_code unit_test programmer programmer's sdk verilog
        """,
        2.0: """
            react kernel code coding codes quellcode código programming program script function functions
            algorithm algorithms developer subclass api apis library framework backend frontend
            full-stack devops recursion recursive array arrays binary_tree linked_list hashmap json_schema
            xml yaml dataframe plugin website webpage web_app web_application app_using command_line
            terminal cli linux git compiler database endpoint neural_network async thread threads
            webscraper scraper chatbot ruby swift perl julia lua octave unity unreal android rust js csv
            pdf_file bug_fix refactor loop for_loop while_loop boolean integer_array 代码 프로그램
            programme_python ux ui interpreter
        """,
        1.0: """
            ci ci/cd optimise optimize asynchronous concurrency concurrent throughput lock-free pipeline
            repo string integer list_of_numbers tuple matrix variable variables parameter parameters input
            output returns return server button app module package implement implementation automation
            component deploy repository notebook file files folder directory tool ssh ip vpn
            configure install filesystem interface config prototype software tech-stack gui feature login
        """,
    },
    DEBUG: {
        3.0: """
            debug failing_test failing_tests traceback stack_trace stacktrace segfault nullpointerexception
            exception bug bugs fix_this fix_the_bug not_working doesn't_work does_not_work error_message
            typeerror valueerror keyerror syntax_error fehlermeldung what's_wrong_with_this throws crashes
            crashing
        """,
        1.0: """
            error errors fix broken fail fails failing failed fault likely_cause troubleshoot resolve_this
            resolve
        """,
    },
    ARCHITECT: {
        3.0: """
            software_architecture system_design architecture_for microservices microservice
            system_architecture event-driven design_a_system high-level_design software_architect
            scalable_architecture database_schema
        """,
        1.0: "architecture architect scalable scalability distributed high_availability",
    },
    QA: {
        3.0: """
            test_cases test_case test_plan quality_assurance qa code_review review_this_code review_my_code
            review_the_code write_tests unit_tests tester edge_cases vulnerabilities_in audit
            fact_check fact-check proof-check
        """,
        1.5: """
            verify verification review reviewer auditor inconsistencies validate check_whether evaluate
            correctness
        """,
    },
    RESEARCH: {
        2.5: """
            literature_review research researcher state_of_the_art market_analysis swot analyst survey
            compare_the pros_and_cons competitor competitors papers sources citations case_study investigate
            sentiment_analysis recherchiere recherche investiga peer-reviewed dataset
        """,
        1.5: """
            analyze analyse compare comparison insights trends evidence extract named_entities
            information_extraction findings statistics overview correlation implications impact evaluate
            assess categorize classify identify article passage data_analysis entities analysis analysiere
        """,
    },
    VISION: {
        2.0: """
            this_screenshot screenshot in_this_image in_the_image this_picture this_photo attached_image
            what_is_in_the uploaded_image
        """,
        1.0: "image images picture photo scanned ocr",
    },
    WRITING: {
        3.0: """
            poem haiku limerick essay story novel blog blog_post lyrics song screenplay press_release
            caption captions tagline slogan cover_letter proofread paraphrase copywriter rewrite ghostwriter
            summarize summarise summarization screenwriter storyteller novelist poet translator editor
            job_description hashtags gedicht geschichte schreibe_eine übersetze fasse résume traduis écris
            escribe traduce statement_of_purpose announcement script_about newsletter translate headline
        """,
        2.0: """
            summary write_a_letter letter speech linkedin instagram tweet post article review_for script_for
            paragraph draft compose biography bio dialogue narrative tone wording grammar shorter condense
            title titles template schreibe schreib adjectives sentence expand description creative copy
            podcast persuasive concise spelling reword storytelling profile ad respond_to_the reviews
        """,
        1.0: """
            style words describe content text writing report characters ideas audience hook character
            engaging
        """,
    },
    EMAIL: {
        4.0: """
            e-mail_to email_to an_email an_e-mail this_email_politely reply_to_this_email follow-up_email
        """,
        2.5: "emails subject_line draft_a_reply mail_to courriel cold_email",
    },
    DOCUMENT: {
        3.0: """
            contract clause nda meeting_minutes minutes powerpoint pptx ppt slide_deck slides
            terms_of_service privacy_policy technical_documentation user_manual white_paper whitepaper
        """,
        1.5: "document documentation presentation policy proposal",
    },
    SPREADSHEET: {
        4.0: """
            excel spreadsheet google_sheets pivot_table vlookup xlookup libreoffice_calc tabellenkalkulation
        """,
        1.5: "formula_for column columns cells worksheet",
    },
    TEACHER: {
        3.0: """
            teach tutor teacher lesson_plan curriculum quiz homework math_problem explain_like professor
            textbook step_by_step_solution worksheet_for students flashcards learn_about part_of_speech exam
            syllabus erkläre explique explica eli5 educator instructor
        """,
        1.8: """
            explain explaining solve calculate prove probability theorem equation equations triangle
            integral derivative polynomial difference_between differences_between meaning_of understand
            concept concepts lesson molecule reaction physics chemistry biology algebra geometry compute_the
            greatest_possible how_does why_does step-by-step how_do_i how_to how_can_i mathematics learner
            total_amount how_many how_far interpret real-world_example enthalpy velocity protein quantum
            electron prime mechanism beginners instructions
        """,
    },
    FINANCIAL: {
        3.0: """
            accountant bookkeeper bookkeeping tax taxes ira 401k mortgage balance_sheet income_statement
            cash_flow journal_entries gst vat amortization dividend dividends portfolio financial_advisor
            bank_account credit_score invoice credit_card debit_card net_worth capital_gains depreciation
            steuererklärung fiscal financial_analyst inflation ebitda stock_market savings_account
            checking_account apr
        """,
        2.0: """
            budget loan interest_rate investment invest investing stock stocks bond bonds bank card expense
            expenses insurance_premium salary_after payroll pension finance financial profit revenue fees
            bill bills tip transactions transaction deposit rewards balance pricing monetary currency
            paycheck income transfer_money payment
        """,
        0.7: "money cost price dollars savings account spending",
    },
    TRAINER: {
        3.0: """
            workout workouts personal_trainer training_plan lose_weight build_muscle strength_training
            push-ups squats marathon gym_routine exercise_routine fitness deadlift bench_press trainingsplan
            calisthenics meal_plan_for
        """,
        1.5: "exercise exercises gym muscle calories stretching cardio",
    },
    PLANNER: {
        2.2: """
            roadmap milestones implementation_plan project_plan action_plan launch_plan plan_a plan_my
            plan_the plan_an plan_for marketing_strategy campaign itinerary work_breakdown_structure
            smart_goals s.m.a.r.t organize_a communication_strategy migration_plan go-to-market rollout
            workshops projektplan timeline_estimates
        """,
        1.0: """
            planning timeline phases phase strategy schedule strategist goals coordinate organize planner
        """,
    },
    CHAT: {
        2.0: """
            hello hi hey thanks thank_you good_morning how_are_you alarm reminder reminders shopping_list
            weather tell_me_a_joke joke recipe movie movies restaurant restaurants hotel taxi uber flight
            playlist playlists what_should_i pretend remind_me timer my_list song_called package hallo danke
            bonjour hola recommend suggestions recommendations phone_call voice_call book_a advice
            girlfriend boyfriend dentist doctor yes no spotify who_is who_was where_is text_message travel
        """,
        1.0: """
            suggest tips best favorite feel feeling tell_me give_me choose rank name weekend should_i wear
            buy game
        """,
    },
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


QUESTIONS = _words("""
    who what whats what's when where which whose whom why is are am was were does do did can could should
    would will has have wer wann wo welche warum wieso wie ist sind kann que qué quién cuándo dónde cuál
    por_qué cómo qui quoi quand où pourquoi comment quel quelle est-ce chi cosa quando dove perché come kim
    ne nerede neden nasıl
""")
HARD = _words("""
    optimize optimise optimal concurrency concurrent distributed thread-safe lock-free complexity scalable
    architecture prove proof theorem derive asynchronous parallel compiler kernel cryptography encryption
    simulation simulate differential numerical transformer reinforcement stochastic bayesian performance
    latency throughput trade-offs refactor migrate migration security production-grade production-ready
    comprehensive rigorous integral polynomial quantum constraint constraints invariant
    real-time multi-tenant detailed
""")
