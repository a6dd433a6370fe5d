// One call of each operation, with the types that openapi-typescript generated: `node each_call.ts <server's URL>`.
// Prints the status of each call by the operation's id, as JSON.

import createClient from "openapi-fetch";
import type { components, operations, paths } from "./contract.ts";

declare const process: { argv: string[] };

const called: Partial<Record<keyof operations, number>> = {};

/** Note a call and return the body of its success. */
function got<T>(id: keyof operations, answer: { data?: T; error?: components["schemas"]["Problem"]; response: Response }): T {
  called[id] = answer.response.status;
  if (answer.error) throw new Error(`${id}: ${answer.response.status} ${answer.error.detail}`);
  return answer.data as T;
}

/** Note a call that the server must refuse, and return its sentence. */
function refused(id: keyof operations, answer: { error?: components["schemas"]["Problem"]; response: Response }): string {
  called[id] = answer.response.status;
  if (!answer.error) throw new Error(`${id}: ${answer.response.status}, but an error was expected`);
  return answer.error.detail;
}

function check(fact: boolean, name: string): void {
  if (!fact) throw new Error(name);
}

const baseUrl = process.argv[2];
const stranger = createClient<paths>({ baseUrl });
check(got("get_health", await stranger.GET("/api/v1/health")).status === "ok", "health");
const key = got("create_key", await stranger.POST("/api/v1/keys", {
  body: { tenant: "acme", scopes: ["tasks", "metrics", "admin"], name: "test" },
}));
const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${key.token}` } });

const keys = got("list_keys", await client.GET("/api/v1/keys")).keys;
check(keys[0]?.key_id === key.key_id, "keys");
check("General" in got("get_catalog", await client.GET("/api/v1/catalog")).profiles, "catalog");
check("embedded" in got("get_engines", await client.GET("/api/v1/engines")).engines, "engines");

const body: components["schemas"]["NewTask"] = { prompt: "Write a haiku about queues.", mode: "Agent" };
const quote = got("quote_task", await client.POST("/api/v1/tasks/quote", { body }));
check(quote.mode === "Agent", "quote");
const task = got("create_task", await client.POST("/api/v1/tasks", {
  body,
  params: { header: { Prefer: "wait=20", "Idempotency-Key": "once" } },
}));
if (!("task_id" in task) || task.task_id === null) throw new Error("create_task gave no task");
const finished: components["schemas"]["Status"] = "Completed";
check(task.status === finished, "status");

const params = { path: { task_id: task.task_id } };
const read = await client.GET("/api/v1/tasks/{task_id}", { params });
check(got("get_task", read).result === task.result, "result");
const told = got("read_events", await client.GET("/api/v1/tasks/{task_id}/events", { params }));
if (typeof told !== "object") throw new Error("read_events gave no page");
const latest = told.events[told.events.length - 1];
check(told.ended && latest?.number === told.last, "events");
const header = { "If-None-Match": read.response.headers.get("ETag") ?? "" };
const unchanged = await client.GET("/api/v1/tasks/{task_id}", { params: { ...params, header } });
check(unchanged.response.status === 304, "unchanged");
const page = got("list_tasks", await client.GET("/api/v1/tasks", { params: { query: { page_size: 10 } } }));
check(page.tasks[0]?.task_id === task.task_id, "tasks");

const plan = { params, body: { plan_hash: "0".repeat(64) } };
refused("approve_plan", await client.POST("/api/v1/tasks/{task_id}/approve", plan));
refused("reject_plan", await client.POST("/api/v1/tasks/{task_id}/reject", plan));
refused("retry_task", await client.POST("/api/v1/tasks/{task_id}/retry", { params }));

const engine = { params: { path: { name: "embedded" } }, body: { toggle: false } };
check(!got("switch_engine", await client.PATCH("/api/v1/engines/{name}", engine)).toggle, "engine");
const waiting = got("create_task", await client.POST("/api/v1/tasks", { body }));
if (!("task_id" in waiting) || waiting.task_id === null) throw new Error("create_task gave no task");
const open = { params: { path: { task_id: waiting.task_id } } };
const cancelled = got("cancel_task", await client.POST("/api/v1/tasks/{task_id}/cancel", open));
check(cancelled.status === "Cancelled", "cancelled");
got("delete_task", await client.DELETE("/api/v1/tasks/{task_id}", { params }));

const conversation = got("create_conversation", await client.POST("/api/v1/conversations"));
const talk = { params: { path: { conversation_id: conversation.conversation_id } } };
const emptyTalk = got("get_conversation", await client.GET("/api/v1/conversations/{conversation_id}", talk));
check(emptyTalk.tasks.length === 0, "conversation");
got("delete_conversation", await client.DELETE("/api/v1/conversations/{conversation_id}", talk));

check(got("get_metrics", await client.GET("/api/v1/metrics")).total_requests === 2, "metrics");
check(got("get_usage", await client.GET("/api/v1/usage")).tenant === "acme", "usage");
const keyPath = { path: { key_id: key.key_id } };
const change = { limits: { requests_per_minute: 600, usd_per_day: null } };
const changed = got("update_key", await client.PATCH("/api/v1/keys/{key_id}", { params: keyPath, body: change }));
check(changed.limits.requests_per_minute === 600 && changed.limits.usd_per_day === null, "limits");
got("revoke_key", await client.DELETE("/api/v1/keys/{key_id}", { params: keyPath }));
console.log(JSON.stringify(called));
