// A server of the matrix: TypeScript SDK 2.x (@modelcontextprotocol/server), both eras; stdio, where the opening decides, or
// Streamable HTTP at http://127.0.0.1:PORT/mcp, with sessions for the legacy era.
//
//     node server-ts2.mjs [--deps DEPS] [--http PORT]
//
// The tools are those described at the head of server-ts1.mjs. `sample` and `elicit` answer with `input_required`;
// where the client is of the legacy era the SDK itself turns that into a request to the client. Each carries a
// requestState and insists on getting the same one back.

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { Readable } from "node:stream";
import { setTimeout as wait } from "node:timers/promises";

const given = process.argv.indexOf("--deps");
const standard = fileURLToPath(new URL("../../../target/test-deps/matrix", import.meta.url));
const deps = given > 0 ? process.argv[given + 1] : process.env.MATRIX_DEPS ?? standard;
const require = createRequire(resolve(deps, "package.json"));
const {
  McpServer,
  WebStandardStreamableHTTPServerTransport,
  createMcpHandler,
  fromJsonSchema,
  inputRequired,
  inputResponse,
  isLegacyRequest,
} = require("@modelcontextprotocol/server");
const { serveStdio } = require("@modelcontextprotocol/server/stdio");

const WATCHED = "test://watched";
const cancelled = new Set();
let handler;

const text = (value) => ({ content: [{ type: "text", text: value }] });
const string = { type: "string" };
const number = { type: "number" };
const takes = (properties) => fromJsonSchema({ type: "object", properties, required: Object.keys(properties) });

// A state that shows whether somebody on the way took it apart and put it together again.
const stateFor = (question) => `{"question": "${question}",  "ü€\\u0041" :1.0}`;

// The answer to `question` once the client has it, else undefined; throws when the state is not the one sent with it.
function answer({ mcpReq }, key, question) {
  const view = inputResponse(mcpReq.inputResponses, key);
  if (view.kind === "missing") return undefined;
  const state = mcpReq.requestState();
  if (state !== stateFor(question)) throw new Error(`requestState came back as ${state}`);
  return view;
}

function makeServer({ era }) {
  const capabilities = { logging: {}, resources: { subscribe: true } };
  const server = new McpServer({ name: "ts2", version: "1.0.0" }, { capabilities });
  const subscribed = new Set();
  const tool = (name, description, properties, work) =>
    server.registerTool(name, { description, inputSchema: takes(properties) }, work);

  tool("echo", "Gives the text back.", { text: string }, async (args) => text(args.text));

  tool("progress", "Reports progress.", { steps: { type: "integer" }, ms: number }, async (args, { mcpReq }) => {
    const progressToken = mcpReq._meta?.progressToken;
    for (let step = 1; step <= args.steps; step += 1) {
      if (progressToken !== undefined) {
        const params = { progressToken, progress: step, total: args.steps };
        await mcpReq.notify({ method: "notifications/progress", params });
      }
      await wait(args.ms);
    }
    return text("done");
  });

  tool("slow", "Waits.", { ms: number, key: string }, async ({ ms, key }, { mcpReq }) => {
    try {
      await wait(ms, undefined, { signal: mcpReq.signal });
    } catch (error) {
      cancelled.add(key);
      throw error;
    }
    return text("waited");
  });

  tool("was_cancelled", "Tells whether a slow call was cancelled.", { key: string }, async ({ key }) =>
    text(cancelled.has(key) ? "yes" : "no"),
  );

  tool("sample", "Asks the client's model.", { prompt: string }, async ({ prompt }, context) => {
    const got = answer(context, "model", prompt);
    if (got) return text(got.result.content.text);
    const messages = [{ role: "user", content: { type: "text", text: prompt } }];
    const model = inputRequired.createMessage({ messages, maxTokens: 100 });
    return inputRequired({ inputRequests: { model }, requestState: stateFor(prompt) });
  });

  tool("elicit", "Asks the user for a name.", { message: string }, async ({ message }, context) => {
    const got = answer(context, "user", message);
    if (got) return text(`${got.action} ${got.content?.name ?? ""}`);
    const requestedSchema = { type: "object", properties: { name: string }, required: ["name"] };
    const user = inputRequired.elicit({ message, requestedSchema });
    return inputRequired({ inputRequests: { user }, requestState: stateFor(message) });
  });

  // In the modern era the SDK keeps the subscriptions, and sends nothing where there is none.
  tool("touch", "Says that test://watched changed.", {}, async () => {
    if (era === "modern" && handler) {
      handler.notify.resourceUpdated(WATCHED);
      return text("sent");
    }
    if (era === "legacy" && !subscribed.has(WATCHED)) return text("nobody subscribed");
    await server.server.sendResourceUpdated({ uri: WATCHED });
    return text("sent");
  });

  tool("log", "Logs the text.", { text: string }, async (args, { mcpReq }) => {
    await mcpReq.log("info", args.text);
    return text("logged");
  });

  server.registerResource("watched", WATCHED, { mimeType: "text/plain" }, async () => ({
    contents: [{ uri: WATCHED, mimeType: "text/plain", text: "watched" }],
  }));
  server.server.setRequestHandler("resources/subscribe", async ({ params }) => {
    subscribed.add(params.uri);
    return {};
  });
  server.server.setRequestHandler("resources/unsubscribe", async ({ params }) => {
    subscribed.delete(params.uri);
    return {};
  });
  return server;
}

const onerror = (error) => process.stderr.write(`server-ts2: ${error.message}\n`);
const http = process.argv.indexOf("--http");
if (http > 0) {
  handler = createMcpHandler(makeServer, { legacy: "reject", onerror });
  const sessions = new Map();
  const legacy = async (request) => {
    const id = request.headers.get("mcp-session-id");
    let transport = sessions.get(id);
    if (!transport) {
      if (id) return new Response(null, { status: 404 });
      transport = new WebStandardStreamableHTTPServerTransport({
        sessionIdGenerator: randomUUID,
        onsessioninitialized: (made) => sessions.set(made, transport),
      });
      await makeServer({ era: "legacy" }).connect(transport);
    }
    return transport.handleRequest(request);
  };
  const answer = async (incoming, outgoing) => {
    const gone = new AbortController();
    outgoing.on("close", () => gone.abort());
    const hasBody = !["GET", "DELETE"].includes(incoming.method);
    const request = new Request(`http://${incoming.headers.host}${incoming.url}`, {
      method: incoming.method,
      headers: incoming.headers,
      body: hasBody ? Readable.toWeb(incoming) : undefined,
      duplex: "half",
      signal: gone.signal,
    });
    const response = (await isLegacyRequest(request)) ? await legacy(request) : await handler.fetch(request);
    outgoing.writeHead(response.status, Object.fromEntries(response.headers));
    outgoing.flushHeaders();
    for await (const chunk of response.body ?? []) outgoing.write(chunk);
    outgoing.end();
  };
  createServer((incoming, outgoing) => void answer(incoming, outgoing).catch(onerror)).listen(
    Number(process.argv[http + 1]),
    "127.0.0.1",
  );
} else {
  serveStdio(makeServer, { onerror });
}
