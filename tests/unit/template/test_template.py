"""What the deployment promises, held against template.yaml after SAM has translated it.

cfn-lint alone passes a dangling reference, a visibility time-out below the function's and a misspelt
ReportBatchItemFailures. test_template_broken.py shows each of these tests a template that breaks its promise.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass

import pytest
from cfnlint.api import lint  # type: ignore[import-untyped]

from aws_local.template import TEMPLATE, Document, Stack, load, translate
from export_openapi import document
from llm_server.api.streams.answers import MAX_WAIT_S
from llm_server.orchestration.dispatch.window import Window
from llm_server.settings import EMBEDDED_ONLY, LOG_LEVELS, VARIABLES
from support.deployment import ENGINES, an_event
from support.template_stack import references, resolved, rights, statements

FUNCTIONS = {"ApiFunction": "ApiRole", "WorkerFunction": "WorkerRole"}
TABLE = {"BatchGetItem", "DeleteItem", "GetItem", "PutItem", "Query", "UpdateItem"}
EVENTS = "GET /api/v1/tasks/{task_id}/events"
LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}
TRACES = {"xray:PutTelemetryRecords", "xray:PutTraceSegments"}
PSEUDO_PARAMETERS = {"AWS::Region", "AWS::AccountId", "AWS::Partition", "AWS::StackName", "AWS::NoValue"}


MAX_FUNCTION_S = 900
"""Lambda's limit (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)."""
RESERVE_S = 5
"""The time for the last writes; tests/unit/test_lambda_worker.py checks that the worker function reserves it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The times of a deployment, in seconds."""

    function_s: int
    lease_s: int
    visibility_s: int
    alarm_age_s: int

    @classmethod
    def of(cls, stack: Stack) -> Times:
        leases = {stack.environment(function)["LLM_SERVER_LEASE_S"] for function in FUNCTIONS}
        assert len(leases) == 1
        return cls(
            function_s=stack.properties("WorkerFunction", "Timeout")["Timeout"],
            lease_s=int(leases.pop()),
            visibility_s=stack.properties("Queue")["VisibilityTimeout"],
            alarm_age_s=stack.properties("QueueAgeAlarm")["Threshold"],
        )


@pytest.fixture(scope="module")
def cfn() -> Document:
    return translate(load())


def test_cfn_lint_finds_nothing(cfn: Document) -> None:
    assert [str(match) for match in lint(json.dumps(cfn))] == []


def test_every_reference_leads_somewhere(cfn: Document) -> None:
    there = {
        "Ref": set(cfn["Resources"]) | set(cfn["Parameters"]) | PSEUDO_PARAMETERS,
        "Fn::GetAtt": set(cfn["Resources"]),
        "Fn::If": set(cfn["Conditions"]),
        "Fn::FindInMap": set(cfn["Mappings"]),
    }
    parts = [cfn["Resources"], cfn["Conditions"], cfn["Outputs"]]

    assert {(kind, name) for kind, name in references(parts) if name not in there[kind]} == set()


def test_the_handlers_and_what_they_run_on_are_fixed(cfn: Document) -> None:
    stack = resolved(cfn)
    ran = {name: stack.properties(name, "Handler", "Runtime", "MemorySize") for name in FUNCTIONS}

    assert ran == {
        "ApiFunction": {
            "Handler": "llm_server.lambda_api.handler",
            "Runtime": "python3.13",
            "MemorySize": 512,
        },
        "WorkerFunction": {
            "Handler": "llm_server.lambda_worker.handler",
            "Runtime": "python3.13",
            "MemorySize": 256,
        },
    }


def test_functions_and_layers_are_for_the_chosen_processor(cfn: Document) -> None:
    offered = cfn["Parameters"]["Architecture"]

    assert (offered["Default"], offered["AllowedValues"]) == ("arm64", ["arm64", "x86_64"])
    for processor in offered["AllowedValues"]:
        stack = resolved(cfn, Architecture=processor)
        layers = stack.resources("AWS::Lambda::LayerVersion")
        assert [stack.properties(name, "Architectures")["Architectures"] for name in FUNCTIONS] == [[processor]] * 2
        assert [stack.properties(name)["CompatibleArchitectures"] for name in layers] == [[processor]] * 2


def test_a_deployment_that_requires_an_engine_is_refused_without_one(cfn: Document) -> None:
    """CloudFormation checks this before it changes anything; without RequireEngine the embedded engine answers."""
    refused = "RequireEngine needs OpenAIKeyName, AnthropicKeyName or ConfigFile. See docs/aws.md."

    assert resolved(cfn).refusals() == []
    assert resolved(cfn, RequireEngine="true").refusals() == [refused]
    for given in ({"OpenAIKeyName": "/a"}, {"AnthropicKeyName": "/a"}, {"ConfigFile": "engines.toml"}):
        assert resolved(cfn, RequireEngine="true", **given).refusals() == []


def windows(cfn: Document) -> dict[str, Times]:
    """Return the times of a deployment with each value of WorkerWindow."""
    return {name: Times.of(resolved(cfn, WorkerWindow=name)) for name in cfn["Mappings"]["WorkerWindows"]}


def test_a_batch_does_not_come_again_while_it_is_worked_on(cfn: Document) -> None:
    """AWS advises six times the function's time, which leaves time for throttled retries.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
    """
    assert all(times.visibility_s >= 6 * times.function_s for times in windows(cfn).values())


def test_each_time_out_ends_before_the_one_that_guards_it(cfn: Document) -> None:
    """Engine < function < lease <= visibility: a worker still owns its task when its engine call times out."""
    catalog = (TEMPLATE.parent / "src/llm_server/data/catalog.toml").read_text(encoding="utf-8")
    engine_s = tomllib.loads(catalog)["defaults"]["timeout_s"]

    for times in windows(cfn).values():
        assert engine_s < times.function_s < times.lease_s <= times.visibility_s
        assert times.function_s <= MAX_FUNCTION_S


def test_an_engine_call_may_take_all_of_the_functions_time_but_that_of_the_last_writes(cfn: Document) -> None:
    """Six sevenths of the lease end before the function's time does, but less than a second before."""
    for times in windows(cfn).values():
        assert (
            times.function_s - RESERVE_S - 1 <= Window(lease_s=times.lease_s).ms / 1000 <= times.function_s - RESERVE_S
        )


def test_every_window_is_offered_with_the_time_it_has(cfn: Document) -> None:
    offered = cfn["Parameters"]["WorkerWindow"]
    described = [f"{name} - {Window(lease_s=times.lease_s).whole_s} seconds." for name, times in windows(cfn).items()]

    assert offered["AllowedValues"] == list(windows(cfn))
    assert offered["Default"] == "Short"
    assert offered["Description"].endswith(" ".join(described))


def test_the_window_can_be_changed_while_tasks_run(cfn: Document) -> None:
    """CloudFormation updates the queue first. AWS refuses a visibility time-out below that of the function."""
    every = windows(cfn).values()

    assert min(times.visibility_s for times in every) >= max(times.function_s for times in every)


def test_a_message_that_is_worked_on_is_no_alarm(cfn: Document) -> None:
    """A message stays in the queue, and grows older, until its batch has ended."""
    assert all(times.alarm_age_s == times.function_s + 7 * 60 for times in windows(cfn).values())


def test_the_gateway_waits_longer_than_the_function_and_the_function_longer_than_a_caller(cfn: Document) -> None:
    """`Prefer: wait` holds an answer for up to 25 s."""
    stack = resolved(cfn)
    function_s = stack.properties("ApiFunction", "Timeout")["Timeout"]

    assert function_s > 25
    assert function_s * 1000 < stack.properties("HttpApiIntegration")["TimeoutInMillis"] <= 30_000


def test_one_bad_message_does_not_bring_back_the_other_nine(cfn: Document) -> None:
    source = resolved(cfn).properties("WorkerFunctionTasks")

    assert source["EventSourceArn"] == "Queue.Arn"
    assert source["BatchSize"] == 10
    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


def test_concurrency_is_limited_where_no_message_is_lost_by_it(cfn: Document) -> None:
    """With reserved concurrency, deliveries would be throttled and end as dead letters unprocessed."""
    stack = resolved(cfn)

    assert stack.properties("WorkerFunctionTasks")["ScalingConfig"]["MaximumConcurrency"] >= 2
    for function in FUNCTIONS:
        assert "ReservedConcurrentExecutions" not in stack.properties(function)


def test_a_message_given_up_is_kept_for_14_days(cfn: Document) -> None:
    stack = resolved(cfn)
    queue, dead_letters = stack.properties("Queue"), stack.properties("DeadLetterQueue")

    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == "DeadLetterQueue.Arn"
    assert queue["RedrivePolicy"]["maxReceiveCount"] >= 5
    assert dead_letters["MessageRetentionPeriod"] == 14 * 24 * 3600
    assert queue["MessageRetentionPeriod"] < dead_letters["MessageRetentionPeriod"]  # a dead letter keeps its age


def test_the_sweep_comes_every_minute_and_waits_behind_no_task(cfn: Document) -> None:
    """Sent through the worker's queue, it arrived half an hour late with a backlog of 20,000 tasks."""
    stack = resolved(cfn)
    schedule = stack.properties("SweepSchedule")

    assert schedule["ScheduleExpression"] == "rate(1 minute)"
    assert schedule["Target"]["Arn"] == "WorkerFunction.Arn"
    assert schedule["Target"]["RoleArn"] == "SweepRole.Arn"
    assert json.loads(schedule["Target"]["Input"]) == an_event("sweep")
    assert rights(stack, "SweepRole") == {"WorkerFunction.Arn": {"lambda:InvokeFunction"}}


def test_sweeps_that_cannot_run_do_not_pile_up(cfn: Document) -> None:
    """By default a schedule retries for a day and Lambda for six hours, but the next sweep follows in a minute."""
    stack = resolved(cfn)
    once = {"MaximumEventAgeInSeconds": 60, "MaximumRetryAttempts": 0}

    assert stack.properties("SweepSchedule")["Target"]["RetryPolicy"] == once
    of_worker = {"FunctionName": "WorkerFunction", "Qualifier": "$LATEST", "DestinationConfig": {}}
    assert stack.properties("WorkerFunctionEventInvokeConfig") == of_worker | once


def test_the_table_has_the_keys_and_keeps_the_data(cfn: Document) -> None:
    table = resolved(cfn).properties("Table")
    keys = {index["IndexName"]: index["KeySchema"] for index in table["GlobalSecondaryIndexes"]}
    keys["table"] = table["KeySchema"]

    assert {name: [key["AttributeName"] for key in schema] for name, schema in keys.items()} == {
        "table": ["pk", "sk"],
        "open": ["open", "due"],
        "listing": ["tenant", "created"],
    }
    assert all(i["Projection"] == {"ProjectionType": "KEYS_ONLY"} for i in table["GlobalSecondaryIndexes"])
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["TimeToLiveSpecification"] == {"AttributeName": "ttl", "Enabled": True}
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["SSESpecification"] == {"SSEEnabled": True}
    policies = cfn["Resources"]["Table"]["DeletionPolicy"], cfn["Resources"]["Table"]["UpdateReplacePolicy"]
    assert policies == ("Retain", "Retain")


def test_every_setting_reaches_both_functions(cfn: Document) -> None:
    for function in FUNCTIONS:
        given = {name for name in resolved(cfn).environment(function) if name.startswith("LLM_SERVER_")}
        assert given == set(VARIABLES) - EMBEDDED_ONLY


def test_every_log_level_offered_is_one_the_server_knows(cfn: Document) -> None:
    assert cfn["Parameters"]["LogLevel"]["AllowedValues"] == list(LOG_LEVELS)
    logging = resolved(cfn, LogLevel="WARNING").properties("WorkerFunction", "LoggingConfig")["LoggingConfig"]
    assert (logging["LogFormat"], logging["ApplicationLogLevel"]) == ("JSON", "WARN")


@pytest.mark.parametrize("mode", ["KEY", "JWT"])
def test_the_api_is_never_open(cfn: Document, mode: str) -> None:
    """Every route ends in the handler that needs an API key (tests/e2e/test_aws.py); JWT adds an authorizer."""
    stack = resolved(cfn, AuthMode=mode)
    routes = [stack.properties(name) for name in stack.resources("AWS::ApiGatewayV2::Route")]
    wanted = ("NONE", None) if mode == "KEY" else ("JWT", "JwtAuthorizer")

    assert {(route["AuthorizationType"], route.get("AuthorizerId")) for route in routes} == {wanted}
    assert {route["Target"] for route in routes} == {"integrations/HttpApiIntegration"}
    assert "ApiFunction" in stack.properties("HttpApiIntegration")["IntegrationUri"]
    assert stack.properties("ApiFunction", "Handler")["Handler"] == "llm_server.lambda_api.handler"
    assert cfn["Parameters"]["AuthMode"]["AllowedValues"] == ["KEY", "JWT"]
    assert stack.resources("AWS::Lambda::Url") == {}


def test_the_api_speaks_payload_2_and_is_throttled_and_logged(cfn: Document) -> None:
    stack = resolved(cfn)
    stage = stack.properties("HttpApiStage")

    assert stack.properties("HttpApiIntegration")["PayloadFormatVersion"] == "2.0"
    assert stage["DefaultRouteSettings"]["ThrottlingRateLimit"] == 50
    assert stage["AccessLogSettings"]["DestinationArn"] == "AccessLogGroup.Arn"
    assert json.loads(stage["AccessLogSettings"]["Format"])["requestId"] == "$context.requestId"


def test_long_polls_are_throttled_apart_and_leave_most_of_an_account_to_others(cfn: Document) -> None:
    """Each holds an execution; an account has 1,000. The route of the settings must exist and be the app's."""
    stack = resolved(cfn)
    stage, permission = stack.properties("HttpApiStage"), stack.properties("HttpApiPermission")

    assert list(stage.get("RouteSettings", {})) == [stack.properties("EventsRoute")["RouteKey"]] == [EVENTS]
    assert cfn["Resources"]["HttpApiStage"].get("DependsOn") == "EventsRoute"
    assert EVENTS.removeprefix("GET ") in json.loads(document())["paths"]
    settings = stage["RouteSettings"][EVENTS]
    assert settings["ThrottlingRateLimit"] * MAX_WAIT_S + settings["ThrottlingBurstLimit"] <= 250
    assert resolved(cfn, WatchRate=3).properties("HttpApiStage")["RouteSettings"][EVENTS]["ThrottlingRateLimit"] == 3
    assert permission["SourceArn"].endswith("/*/*"), "each route may invoke the function"


def test_every_method_of_the_api_has_a_route_and_is_open_to_browsers(cfn: Document) -> None:
    """API Gateway answers a method without a route itself, and the function does not see it."""
    stack = resolved(cfn, CorsOrigins=["https://a.example"])
    routed = {stack.properties(name)["RouteKey"] for name in stack.resources("AWS::ApiGatewayV2::Route")}
    wanted = {method.upper() for path in json.loads(document())["paths"].values() for method in path} | {
        "DELETE",
        "HEAD",
    }

    assert routed - {EVENTS} == {f"{method} /{{proxy+}}" for method in wanted}
    assert set(stack.properties("HttpApi")["CorsConfiguration"]["AllowMethods"]) == wanted


def test_browsers_may_call_only_from_the_origins_given(cfn: Document) -> None:
    allowed = resolved(cfn, CorsOrigins=["https://a.example"]).properties("HttpApi")["CorsConfiguration"]

    assert allowed["AllowOrigins"] == ["https://a.example"]
    assert "CorsConfiguration" not in resolved(cfn).properties("HttpApi")


def test_browsers_may_read_every_described_header(cfn: Document) -> None:
    """A page of another origin sees only the headers that CORS exposes."""
    cors = resolved(cfn, CorsOrigins=["https://a.example"]).properties("HttpApi")["CorsConfiguration"]
    operations = [operation for path in json.loads(document())["paths"].values() for operation in path.values()]
    answers = [answer for operation in operations for answer in operation["responses"].values()]
    headers = {name.lower() for answer in answers for name in answer.get("headers", {})}

    assert headers - {"allow", "www-authenticate"} <= set(cors["ExposeHeaders"])


def test_no_policy_has_a_wildcard(cfn: Document) -> None:
    stack = resolved(cfn, **ENGINES)
    for role in stack.resources("AWS::IAM::Role"):
        assert "ManagedPolicyArns" not in stack.properties(role)  # AWS's own are full of them
        for actions, over in statements(stack, role):
            assert "*" not in "".join(actions)
            assert "*" not in "".join(over) or set(actions) == TRACES  # X-Ray knows no resources


def test_each_function_may_do_what_it_does_and_no_more(cfn: Document) -> None:
    stack = resolved(cfn, **ENGINES)

    assert rights(stack, "ApiRole") == {
        "Table.Arn": {f"dynamodb:{name}" for name in TABLE},
        "Table.Arn/index/listing": {"dynamodb:Query"},
        "Queue.Arn": {"sqs:SendMessage"},
        "ApiLogGroup.Arn": LOGS,
        "*": TRACES,
    }
    to_work = ("DeleteMessage", "GetQueueAttributes", "ReceiveMessage", "SendMessage")
    assert rights(stack, "WorkerRole") == {
        "Table.Arn": {f"dynamodb:{name}" for name in TABLE},
        "Table.Arn/index/open": {"dynamodb:Query"},
        "Queue.Arn": {f"sqs:{name}" for name in to_work},
        "WorkerLogGroup.Arn": LOGS,
        "*": TRACES,
        "arn:aws:ssm:us-east-1:000000000000:parameter/llm/openai": {"ssm:GetParameter"},
        "arn:aws:ssm:us-east-1:000000000000:parameter/llm/anthropic": {"ssm:GetParameter"},
        "arn:aws:bedrock:us-east-1::foundation-model/some.model": {"bedrock:InvokeModel"},
    }


def test_each_function_has_its_own_role(cfn: Document) -> None:
    stack = resolved(cfn)

    assert {name: stack.properties(name, "Role")["Role"] for name in FUNCTIONS} == {
        name: f"{role}.Arn" for name, role in FUNCTIONS.items()
    }


def test_engine_keys_are_passed_by_name_only(cfn: Document) -> None:
    given = resolved(cfn, **ENGINES).environment("WorkerFunction")

    assert given["OPENAI_API_KEY"] == "ssm:/llm/openai"
    assert given["ANTHROPIC_API_KEY"] == "ssm:/llm/anthropic"
    assert "OPENAI_API_KEY" not in resolved(cfn).environment("WorkerFunction")


def test_nothing_leads_to_an_emulator_once_deployed(cfn: Document) -> None:
    """The variable is in the template only because `sam local` passes on no other variables.

    It is absent, not empty: an emulator that runs the functions gives them its address unless the variable is there.
    """
    for function in FUNCTIONS:
        assert "AWS_ENDPOINT_URL" not in resolved(cfn).environment(function)
        assert resolved(cfn, EndpointUrl="http://a").environment(function)["AWS_ENDPOINT_URL"] == "http://a"


def test_logs_are_not_kept_for_ever(cfn: Document) -> None:
    stack = resolved(cfn, LogRetentionDays=7)
    groups = stack.resources("AWS::Logs::LogGroup")

    assert all(stack.properties(name)["RetentionInDays"] == 7 for name in groups)
    for function in FUNCTIONS:
        assert stack.properties(function, "LoggingConfig")["LoggingConfig"]["LogGroup"] in groups


def test_what_can_go_wrong_has_an_alarm(cfn: Document) -> None:
    """Alarms start at once, except those for age and for throttled workers, after five minutes."""
    stack = resolved(cfn, AlarmTopicArn="arn:aws:sns:us-east-1:000000000000:oncall")
    alarms = [stack.properties(name) for name in stack.resources("AWS::CloudWatch::Alarm")]
    limits = ("Statistic", "Threshold", "Period", "EvaluationPeriods")

    assert {(a["MetricName"], a["Dimensions"][0]["Value"]): tuple(a[limit] for limit in limits) for a in alarms} == {
        ("ApproximateAgeOfOldestMessage", "Queue.QueueName"): ("Maximum", 600, 60, 5),
        ("ApproximateNumberOfMessagesVisible", "DeadLetterQueue.QueueName"): ("Maximum", 0, 60, 1),
        ("Errors", "ApiFunction"): ("Sum", 0, 60, 1),
        ("Errors", "WorkerFunction"): ("Sum", 0, 60, 1),
        ("Throttles", "ApiFunction"): ("Sum", 0, 60, 1),
        ("Throttles", "WorkerFunction"): ("Sum", 0, 60, 5),
    }
    assert {a["ComparisonOperator"] for a in alarms} == {"GreaterThanThreshold"}
    assert {a["TreatMissingData"] for a in alarms} == {"notBreaching"}
    assert all(a["AlarmActions"] == ["arn:aws:sns:us-east-1:000000000000:oncall"] for a in alarms)
