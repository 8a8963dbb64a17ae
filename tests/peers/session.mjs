// The official TypeScript client (SDK 1.x) over Streamable HTTP, driven through its standard streams.
//
//     node session.mjs URL [SESSION]
//
// Each line of standard input is a JSON-RPC request or notification. `initialize` lets the client connect, and is answered by
// what it has heard of the server; with SESSION it takes that session up in place of a handshake. `session` is answered by
// the id that the client has now. All else goes through the client, errors as JSON-RPC errors.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const deps = new URL("../../target/test-deps/package.json", import.meta.url);
const require = createRequire(fileURLToPath(deps));
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
const { ResultSchema } = require("@modelcontextprotocol/sdk/types.js");

const [url, sessionId] = process.argv.slice(2);
const client = new Client({ name: "session", version: "1.0.0" }, { capabilities: {} });
const transport = new StreamableHTTPClientTransport(new URL(url), { sessionId });

async function answer(method, params) {
  if (method === "session") return { id: transport.sessionId };
  if (method !== "initialize") return client.request({ method, params }, ResultSchema.passthrough(), { timeout: 8_000 });
  await client.connect(transport);
  return { serverInfo: client.getServerVersion() };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  // The client says by itself that it is initialized.
  if (id === undefined) continue;
  let outcome;
  try {
    outcome = { result: await answer(method, params) };
  } catch (error) {
    outcome = { error: { code: -32000, message: String(error?.message ?? error) } };
  }
  process.stdout.write(`${JSON.stringify({ jsonrpc: "2.0", id, ...outcome })}\n`);
}
process.exit(0);
