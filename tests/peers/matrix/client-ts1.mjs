// A client of the matrix: TypeScript SDK 1.x (@modelcontextprotocol/sdk); legacy era only.
//
//     node client-ts1.mjs --transport http|sse|ws --url URL --era legacy|auto --mode Shared|PerSession --server NAME
//     node client-ts1.mjs --era legacy --mode PerSession --server NAME --stdio COMMAND ARGUMENT...
//
// Options besides: --deps DEPS (where the install script put the SDKs; standard: $MATRIX_DEPS, else
// target/test-deps/matrix), --interactive works|refused (see below), --log (the step of that name), --again (see below).
//
// Does one step after the other with a server of the matrix (NAME is ts1, ts2, py1, py2 or rmcp; their tools are told
// at the head of server-ts1.mjs) and prints a line of JSON for each:
//
//     {"step":"list","ok":true,"ms":5}
//     {"step":"list","ok":false,"why":"...","ms":5}
//     {"step":"all","skipped":"..."}                  in place of all steps: what the SDK has no means for
//
//     connect     its line also has "protocol", "era" and "name", the name that the server gives itself
//     list        all tools are there
//     call        five echoes one by one, five at once, one of 200 kB; each gets its own answer
//     progress    five steps in their order, all before the answer
//     cancel      a slow call is cancelled: the SDK says so, and within 5 s the server has noticed
//     subscribe   test://watched: an update after touch() within 5 s, and none after unsubscribing
//     sample      the server asks the client's model within a tool call ...
//     elicit      ... or its user; both answers show which question they belong to
//     log         only with --log: the level is set to info, and what log() logs arrives
//     close       the connection ends without an error; over http the session is deleted before
//
// With --again there are three steps: connect, list, and again. Before the third one comes the line {"step":"pause"}; what the
// client is connected to is then ended and started anew, and a line on standard input lets it go on with one echo, which it
// tries five times; its line has "tries".
//
// sample and elicit are to be refused, by an error and without the client hearing of it, where --interactive says
// refused. Its standard is what a gateway can do. A connection of the legacy era: refused in mode Shared, works in mode
// PerSession. One of the modern era: refused where the server is of the legacy era (ts1, py1), else works.
// "auto" and "legacy" are the same here, as this SDK knows one era only.
//
// Exit status: 0 when no step failed, 1 otherwise, 2 on wrong usage. Every wait is bounded, the whole by 60 s.

import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const WATCHED = "test://watched";
const TOOLS = ["echo", "elicit", "log", "progress", "sample", "slow", "touch", "was_cancelled"];
const timeout = 10_000;

function usage(why) {
  process.stderr.write(`client-ts1.mjs: ${why}; see the head of the file\n`);
  process.exit(2);
}

function options() {
  const argv = process.argv.slice(2);
  const at = argv.indexOf("--stdio");
  const command = at < 0 ? undefined : argv.splice(at).slice(1);
  const string = { type: "string" };
  const known = {
    transport: string, url: string, era: string, mode: string, server: string, deps: string, interactive: string,
    log: { type: "boolean" }, again: { type: "boolean" },
  };
  let given;
  try {
    given = parseArgs({ args: argv, options: known }).values;
  } catch (error) {
    usage(error.message);
  }
  const { transport, url, era, mode, server, interactive } = given;
  if (!["legacy", "auto"].includes(era)) usage("--era is legacy or auto");
  if (!["Shared", "PerSession"].includes(mode)) usage("--mode is Shared or PerSession");
  if (!["ts1", "ts2", "py1", "py2", "rmcp"].includes(server)) usage("--server is ts1, ts2, py1, py2 or rmcp");
  if (command?.length === 0) usage("--stdio wants a command");
  if (!command && !["http", "sse", "ws"].includes(transport)) usage("--transport is http, sse or ws");
  if (!command && !url) usage("--url is needed");
  if (![undefined, "works", "refused"].includes(interactive)) usage("--interactive is works or refused");
  const standard = fileURLToPath(new URL("../../../target/test-deps/matrix", import.meta.url));
  const deps = given.deps ?? process.env.MATRIX_DEPS ?? standard;
  return { ...given, command, deps, transport: command ? "stdio" : transport };
}

const o = options();
const require = createRequire(resolve(o.deps, "package.json"));
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = require("@modelcontextprotocol/sdk/client/stdio.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
const { SSEClientTransport } = require("@modelcontextprotocol/sdk/client/sse.js");
const { WebSocketClientTransport } = require("@modelcontextprotocol/sdk/client/websocket.js");
const types = require("@modelcontextprotocol/sdk/types.js");

// Node 20 has no WebSocket of its own. Each message is an event of its own turn, as in a browser: the SDK loses a
// progress notification that comes in the same turn as the answer after it.
globalThis.WebSocket = class extends require("ws") {
  constructor(url, protocols) {
    super(url, protocols, { allowSynchronousEvents: false });
  }
};

// --- the steps' frame -----------------------------------------------------------------------------------------------

let failed = false;
function emit(line) {
  failed ||= line.ok === false;
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

function exit() {
  process.stdout.write("", () => process.exit(failed ? 1 : 0));
}

setTimeout(() => {
  emit({ step: "all", ok: false, why: "not done after 60 s" });
  exit();
}, 60_000).unref();

function within(ms, what, promise) {
  return Promise.race([
    promise,
    wait(ms, undefined, { ref: false }).then(() => {
      throw new Error(`${what}: nothing within ${ms} ms`);
    }),
  ]);
}

async function step(name, work) {
  const begun = Date.now();
  try {
    emit({ step: name, ok: true, ...(await within(20_000, name, work())), ms: Date.now() - begun });
  } catch (error) {
    const why = `${error?.message ?? error}${error?.code === undefined ? "" : ` (${error.code})`}`;
    emit({ step: name, ok: false, why: why.slice(0, 500), ms: Date.now() - begun });
  }
}

function check(right, why) {
  if (!right) throw new Error(why);
}

// --- the connection -------------------------------------------------------------------------------------------------

const unique = (what) => `${what}-${randomBytes(6).toString("hex")}`;
const asked = { sample: [], elicit: [] };
const heard = { updates: 0, logs: [] };

const client = new Client(
  { name: "matrix-ts1", version: "1.0.0" },
  { capabilities: { sampling: {}, elicitation: { form: {} } } },
);
client.setRequestHandler(types.CreateMessageRequestSchema, async ({ params }) => {
  const { text } = params.messages[0].content;
  asked.sample.push(text);
  return { model: "none", role: "assistant", content: { type: "text", text: `model: ${text}` } };
});
client.setRequestHandler(types.ElicitRequestSchema, async ({ params }) => {
  asked.elicit.push(params.message);
  return { action: "accept", content: { name: `name: ${params.message}` } };
});
client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, ({ params }) => {
  if (params.uri === WATCHED) heard.updates += 1;
});
client.setNotificationHandler(types.LoggingMessageNotificationSchema, ({ params }) => {
  heard.logs.push(params.data);
});

function makeTransport() {
  if (o.command) {
    const [command, ...args] = o.command;
    return new StdioClientTransport({ command, args, env: { ...process.env } });
  }
  const kinds = { http: StreamableHTTPClientTransport, sse: SSEClientTransport, ws: WebSocketClientTransport };
  return new kinds[o.transport](new URL(o.url));
}
const transport = makeTransport();
let protocol;
const told = transport.setProtocolVersion?.bind(transport);
transport.setProtocolVersion = (version) => {
  protocol = version;
  told?.(version);
};

const textOf = ({ content = [] }) => content.map(({ text }) => text).join("\n");
const callTool = (name, args, more) => client.callTool({ name, arguments: args }, undefined, { timeout, ...more });

// The text of a tool's answer; throws when the tool failed.
async function answer(name, args, more) {
  const result = await callTool(name, args, more);
  check(!result.isError, `${name} says: ${textOf(result).slice(0, 300)}`);
  return textOf(result);
}

async function until(ms, what, holds) {
  const end = Date.now() + ms;
  while (!(await holds())) {
    check(Date.now() < end, `${what}: not within ${ms} ms`);
    await wait(50);
  }
}

// --- the steps ------------------------------------------------------------------------------------------------------

async function connect() {
  await client.connect(transport, { timeout });
  const { name } = client.getServerVersion();
  check(name === o.server, `this is ${name}, not ${o.server}`);
  return { protocol, era: "legacy", name };
}

async function list() {
  const { tools } = await client.listTools(undefined, { timeout });
  const names = tools.map(({ name }) => name).sort();
  check(TOOLS.every((name) => names.includes(name)), `the tools are ${names.join(" ")}`);
}

async function call() {
  const echo = async (text) => {
    const got = await answer("echo", { text });
    check(got === text, `not its own answer: ${got.length} characters, ${got.slice(0, 80)}`);
  };
  for (let n = 0; n < 5; n += 1) await echo(unique(`one by one ${n}`));
  await Promise.all(Array.from({ length: 5 }, (_, n) => echo(unique(`at once ${n}`))));
  // 200 kB with characters of one to four bytes, and some that line readers and JSON writers stumble over.
  const piece = `${unique("large")} äß€中🙂\u2028\u2029\u0085\t\r\n"\\/`;
  await echo(piece.repeat(Math.ceil(200_000 / Buffer.byteLength(piece))));
}

async function progress() {
  const seen = [];
  const onprogress = ({ progress: value, total }) => seen.push(`${value}/${total}`);
  const text = await answer("progress", { steps: 5, ms: 80 }, { onprogress });
  check(text === "done", `the answer is ${text}`);
  check(seen.join(" ") === "1/5 2/5 3/5 4/5 5/5", `the progress was: ${seen.join(" ")}`);
}

async function cancel() {
  const key = unique("cancelled");
  const stop = new AbortController();
  const reason = "the user changed his mind";
  const running = callTool("slow", { ms: 30_000, key }, { signal: stop.signal }).then(
    (result) => `an answer: ${textOf(result)}`,
    (error) => (String(error?.message ?? error).includes(reason) ? undefined : `the error ${error?.message ?? error}`),
  );
  await wait(200);
  check((await answer("was_cancelled", { key })) === "no", "cancelled before it was");
  stop.abort(reason);
  const instead = await within(5_000, "the cancelled call", running);
  check(instead === undefined, `the cancelled call ended with ${instead}`);
  await until(5_000, "was_cancelled", async () => (await answer("was_cancelled", { key })) === "yes");
}

async function subscribe() {
  await client.subscribeResource({ uri: WATCHED }, { timeout });
  const before = heard.updates;
  const touched = await answer("touch", {});
  await until(5_000, `the update (touch said: ${touched})`, () => heard.updates > before);
  await client.unsubscribeResource({ uri: WATCHED }, { timeout });
  const after = heard.updates;
  await answer("touch", {});
  await wait(300);
  check(heard.updates === after, "an update after unsubscribing");
}

const refused = o.interactive ? o.interactive === "refused" : o.mode === "Shared";

// One of the two tools that ask back; `expected` makes the right answer out of the question.
async function interactive(tool, parameter, expected) {
  const question = unique(tool);
  const begun = Date.now();
  let result;
  try {
    result = await callTool(tool, { [parameter]: question });
  } catch (error) {
    if (!refused || Date.now() - begun > timeout - 500) throw error;
    check(!asked[tool].includes(question), "refused, and yet the client was asked");
    return { refused: String(error.message).slice(0, 200) };
  }
  if (refused) {
    check(result.isError, "it works, where it was to be refused");
    check(!asked[tool].includes(question), "refused, and yet the client was asked");
    return { refused: textOf(result).slice(0, 200) };
  }
  check(!result.isError, `the tool says: ${textOf(result).slice(0, 300)}`);
  check(textOf(result) === expected(question), `the answer is ${textOf(result)}`);
  check(asked[tool].length === 1 && asked[tool][0] === question, `the client was asked: ${asked[tool].join(", ")}`);
}

async function log() {
  await client.setLoggingLevel("info", { timeout });
  const text = unique("log");
  await answer("log", { text });
  await until(5_000, "the log message", () => heard.logs.includes(text));
}

// What the client does once nobody it knew is there any more, and another in its place.
async function again() {
  emit({ step: "pause" });
  await once(process.stdin, "data");
  process.stdin.destroy();
  const text = unique("again");
  let why;
  for (let tries = 1; tries <= 5; tries += 1) {
    try {
      check((await answer("echo", { text }, { timeout: 3_000 })) === text, "not its own answer");
      return { tries };
    } catch (error) {
      why = error;
      // What opens again by itself takes its time.
      await wait(1_500);
    }
  }
  throw why;
}

async function close() {
  if (o.transport === "http") await transport.terminateSession();
  await client.close();
}

await step("connect", connect);
if (!failed && o.again) {
  await step("list", list);
  await step("again", again);
} else if (!failed) {
  await step("list", list);
  await step("call", call);
  await step("progress", progress);
  await step("cancel", cancel);
  await step("subscribe", subscribe);
  await step("sample", () => interactive("sample", "prompt", (prompt) => `model: ${prompt}`));
  await step("elicit", () => interactive("elicit", "message", (message) => `accept name: ${message}`));
  if (o.log) await step("log", log);
  await step("close", close);
}
exit();
