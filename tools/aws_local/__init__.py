"""Runs the AWS variant on one machine: ministack emulates the table and the queue, this process runs both handlers."""
