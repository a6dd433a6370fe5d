"""The AWS path on one machine: ministack holds the template's table and queue, this process runs both handlers."""
