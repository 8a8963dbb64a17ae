// A server of the matrix: TypeScript SDK 1.x (@modelcontextprotocol/sdk), legacy era only; stdio, or Streamable HTTP at
// http://127.0.0.1:PORT/mcp with sessions.
//
//     node server-ts1.mjs [--deps DEPS] [--http PORT]
//
// DEPS is the folder that the install script filled (standard: $MATRIX_DEPS, else target/test-deps/matrix). All servers
// of the matrix have the same tools; every answer is one text:
//
//     echo(text)            the text
//     progress(steps, ms)   progress 1..steps, ms milliseconds after each one, then "done"
//     slow(ms, key)         waits, then "waited"; when it is cancelled, the key is remembered
//     was_cancelled(key)    "yes" or "no", for all calls of this process
//     sample(prompt)        asks the client's model; the model's text
//     elicit(message)       asks the user for a name; "ACTION NAME"
//     touch()               says that test://watched changed; "sent", or "nobody subscribed" and nothing is sent
//     log(text)             logs the text at level info; "logged"
//
// and one resource, test://watched, that can be subscribed to.

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { setTimeout as wait } from "node:timers/promises";

const given = process.argv.indexOf("--deps");
const standard = fileURLToPath(new URL("../../../target/test-deps/matrix", import.meta.url));
const deps = given > 0 ? process.argv[given + 1] : process.env.MATRIX_DEPS ?? standard;
const require = createRequire(resolve(deps, "package.json"));
const { McpServer } = require("@modelcontextprotocol/sdk/server/mcp.js");
const { StdioServerTransport } = require("@modelcontextprotocol/sdk/server/stdio.js");
const { StreamableHTTPServerTransport } = require("@modelcontextprotocol/sdk/server/streamableHttp.js");
const { SubscribeRequestSchema, UnsubscribeRequestSchema } = require("@modelcontextprotocol/sdk/types.js");
const { z } = require("zod");

const WATCHED = "test://watched";
const cancelled = new Set();

const text = (value) => ({ content: [{ type: "text", text: value }] });

function makeServer() {
  const subscribed = new Set();

  const server = new McpServer(
    { name: "ts1", version: "1.0.0" },
    { capabilities: { logging: {}, resources: { subscribe: true } } },
  );
  const tool = (name, description, inputSchema, work) => server.registerTool(name, { description, inputSchema }, work);

  tool("echo", "Gives the text back.", { text: z.string() }, async (args) => text(args.text));

  const steps = { steps: z.number().int(), ms: z.number() };
  tool("progress", "Reports progress.", steps, async (args, { _meta, sendNotification }) => {
    for (let step = 1; step <= args.steps; step += 1) {
      if (_meta?.progressToken !== undefined) {
        const params = { progressToken: _meta.progressToken, progress: step, total: args.steps };
        await sendNotification({ method: "notifications/progress", params });
      }
      await wait(args.ms);
    }
    return text("done");
  });

  tool("slow", "Waits.", { ms: z.number(), key: z.string() }, async ({ ms, key }, { signal }) => {
    try {
      await wait(ms, undefined, { signal });
    } catch (error) {
      cancelled.add(key);
      throw error;
    }
    return text("waited");
  });

  tool("was_cancelled", "Tells whether a slow call was cancelled.", { key: z.string() }, async ({ key }) =>
    text(cancelled.has(key) ? "yes" : "no"),
  );

  tool("sample", "Asks the client's model.", { prompt: z.string() }, async ({ prompt }) => {
    const messages = [{ role: "user", content: { type: "text", text: prompt } }];
    const { content } = await server.server.createMessage({ messages, maxTokens: 100 });
    return text(content.text);
  });

  tool("elicit", "Asks the user for a name.", { message: z.string() }, async ({ message }) => {
    const requestedSchema = { type: "object", properties: { name: { type: "string" } }, required: ["name"] };
    const { action, content } = await server.server.elicitInput({ message, requestedSchema });
    return text(`${action} ${content?.name ?? ""}`);
  });

  tool("touch", "Says that test://watched changed.", {}, async () => {
    if (!subscribed.has(WATCHED)) return text("nobody subscribed");
    await server.server.sendResourceUpdated({ uri: WATCHED });
    return text("sent");
  });

  tool("log", "Logs the text.", { text: z.string() }, async (args) => {
    await server.server.sendLoggingMessage({ level: "info", data: args.text });
    return text("logged");
  });

  server.registerResource("watched", WATCHED, { mimeType: "text/plain" }, async () => ({
    contents: [{ uri: WATCHED, mimeType: "text/plain", text: "watched" }],
  }));
  server.server.setRequestHandler(SubscribeRequestSchema, async ({ params }) => {
    subscribed.add(params.uri);
    return {};
  });
  server.server.setRequestHandler(UnsubscribeRequestSchema, async ({ params }) => {
    subscribed.delete(params.uri);
    return {};
  });
  return server;
}

const http = process.argv.indexOf("--http");
if (http > 0) {
  const sessions = new Map();
  const answer = async (request, response) => {
    const id = request.headers["mcp-session-id"];
    let transport = sessions.get(id);
    if (!transport) {
      if (id) return response.writeHead(404).end();
      transport = new StreamableHTTPServerTransport({
        sessionIdGenerator: randomUUID,
        onsessioninitialized: (made) => sessions.set(made, transport),
      });
      transport.onclose = () => sessions.delete(transport.sessionId);
      await makeServer().connect(transport);
    }
    await transport.handleRequest(request, response);
  };
  createServer((request, response) => void answer(request, response)).listen(Number(process.argv[http + 1]), "127.0.0.1");
} else {
  await makeServer().connect(new StdioServerTransport());
}
