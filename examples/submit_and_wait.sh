#!/bin/sh
# Submit a prompt, poll the task until it is final, and print its result.
# Needs curl, and python3 to write and read JSON.
set -eu

url="${LLM_SERVER_URL:-http://localhost:8000}"
prompt="${1:-Write a haiku about queues.}"

# The key goes through stdin: other users of the machine can read a command's arguments.
key() { [ -z "${LLM_SERVER_API_KEY:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$LLM_SERVER_API_KEY"; }

# Print the answer's body. If the status is 400 or above, print it to stderr and fail.
call() {
  answer=$(key | curl --silent --show-error --fail-with-body --config - "$@") || {
    printf '%s\n' "$answer" >&2
    exit 1
  }
  printf '%s' "$answer"
}

field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]] or "")' "$1"; }

body=$(python3 -c 'import json, sys; print(json.dumps({"prompt": sys.argv[1]}))' "$prompt")
accepted=$(call "$url/api/v1/tasks" --header 'Content-Type: application/json' --data "$body")
task_id=$(printf '%s' "$accepted" | field task_id)
echo "Task $task_id was accepted." >&2

while :; do
  task=$(call "$url/api/v1/tasks/$task_id")
  status=$(printf '%s' "$task" | field status)
  case "$status" in
    Completed) printf '%s' "$task" | field result; exit 0 ;;
    Failed | Cancelled) echo "$status: $(printf '%s' "$task" | field error)" >&2; exit 1 ;;
  esac
  sleep 1
done
