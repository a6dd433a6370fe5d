"""Each test of test_template.py fails on a template that breaks its promise."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from aws_local.template import Document, load, translate
from unit.template import test_template as promises

_PROPERTIES = {
    "environment": "Resources.WorkerFunction.Properties.Environment.Variables",
    "worker_policy": "Resources.WorkerRole.Properties.Policies.0.PolicyDocument.Statement",
    "source": "Resources.WorkerFunctionTasks.Properties",
    "windows": "Mappings.WorkerWindows",
}
_MISSING = object()
_HUGE = {"FunctionTimeout": 600, "Lease": 694, "QueueVisibility": 3600, "QueueAge": 1020}
# A promise, and how a template would break it: a path into the translated template, and the value put there.
_BROKEN: list[tuple[Callable[..., None], str, Any]] = [
    (promises.test_cfn_lint_finds_nothing, "Resources.Queue.Properties.VisibilityTimeOut", 5),
    (promises.test_every_reference_leads_somewhere, "Resources.Queue.Properties.QueueName", {"Ref": "Nothing"}),
    (
        promises.test_every_reference_leads_somewhere,
        "Resources.Queue.Properties.VisibilityTimeout",
        {"Fn::FindInMap": ["Windows", "Short", "QueueVisibility"]},
    ),
    (promises.test_every_reference_leads_somewhere, "Outputs.TableName.Value", {"Fn::Sub": "${Tabel.Arn}"}),
    (promises.test_every_reference_leads_somewhere, "Resources.JwtAuthorizer.Condition", "UsesJWT"),
    (
        promises.test_the_handlers_and_what_they_run_on_are_fixed,
        "Resources.ApiFunction.Properties.Handler",
        "api.handler",
    ),
    (promises.test_the_handlers_and_what_they_run_on_are_fixed, "Resources.WorkerFunction.Properties.MemorySize", 512),
    (
        promises.test_the_handlers_and_what_they_run_on_are_fixed,
        "Resources.ApiFunction.Properties.Runtime",
        "python3.12",
    ),
    (
        promises.test_functions_and_layers_are_for_the_chosen_processor,
        "Resources.ApiFunction.Properties.Architectures",
        ["arm64"],
    ),
    (promises.test_functions_and_layers_are_for_the_chosen_processor, "Parameters.Architecture.Default", "x86_64"),
    (
        promises.test_a_deployment_that_requires_an_engine_is_refused_without_one,
        "Rules.EngineIsGiven.RuleCondition",
        {"Fn::Equals": [{"Ref": "RequireEngine"}, "yes"]},
    ),
    (
        promises.test_a_deployment_that_requires_an_engine_is_refused_without_one,
        "Rules.EngineIsGiven.Assertions.0.Assert",
        {"Fn::Not": [{"Fn::Equals": [{"Ref": "OpenAIKeyName"}, ""]}]},
    ),
    (
        promises.test_a_batch_does_not_come_again_while_it_is_worked_on,
        "{windows}.Long.QueueVisibility",
        5399,
    ),
    (
        promises.test_a_batch_does_not_come_again_while_it_is_worked_on,
        "Resources.Queue.Properties.VisibilityTimeout",
        1080,
    ),
    (promises.test_each_time_out_ends_before_the_one_that_guards_it, "{windows}.Short.FunctionTimeout", 120),
    (promises.test_each_time_out_ends_before_the_one_that_guards_it, "{windows}.Long.FunctionTimeout", 901),
    (promises.test_each_time_out_ends_before_the_one_that_guards_it, "{windows}.Medium.Lease", 420),
    (promises.test_each_time_out_ends_before_the_one_that_guards_it, "{windows}.Short.Lease", 1081),
    (promises.test_each_time_out_ends_before_the_one_that_guards_it, "{environment}.LLM_SERVER_LEASE_S", "204"),
    (
        promises.test_an_engine_call_may_take_all_of_the_functions_time_but_that_of_the_last_writes,
        "{windows}.Short.Lease",
        205,
    ),
    (
        promises.test_an_engine_call_may_take_all_of_the_functions_time_but_that_of_the_last_writes,
        "{windows}.Long.Lease",
        1042,
    ),
    (promises.test_every_window_is_offered_with_the_time_it_has, "{windows}.Huge", _HUGE),
    (promises.test_every_window_is_offered_with_the_time_it_has, "{windows}.Medium.Lease", 486),
    (promises.test_the_window_can_be_changed_while_tasks_run, "{windows}.Short.QueueVisibility", 899),
    (promises.test_a_message_that_is_worked_on_is_no_alarm, "{windows}.Long.QueueAge", 600),
    (
        promises.test_the_gateway_waits_longer_than_the_function_and_the_function_longer_than_a_caller,
        "Resources.ApiFunction.Properties.Timeout",
        30,
    ),
    (
        promises.test_one_bad_message_does_not_bring_back_the_other_nine,
        "{source}.FunctionResponseTypes",
        ["ReportBatchItemFailure"],
    ),
    (
        promises.test_concurrency_is_limited_where_no_message_is_lost_by_it,
        "{source}.ScalingConfig.MaximumConcurrency",
        1,
    ),
    (
        promises.test_concurrency_is_limited_where_no_message_is_lost_by_it,
        "Resources.WorkerFunction.Properties.ReservedConcurrentExecutions",
        10,
    ),
    (
        promises.test_a_message_given_up_is_kept_for_14_days,
        "Resources.Queue.Properties.RedrivePolicy.maxReceiveCount",
        1,
    ),
    (
        promises.test_a_message_given_up_is_kept_for_14_days,
        "Resources.DeadLetterQueue.Properties.MessageRetentionPeriod",
        345600,
    ),
    *(
        (promises.test_the_sweep_comes_every_minute_and_waits_behind_no_task, f"Resources.{path}", value)
        for path, value in [
            ("SweepSchedule.Properties.Target.Input", "{}"),
            ("SweepSchedule.Properties.Target.Arn", {"Fn::GetAtt": ["Queue", "Arn"]}),
            ("SweepSchedule.Properties.ScheduleExpression", "rate(5 minutes)"),
            ("SweepRole.Properties.Policies.0.PolicyDocument.Statement.0.Action", "sqs:SendMessage"),
            (
                "SweepRole.Properties.Policies.0.PolicyDocument.Statement.0.Resource",
                {"Fn::GetAtt": ["ApiFunction", "Arn"]},
            ),
        ]
    ),
    *(
        (promises.test_sweeps_that_cannot_run_do_not_pile_up, f"Resources.{path}", value)
        for path, value in [
            ("SweepSchedule.Properties.Target.RetryPolicy", {"MaximumRetryAttempts": 0}),
            ("WorkerFunctionEventInvokeConfig.Properties.MaximumEventAgeInSeconds", _MISSING),
            ("WorkerFunctionEventInvokeConfig.Properties.MaximumRetryAttempts", 2),
        ]
    ),
    (promises.test_the_table_has_the_keys_and_keeps_the_data, "Resources.Table.DeletionPolicy", "Delete"),
    (promises.test_the_table_has_the_keys_and_keeps_the_data, "Resources.Table.Properties.BillingMode", "PROVISIONED"),
    (promises.test_every_setting_reaches_both_functions, "{environment}.LLM_SERVER_SWEEP_S", _MISSING),
    (promises.test_every_setting_reaches_both_functions, "{environment}.LLM_SERVER_TYPO", "1"),
    (promises.test_every_log_level_offered_is_one_the_server_knows, "Parameters.LogLevel.AllowedValues", ["LOUD"]),
    (promises.test_the_api_is_never_open, "Resources.GetRoute.Properties.AuthorizationType", "AWS_IAM"),
    (promises.test_the_api_is_never_open, "Resources.GetRoute.Properties.Target", "integrations/Other"),
    (promises.test_the_api_is_never_open, "Resources.ApiFunction.Properties.Handler", "llm_server.open_api.handler"),
    (promises.test_the_api_is_never_open, "Resources.Open", {"Type": "AWS::Lambda::Url", "Properties": {}}),
    (
        promises.test_the_api_speaks_payload_2_and_is_throttled_and_logged,
        "Resources.HttpApiIntegration.Properties.PayloadFormatVersion",
        "1.0",
    ),
    (
        promises.test_every_method_of_the_api_has_a_route_and_is_open_to_browsers,
        "Resources.PatchRoute.Properties.RouteKey",
        "PUT /{proxy+}",
    ),
    *(
        (promises.test_long_polls_are_throttled_apart_and_leave_most_of_an_account_to_others, path, value)
        for path, value in [
            ("Resources.HttpApiStage.Properties.RouteSettings", {}),
            ("Resources.HttpApiStage.DependsOn", _MISSING),
            ("Resources.EventsRoute.Properties.RouteKey", "GET /api/v1/tasks/{id}"),
            ("Parameters.WatchRate.Default", 50),
            ("Resources.HttpApiPermission.Properties.SourceArn", "arn:aws:execute-api:::x/*/*/{proxy+}"),
        ]
    ),
    (
        promises.test_browsers_may_call_only_from_the_origins_given,
        "Resources.HttpApi.Properties.CorsConfiguration",
        {"AllowOrigins": ["*"]},
    ),
    (
        promises.test_browsers_may_read_every_described_header,
        "Resources.HttpApi.Properties.CorsConfiguration",
        {"ExposeHeaders": ["etag"]},
    ),
    (promises.test_no_policy_has_a_wildcard, "{worker_policy}.0.Action", "dynamodb:*"),
    (promises.test_no_policy_has_a_wildcard, "{worker_policy}.1.Resource", {"Fn::Sub": "${Table.Arn}/index/*"}),
    (
        promises.test_no_policy_has_a_wildcard,
        "Resources.ApiRole.Properties.ManagedPolicyArns",
        ["arn:aws:iam::aws:policy/AmazonSQSFullAccess"],
    ),
    (promises.test_each_function_may_do_what_it_does_and_no_more, "{worker_policy}.0.Action", "dynamodb:Scan"),
    (promises.test_each_function_has_its_own_role, "Resources.ApiFunction.Properties.Role", "WorkerRole.Arn"),
    (promises.test_engine_keys_are_passed_by_name_only, "{environment}.OPENAI_API_KEY", {"Ref": "OpenAIKeyName"}),
    (promises.test_nothing_leads_to_an_emulator_once_deployed, "{environment}.AWS_ENDPOINT_URL", "http://127.0.0.1"),
    (promises.test_logs_are_not_kept_for_ever, "Resources.ApiLogGroup.Properties.RetentionInDays", 3653),
    (promises.test_what_can_go_wrong_has_an_alarm, "Resources.DeadLetterAlarm", _MISSING),
    (promises.test_what_can_go_wrong_has_an_alarm, "Resources.DeadLetterAlarm.Properties.Threshold", 10**6),
    (promises.test_what_can_go_wrong_has_an_alarm, "Resources.QueueAgeAlarm.Properties.Period", 86_400),
    (
        promises.test_what_can_go_wrong_has_an_alarm,
        "Resources.WorkerThrottlesAlarm.Properties.EvaluationPeriods",
        60,
    ),
    (
        promises.test_what_can_go_wrong_has_an_alarm,
        "Resources.ApiErrorsAlarm.Properties.ComparisonOperator",
        "LessThanThreshold",
    ),
]


@pytest.fixture(scope="module")
def translated() -> Document:
    return translate(load())


@pytest.mark.parametrize(
    ("promise", "path", "value"),
    _BROKEN,
    ids=[f"{promise.__name__.removeprefix('test_')}-{path}" for promise, path, _ in _BROKEN],
)
def test_a_template_that_breaks_a_promise_is_refused(
    translated: Document, promise: Callable[..., None], path: str, value: Any
) -> None:
    broken = copy.deepcopy(translated)
    *way, last = path.format_map(_PROPERTIES).split(".")
    node: Any = broken
    for step in way:
        node = node[int(step) if isinstance(node, list) else step]
    if value is _MISSING:
        del node[last]
    else:
        node[last] = value
    more = {"mode": "KEY"} if "mode" in inspect.signature(promise).parameters else {}

    with pytest.raises(AssertionError):
        promise(broken, **more)


def test_every_promise_is_known_to_be_breakable() -> None:
    about_the_template = {
        test
        for name, test in vars(promises).items()
        if name.startswith("test_") and "cfn" in inspect.signature(test).parameters
    }

    assert {promise for promise, _, _ in _BROKEN} == about_the_template
