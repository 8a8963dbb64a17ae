// A real MCP client for the tests: the official TypeScript SDK (1.x) over Streamable HTTP or WebSocket.
//
//     node client.mjs URL [--transport http|ws] [--label X] [--calls N] [--in-flight K] [--timeout SECONDS]
//                         [--tool NAME [--args JSON] [--expect TEXT]]...
//     node client.mjs URL ... --until-stdin-closes [--pause MS]
//     node client.mjs URL ... --slow [--duration SECONDS] [--steps N]
//
// Prints one line of JSON per result on stdout. Exits 0 when every answer was right and the connection closed
// cleanly, 1 otherwise, 2 on wrong usage; what was wrong is on stderr. client.py does the same with the Python SDK.
//
// Every call carries a value that no other call of any client has, and its answer must show that value again, so
// that an answer which went astray is noticed. Without --tool the client uses what it finds first of these: `echo`
// (server-everything), `convert_time` (server-time), `write_file` (server-filesystem), `create_entities`
// (server-memory), `daa_agent_create` (ruv-swarm). With --tool, @UNIQUE@ in the arguments stands for the value; the
// answer must contain --expect (where @UNIQUE@ may stand too), or else the value if the arguments have it. Several
// tools take turns.
//
// Plain: N calls, K at a time, then one line, the summary:
//     {"label","transport","protocol","server","tools":[names],"ok":N,"failures":0,"first_failures":[texts],
//      "list_changed":{"tools":1,...},"notifications":{method:count},"transport_errors":[texts],"closed":how}
//
// --until-stdin-closes: calls without end. {"event":"ready"} comes when the first call has been answered; a line
// {"event":"list_changed","of":"tools","count":1,"tools":[names]} for each such notification; and for each line read
// from stdin, {"event":"mark","line":...,"ok":...,"failures":...} once a call begun after that line was read has been
// answered, so that a test need not guess when. When stdin closes, the summary with "event":"end".
//
// --slow: one trigger-long-running-operation. {"event":"calling"}, then {"event":"progress","progress":1,"total":5} as
// they come, then {"event":"result","text",...} or {"event":"error","code","message",...}, then the summary with
// "event":"end"; here the daemon may be gone before the session is closed, so "closed" is told and not counted.

import { randomBytes } from "node:crypto";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

// The SDK is where tests/install put it, not beside this file.
const deps = new URL("../../target/test-deps/package.json", import.meta.url);
const require = createRequire(fileURLToPath(deps));
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
const { WebSocketClientTransport } = require("@modelcontextprotocol/sdk/client/websocket.js");
const types = require("@modelcontextprotocol/sdk/types.js");

// Node 20 has no WebSocket of its own. The last one made is kept, to see how it closes. As in a browser, each message
// is an event of its own turn: the SDK loses a progress notification that comes in the same turn as the answer after
// it (over stdio it always does, where both are in one read).
let socket;
globalThis.WebSocket = class extends require("ws") {
  constructor(url, protocols) {
    super(url, protocols, { allowSynchronousEvents: false });
    socket = this;
    this.addEventListener("close", ({ code, wasClean }) => (this.closed = { code, wasClean }));
  }
};

const MANY_FAILURES = 20;

function usage(why) {
  process.stderr.write(`client.mjs: ${why}\nusage: client.mjs URL [options]; see the head of the file\n`);
  process.exit(2);
}

function options() {
  const string = { type: "string" };
  const wanted = {
    transport: string, label: string, calls: string, "in-flight": string, timeout: string, pause: string,
    tool: { type: "string", multiple: true }, args: { type: "string", multiple: true },
    expect: { type: "string", multiple: true }, "until-stdin-closes": { type: "boolean" },
    slow: { type: "boolean" }, duration: string, steps: string,
  };
  let parsed;
  try {
    parsed = parseArgs({ options: wanted, allowPositionals: true, tokens: true });
  } catch (error) {
    usage(error.message);
  }
  const { values, positionals, tokens } = parsed;
  if (positionals.length !== 1) usage("exactly one URL is needed");
  // --args and --expect belong to the --tool before them.
  const tools = [];
  for (const token of tokens) {
    if (token.kind !== "option") continue;
    if (token.name === "tool") tools.push({ name: token.value, args: "{}" });
    else if (token.name === "args" || token.name === "expect") {
      if (tools.length === 0) usage(`--${token.name} before any --tool`);
      tools.at(-1)[token.name] = token.value;
    }
  }
  for (const { args } of tools) {
    try {
      JSON.parse(args);
    } catch (error) {
      usage(`--args ${args}: ${error.message}`);
    }
  }
  const number = (name, standard) => {
    const value = Number(values[name] ?? standard);
    if (!Number.isFinite(value) || value < 0) usage(`--${name} must be a number`);
    return value;
  };
  const url = new URL(positionals[0]);
  const transport = values.transport ?? (url.protocol.startsWith("ws") ? "ws" : "http");
  if (transport !== "http" && transport !== "ws") usage("--transport is http or ws");
  return {
    url, transport, tools,
    label: values.label ?? "client",
    calls: number("calls", 10),
    inFlight: Math.max(1, number("in-flight", 1)),
    timeout: number("timeout", 60) * 1000,
    pause: number("pause", 0),
    untilStdinCloses: values["until-stdin-closes"] ?? false,
    slow: values.slow ?? false,
    duration: number("duration", 5),
    steps: number("steps", 5),
  };
}

const o = options();
const emit = (line) => process.stdout.write(`${JSON.stringify({ label: o.label, ...line })}\n`);

// What the connection does besides answering.
const seen = { notifications: {}, listChanged: {}, transportErrors: [], lost: false, closing: false };
const failures = { count: 0, inARow: 0, first: [] };
let ok = 0;

function fail(what) {
  failures.count += 1;
  failures.inARow += 1;
  if (failures.first.length < 5) failures.first.push(what);
}

// --- what is called -------------------------------------------------------------------------------------------------

// A minute of the day and a place, from the random part of the value: the nearest to unique that a clock allows.
const ZONES = [
  "Asia/Tokyo", "Asia/Kolkata", "Europe/London", "Europe/Athens", "America/New_York", "America/Lima", "Africa/Lagos",
  "Africa/Nairobi", "Australia/Darwin", "Pacific/Auckland", "Pacific/Honolulu", "Asia/Kathmandu", "Atlantic/Azores",
];
function moment(unique) {
  const random = parseInt(unique.slice(-12), 16);
  const minute = random % 1440;
  const time = [Math.floor(minute / 60), minute % 60].map((part) => String(part).padStart(2, "0")).join(":");
  return { source_timezone: "Etc/UTC", time, target_timezone: ZONES[random % ZONES.length] };
}

// Each entry: the tool, its arguments, and whether an answer is the one for this call.
const KNOWN = [
  { tool: "echo", args: (u) => ({ message: u }), right: (text, u) => text === `Echo: ${u}` },
  {
    tool: "convert_time",
    args: moment,
    right: (text, u) => {
      const { source, target } = JSON.parse(text);
      const { time, target_timezone } = moment(u);
      return source.datetime.includes(`T${time}:00`) && target.timezone === target_timezone;
    },
  },
  {
    tool: "write_file",
    args: (u) => ({ path: `${o.directory}/${u}.txt`, content: u }),
    right: (text, u) => text === `Successfully wrote to ${o.directory}/${u}.txt`,
  },
  {
    tool: "create_entities",
    args: (u) => ({ entities: [{ name: u, entityType: "test", observations: [u] }] }),
    right: (text, u) => text.includes(`"name": "${u}"`),
  },
  { tool: "daa_agent_create", args: (u) => ({ id: u }), right: (text, u) => text.includes(`"${u}"`) },
];

// The name as this endpoint shows it: on the bridge a server's name stands before it.
const shownAs = (names, tool) => names.find((name) => name === tool || name.endsWith(`__${tool}`));

async function plan(client, names) {
  if (o.tools.length > 0) {
    return o.tools.map(({ name, args, expect }) => {
      const expected = expect ?? (args.includes("@UNIQUE@") ? "@UNIQUE@" : "");
      return {
        tool: name,
        args: (u) => JSON.parse(args.replaceAll("@UNIQUE@", u)),
        right: (text, u) => text.includes(expected.replaceAll("@UNIQUE@", u)),
      };
    });
  }
  const known = KNOWN.find(({ tool }) => shownAs(names, tool));
  if (!known) throw new Error(`none of the tools is known here, name one with --tool: ${names.join(" ")}`);
  if (known.tool === "write_file") {
    const answer = await client.callTool({ name: shownAs(names, "list_allowed_directories"), arguments: {} });
    o.directory = textOf(answer).split("\n").at(-1);
  }
  return [{ ...known, tool: shownAs(names, known.tool) }];
}

function textOf({ content = [] }) {
  return content.filter(({ type }) => type === "text").map(({ text }) => text).join("\n");
}

let calls = 0;
async function call(client, plans) {
  const n = calls++;
  const { tool, args, right } = plans[n % plans.length];
  const unique = `${o.label}-${n}-${randomBytes(6).toString("hex")}`;
  const what = `call ${n} (${tool}, ${unique})`;
  try {
    const asked = { name: tool, arguments: args(unique) };
    const result = await client.callTool(asked, undefined, { timeout: o.timeout });
    const text = textOf(result);
    if (result.isError) return fail(`${what}: the tool says: ${text.slice(0, 300)}`);
    if (!right(text, unique)) return fail(`${what}: not its own answer: ${text.slice(0, 300)}`);
    ok += 1;
    failures.inARow = 0;
  } catch (error) {
    fail(`${what}: ${error.message} ${error.code ?? ""}`);
  }
}

async function toolNames(client) {
  const names = [];
  let cursor;
  do {
    const page = await client.listTools({ cursor }, { timeout: o.timeout });
    names.push(...page.tools.map(({ name }) => name));
    cursor = page.nextCursor;
  } while (cursor);
  return names;
}

// --- the connection -------------------------------------------------------------------------------------------------

function countNotifications(client) {
  const count = (method) => (seen.notifications[method] = (seen.notifications[method] ?? 0) + 1);
  const kinds = {
    tools: types.ToolListChangedNotificationSchema,
    prompts: types.PromptListChangedNotificationSchema,
    resources: types.ResourceListChangedNotificationSchema,
  };
  for (const [of, schema] of Object.entries(kinds)) {
    client.setNotificationHandler(schema, async ({ method }) => {
      count(method);
      const number = (seen.listChanged[of] = (seen.listChanged[of] ?? 0) + 1);
      if (!o.untilStdinCloses || seen.closing) return;
      // As a real client would, it asks for the new list.
      try {
        emit({ event: "list_changed", of, count: number, ...(of === "tools" && { tools: await toolNames(client) }) });
      } catch (error) {
        if (!seen.closing) fail(`tools/list after list_changed: ${error.message}`);
      }
    });
  }
  client.fallbackNotificationHandler = async ({ method }) => void count(method);
}

async function connect() {
  const Transport = o.transport === "ws" ? WebSocketClientTransport : StreamableHTTPClientTransport;
  const transport = new Transport(o.url);
  const client = new Client({ name: `tests-${o.label}`, version: "1.0.0" }, { capabilities: {} });
  countNotifications(client);
  client.onerror = (error) => seen.closing || seen.transportErrors.push(String(error.message ?? error));
  client.onclose = () => (seen.lost ||= !seen.closing);
  // The transports do not agree on how a protocol version is told; this hears it in both.
  let protocol;
  const heard = transport.setProtocolVersion?.bind(transport);
  transport.setProtocolVersion = (version) => {
    protocol = version;
    heard?.(version);
  };
  await client.connect(transport, { timeout: o.timeout });
  return { client, transport, protocol: () => protocol };
}

// Ends the session and the connection; throws where that was not clean.
async function disconnect({ client, transport }) {
  seen.closing = true;
  if (o.transport === "http") {
    await transport.terminateSession();
    await client.close();
    return;
  }
  const over = socket.closed ? Promise.resolve() : new Promise((resolve) => socket.addEventListener("close", resolve));
  await client.close();
  await over;
  if (!socket.closed.wasClean) throw new Error(`WebSocket not closed cleanly: ${JSON.stringify(socket.closed)}`);
}

// --- the three modes ------------------------------------------------------------------------------------------------

async function workers(work) {
  await Promise.all(Array.from({ length: o.inFlight }, work));
}

async function plain({ client }, plans) {
  let begun = 0;
  await workers(async () => {
    while (begun < o.calls && !seen.lost) {
      begun += 1;
      await call(client, plans);
    }
  });
}

async function untilStdinCloses({ client }, plans) {
  let closed = false;
  let marks = [];
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => marks.push(line));
  lines.on("close", () => (closed = true));
  let ready = false;
  await workers(async () => {
    while (!closed && !seen.lost && failures.inARow < MANY_FAILURES) {
      const due = marks;
      marks = [];
      await call(client, plans);
      if (!ready && ok > 0) {
        ready = true;
        emit({ event: "ready" });
      }
      for (const line of due) emit({ event: "mark", line, ok, failures: failures.count });
      // Also lets stdin and the notifications have their turn.
      await new Promise((resolve) => setTimeout(resolve, o.pause));
    }
  });
  process.stdin.destroy();
  if (failures.inARow >= MANY_FAILURES) fail(`given up after ${MANY_FAILURES} failures in a row`);
}

async function slow({ client }, names) {
  const tool = o.tools[0]?.name ?? shownAs(names, "trigger-long-running-operation");
  const progress = [];
  emit({ event: "calling", tool });
  try {
    const asked = { name: tool, arguments: { duration: o.duration, steps: o.steps } };
    const result = await client.callTool(asked, undefined, {
      timeout: o.timeout,
      resetTimeoutOnProgress: true,
      onprogress: (p) => {
        progress.push(p.progress);
        emit({ event: "progress", progress: p.progress, total: p.total });
      },
    });
    const text = textOf(result);
    const own = !result.isError && text.includes(`Duration: ${o.duration} seconds, Steps: ${o.steps}.`);
    const inOrder = progress.length === o.steps && progress.every((value, i) => value === i + 1);
    if (!own) fail(`not its own answer: ${text}`);
    else if (!inOrder) fail(`progress was ${progress.join()}`);
    else ok += 1;
    emit({ event: "result", text, progress: progress.length });
  } catch (error) {
    emit({ event: "error", code: error.code ?? null, message: error.message, progress: progress.length });
    fail(`${error.message} ${error.code ?? ""}`);
  }
}

async function main() {
  const connection = await connect();
  const { client } = connection;
  const tools = await toolNames(client);
  if (o.slow) await slow(connection, tools);
  else {
    const plans = await plan(client, tools);
    await (o.untilStdinCloses ? untilStdinCloses : plain)(connection, plans);
  }
  if (seen.lost) fail(`the connection was lost ${JSON.stringify(socket?.closed ?? "")}`);
  let closeError;
  try {
    await disconnect(connection);
  } catch (error) {
    closeError = `closing: ${error.message}`;
  }
  // A daemon that was told to stop may be gone when the slow call has its answer.
  if (closeError && !o.slow) fail(closeError);
  if (!o.untilStdinCloses && !o.slow) seen.transportErrors.forEach((error) => fail(`transport: ${error}`));
  const { name, version } = client.getServerVersion() ?? {};
  emit({
    ...((o.slow || o.untilStdinCloses) && { event: "end" }),
    transport: o.transport, protocol: connection.protocol(), server: `${name} ${version}`, tools, ok,
    failures: failures.count, first_failures: failures.first, list_changed: seen.listChanged,
    notifications: seen.notifications, transport_errors: seen.transportErrors.slice(0, 5),
    closed: closeError ?? (o.transport === "ws" ? `code ${socket.closed?.code}` : "ok"),
  });
  if (failures.count > 0) throw new Error(`${failures.count} failures: ${failures.first.join("; ")}`);
}

main().then(
  () => process.exit(0),
  (error) => {
    const cause = error.cause ? ` (${error.cause.message || error.cause.code || error.cause})` : "";
    process.stderr.write(`client.mjs ${o.label}: ${error.message || error.code || error}${cause}\n`);
    process.exit(1);
  },
);
