"""The storage ports over one DynamoDB table, and the Queue port over one SQS queue."""
