"""Prices of AWS in us-east-1, in USD, as of 2026-06, looked up on 2026-11-25; free tiers are left out.

DynamoDB on demand (halved in November 2024): https://aws.amazon.com/dynamodb/pricing/on-demand/,
https://airbyte.com/data-engineering-resources/dynamodb-pricing (storage, point-in-time recovery: the first).
Lambda on arm64: https://aws.amazon.com/lambda/pricing/. HTTP API: https://aws.amazon.com/api-gateway/pricing/,
https://awsforengineers.com/blog/aws-api-gateway-pricing-explained. SQS: https://aws.amazon.com/sqs/pricing/,
https://cloudburn.io/blog/amazon-sqs-pricing. EventBridge Scheduler: https://cloudburn.io/blog/amazon-eventbridge-pricing.
Logs, alarms: https://aws.amazon.com/cloudwatch/pricing/, https://cloudburn.io/blog/amazon-cloudwatch-pricing.
X-Ray: https://aws.amazon.com/xray/pricing/.
"""

MILLION = 1_000_000

WRITE_UNIT = 0.625 / MILLION
READ_UNIT = 0.125 / MILLION
TABLE_GB_MONTH = 0.25 + 0.20
"""Storage, and its point-in-time recovery."""

LAMBDA_REQUEST = 0.20 / MILLION
LAMBDA_GB_S = 0.0000133334
API_REQUEST = 1.00 / MILLION
SQS_REQUEST = 0.40 / MILLION
SQS_FAIR_REQUEST = 0.50 / MILLION
"""A request with a message that has a MessageGroupId, on a standard queue (https://cloudburn.io/blog/amazon-sqs-pricing)."""
SCHEDULE = 1.00 / MILLION
LOG_GB = 0.50
ALARM_MONTH = 0.10
TRACE = 5.00 / MILLION
