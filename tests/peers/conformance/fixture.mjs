// The MCP server that the official conformance suite wants to find behind mcpdaemon: what its scenarios call and read,
// as one process on stdio, made with the official TypeScript SDK. Node 20 runs it.
//
//     node fixture.mjs        (CONFORMANCE_DEPS: where the packages are; target/test-deps/conformance if not set)
//
// It speaks both eras, whichever the first message opens: `initialize` for one session, or 2026-07-28 for any number
// of clients at once. Hence nothing about a request is kept between requests: what a tool must know when it is called
// again with the answers is in `requestState`, signed with a key made at the start. The tools that ask the client
// something are written once; a client of before 2026-07-28 is asked by the SDK, which then calls the tool again.
//
// Names, texts and shapes are those that the suite prescribes. The first tool of the list must take no arguments, since
// the suite calls whatever is first, and no list may ever change, since several runs share this process. The tools of
// the tasks extension are missing: the SDK does not serve that extension, and its scenarios are not scored.

import { randomBytes } from "node:crypto";
import { createRequire } from "node:module";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

// The packages are where tests/install put them, not beside this file.
const standard = fileURLToPath(new URL("../../../target/test-deps/conformance", import.meta.url));
const require = createRequire(path.resolve(process.env.CONFORMANCE_DEPS || standard, "package.json"));
const {
  CLIENT_CAPABILITIES_META_KEY, McpServer, ResourceTemplate, acceptedContent, completable, createRequestStateCodec,
  fromJsonSchema, inputRequired, inputResponse,
} = require("@modelcontextprotocol/server");
const { serveStdio } = require("@modelcontextprotocol/server/stdio");
const { z } = require("zod");

// How long test_reconnection takes. Over stdio a server cannot ask for the stream of its call to be closed meanwhile;
// whoever wants to test that closes it in this time.
const RECONNECTION_MS = Number(process.env.CONFORMANCE_RECONNECTION_MS || 500);

// One red pixel, and eight samples of silence.
const PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
const WAV = "UklGRiwAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQgAAACAgICAgICAgA==";

const states = createRequestStateCodec({ key: randomBytes(32), bind: (ctx) => ctx.mcpReq.method });

// --- content --------------------------------------------------------------------------------------------------------

const text = (value) => ({ type: "text", text: value });
const image = { type: "image", data: PNG, mimeType: "image/png" };
const audio = { type: "audio", data: WAV, mimeType: "audio/wav" };
const embedded = (uri, mimeType, value) => ({ type: "resource", resource: { uri, mimeType, text: value } });

const result = (...content) => ({ content });
const says = (value) => result(text(value));
const userMessages = (...content) => ({ messages: content.map((one) => ({ role: "user", content: one })) });

// --- schemas --------------------------------------------------------------------------------------------------------

// An object whose properties are all required.
const object = (properties) => ({ type: "object", properties, required: Object.keys(properties) });

const NAME = object({ name: { type: "string" } });
const COLOR = object({ color: { type: "string" } });
const CONFIRMATION = object({ ok: { type: "boolean" } });
const CONTEXT = object({ context: { type: "string" } });
const USER = object({
  username: { type: "string", description: "User's response" },
  email: { type: "string", description: "User's email address" },
});

// SEP-1034: a default for each primitive type.
const DEFAULTS = {
  type: "object",
  properties: {
    name: { type: "string", description: "Name", default: "John Doe" },
    age: { type: "integer", description: "Age", default: 30 },
    score: { type: "number", description: "Score", default: 95.5 },
    status: { type: "string", description: "Status", enum: ["active", "inactive", "pending"], default: "active" },
    verified: { type: "boolean", description: "Verified", default: true },
  },
  required: [],
};

// SEP-1330: the five ways to offer a choice.
const titled = (noun) =>
  ["First", "Second", "Third"].map((nth, i) => ({ const: `value${i + 1}`, title: `${nth} ${noun}` }));
const OPTIONS = ["option1", "option2", "option3"];
const ENUMS = {
  type: "object",
  properties: {
    untitledSingle: { type: "string", enum: OPTIONS },
    titledSingle: { type: "string", oneOf: titled("Option") },
    legacyEnum: {
      type: "string",
      enum: ["opt1", "opt2", "opt3"],
      enumNames: ["Option One", "Option Two", "Option Three"],
    },
    untitledMulti: { type: "array", items: { type: "string", enum: OPTIONS } },
    titledMulti: { type: "array", items: { anyOf: titled("Choice") } },
  },
  required: [],
};

// SEP-1613, SEP-2106: keywords that must come through unchanged.
const JSON_SCHEMA_2020_12 = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  $defs: {
    address: {
      $anchor: "addressDef",
      type: "object",
      properties: { street: { type: "string" }, city: { type: "string" } },
    },
  },
  properties: {
    name: { type: "string" },
    address: { $ref: "#/$defs/address" },
    contactMethod: { type: "string", enum: ["phone", "email"] },
    phone: { type: "string" },
    email: { type: "string" },
  },
  allOf: [{ anyOf: [{ required: ["phone"] }, { required: ["email"] }] }],
  if: { properties: { contactMethod: { const: "phone" } }, required: ["contactMethod"] },
  then: { required: ["phone"] },
  else: { required: ["email"] },
  additionalProperties: false,
};

// SEP-2243: arguments that a client repeats in HTTP headers. The suite takes the first that is a string.
const MIRRORED = {
  type: "object",
  properties: {
    region: { type: "string", description: "Mirrored as a string", "x-mcp-header": "Region" },
    limit: { type: "integer", description: "Mirrored as a number", "x-mcp-header": "Limit" },
    dry_run: { type: "boolean", description: "Mirrored as true or false", "x-mcp-header": "Dry-Run" },
    note: { type: "string", description: "Not mirrored" },
  },
};

// --- questions to the client, and its answers -----------------------------------------------------------------------

const elicitation = (message, requestedSchema) => inputRequired.elicit({ message, requestedSchema });
const sampling = (prompt, maxTokens) =>
  inputRequired.createMessage({ messages: [{ role: "user", content: text(prompt) }], maxTokens });
const roots = () => inputRequired.listRoots();

const ask = (inputRequests) => inputRequired({ inputRequests });
const askWithState = async (inputRequests, state, ctx) =>
  inputRequired({ inputRequests, requestState: await states.mint(state, ctx) });

// Each is undefined where there is no such answer, or none that fits the question.
const answer = (ctx, key, kind) => {
  const view = inputResponse(ctx.mcpReq.inputResponses, key);
  return view.kind === kind ? view : undefined;
};
const filledIn = (ctx, key, schema) => acceptedContent(ctx.mcpReq.inputResponses, key, fromJsonSchema(schema));
const sampled = (ctx, key) => {
  const { content } = answer(ctx, key, "sampling")?.result ?? {};
  return content && [content].flat().map((one) => one.text ?? `[${one.type}]`).join("");
};
const listed = (ctx, key) => answer(ctx, key, "roots")?.roots.map(({ uri }) => uri).join(", ");

// A state is good for the tool alone that gave it out.
const stateOf = (ctx, tool) => {
  const state = ctx.mcpReq.requestState();
  return state?.tool === tool ? state : undefined;
};

// What the client says it can do: with each request since 2026-07-28, before that once.
const capabilitiesOf = (ctx, server) =>
  ctx.mcpReq.envelope?.[CLIENT_CAPABILITIES_META_KEY] ?? server.server.getClientCapabilities() ?? {};

// --- tools ----------------------------------------------------------------------------------------------------------

// `tool` is registerTool of one server: (name, description, arguments or undefined, handler).

function plainTools(tool) {
  tool("test_simple_text", "Answers with text", undefined, () => says("This is a simple text response for testing."));
  tool("test_image_content", "Answers with an image", undefined, () => result(image));
  tool("test_audio_content", "Answers with audio", undefined, () => result(audio));
  tool("test_embedded_resource", "Answers with a resource", undefined, () =>
    result(embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")));
  tool("test_multiple_content_types", "Answers with text, an image and a resource", undefined, () =>
    result(
      text("Multiple content types test:"),
      image,
      embedded("test://mixed-content-resource", "application/json", JSON.stringify({ test: "data", value: 123 })),
    ));
  tool("test_error_handling", "Always fails", undefined, () => {
    throw new Error("This tool intentionally returns an error for testing");
  });
  tool("json_schema_2020_12_tool", "Tool with JSON Schema 2020-12 features", JSON_SCHEMA_2020_12, (args) =>
    says(`Called with ${JSON.stringify(args)}`));
  tool("test_x_mcp_header", "Has arguments that are repeated in HTTP headers", MIRRORED, (args) =>
    says(`Called with ${JSON.stringify(args)}`));
}

function slowTools(tool) {
  const pause = (ctx, ms = 50) => sleep(ms, undefined, { signal: ctx.mcpReq.signal });
  const logged = async (ctx) => {
    await ctx.mcpReq.log("info", "Tool execution started");
    await pause(ctx);
    await ctx.mcpReq.log("info", "Tool processing data");
    await pause(ctx);
    await ctx.mcpReq.log("info", "Tool execution completed");
    return says("Tool with logging executed successfully");
  };
  tool("test_tool_with_logging", "Logs three times", undefined, logged);
  tool("test_logging_tool", "Logs three times, if the request asks for logs", undefined, logged);
  tool("test_tool_with_progress", "Reports progress three times", undefined, async (ctx) => {
    const { progressToken } = ctx.mcpReq._meta ?? {};
    for (const progress of [0, 50, 100]) {
      if (progress > 0) await pause(ctx);
      if (progressToken === undefined) continue;
      await ctx.mcpReq.notify({ method: "notifications/progress", params: { progressToken, progress, total: 100 } });
    }
    return says("Tool with progress executed successfully");
  });
  tool("test_reconnection", "Takes a while, in which its stream may be closed and resumed", undefined, async (ctx) => {
    await pause(ctx, RECONNECTION_MS);
    return says("Reconnection test completed");
  });
}

function triggerTools(tool, server) {
  tool("test_trigger_tool_change", "Sends notifications/tools/list_changed", undefined, () => {
    server.sendToolListChanged();
    return says("Tool list change announced");
  });
  tool("test_trigger_prompt_change", "Sends notifications/prompts/list_changed", undefined, () => {
    server.sendPromptListChanged();
    return says("Prompt list change announced");
  });
}

// The scenarios of before 2026-07-28.
function askingTools(tool) {
  const elicited = (name, description, schema, message) =>
    tool(name, description, undefined, (ctx) => {
      const answered = answer(ctx, "form", "elicit");
      if (!answered) return ask({ form: elicitation(message, schema) });
      const { action, content = {} } = answered;
      return says(`Elicitation completed: action=${action}, content=${JSON.stringify(content)}`);
    });

  tool("test_sampling", "Has the client's model answer", object({ prompt: { type: "string" } }), ({ prompt }, ctx) => {
    const response = sampled(ctx, "response");
    return response === undefined ? ask({ response: sampling(prompt, 100) }) : says(`LLM response: ${response}`);
  });
  tool("test_elicitation", "Asks the user", object({ message: { type: "string" } }), ({ message }, ctx) => {
    const answered = answer(ctx, "user", "elicit");
    if (!answered) return ask({ user: elicitation(message, USER) });
    const { action, content = {} } = answered;
    return says(`User response: action: ${action}, content: ${JSON.stringify(content)}`);
  });
  elicited("test_elicitation_sep1034_defaults", "Asks with defaults", DEFAULTS, "Please check these values");
  elicited("test_elicitation_sep1330_enums", "Asks with choices", ENUMS, "Please choose");
}

// The scenarios of 2026-07-28.
function inputRequiredTools(tool, server) {
  tool("test_missing_capability", "Needs a client that can sample", undefined, (ctx) => {
    const response = sampled(ctx, "needed");
    return response === undefined ? ask({ needed: sampling("Say anything", 10) }) : says(`Sampled: ${response}`);
  });
  tool("test_streaming_elicitation", "Asks the user", undefined, (ctx) => {
    const given = filledIn(ctx, "confirm", CONFIRMATION);
    return given ? says(`Confirmed: ${given.ok}`) : ask({ confirm: elicitation("Please confirm", CONFIRMATION) });
  });
  tool("test_input_required_result_elicitation", "Asks for a name", undefined, (ctx) => {
    const given = filledIn(ctx, "user_name", NAME);
    return given ? says(`Hello, ${given.name}!`) : ask({ user_name: elicitation("What is your name?", NAME) });
  });
  tool("test_input_required_result_sampling", "Has the client's model answer", undefined, (ctx) => {
    const response = sampled(ctx, "capital_question");
    if (response !== undefined) return says(response);
    return ask({ capital_question: sampling("What is the capital of France?", 100) });
  });
  tool("test_input_required_result_list_roots", "Asks for the roots", undefined, (ctx) => {
    const uris = listed(ctx, "client_roots");
    return uris === undefined ? ask({ client_roots: roots() }) : says(`Roots: ${uris}`);
  });
  tool("test_input_required_result_capabilities", "Asks only what the client can answer", undefined, (ctx) => {
    const can = capabilitiesOf(ctx, server);
    const questions = {
      ...(can.elicitation && { user_name: elicitation("What is your name?", NAME) }),
      ...(can.sampling && { greeting: sampling("Generate a greeting", 50) }),
      ...(can.roots && { client_roots: roots() }),
    };
    const answers = Object.keys(ctx.mcpReq.inputResponses ?? {}).filter((key) => key in questions);
    if (Object.keys(questions).length > answers.length) return ask(questions);
    return says(`Answered: ${answers.join(", ") || "nothing, the client can answer nothing"}`);
  });
}

// Those that also keep a state.
function statefulTools(tool) {
  for (const name of ["test_input_required_result_request_state", "test_input_required_result_tampered_state"]) {
    tool(name, "Asks for a confirmation, with a signed state", undefined, (ctx) => {
      const given = stateOf(ctx, name) && filledIn(ctx, "confirm", CONFIRMATION);
      if (given) return says(`state-ok, confirmed: ${given.ok}`);
      return askWithState({ confirm: elicitation("Please confirm", CONFIRMATION) }, { tool: name }, ctx);
    });
  }

  const several = "test_input_required_result_multiple_inputs";
  tool(several, "Asks three things at once", undefined, (ctx) => {
    const given = stateOf(ctx, several) && filledIn(ctx, "user_name", NAME);
    const greeting = sampled(ctx, "greeting");
    const uris = listed(ctx, "client_roots");
    if (given && greeting !== undefined && uris !== undefined) return says(`${greeting} ${given.name}, roots: ${uris}`);
    const questions = {
      user_name: elicitation("What is your name?", NAME),
      greeting: sampling("Generate a greeting", 50),
      client_roots: roots(),
    };
    return askWithState(questions, { tool: several }, ctx);
  });

  const rounds = "test_input_required_result_multi_round";
  tool(rounds, "Asks two things one after the other", undefined, (ctx) => {
    const state = stateOf(ctx, rounds);
    const name = state?.name ?? (state && filledIn(ctx, "step1", NAME)?.name);
    if (name === undefined) {
      return askWithState({ step1: elicitation("Step 1: What is your name?", NAME) }, { tool: rounds }, ctx);
    }
    const color = state.name !== undefined && filledIn(ctx, "step2", COLOR);
    if (color) return says(`${name} likes ${color.color}`);
    const step2 = elicitation("Step 2: What is your favorite color?", COLOR);
    return askWithState({ step2 }, { tool: rounds, name }, ctx);
  });
}

// --- prompts --------------------------------------------------------------------------------------------------------

function prompts(server) {
  const starting = (values) => (typed) => values.filter((value) => value.startsWith(typed));
  const argument = (description) => completable(z.string().describe(description), starting(["paris", "park", "party"]));
  const prompt = (name, description, argsSchema, handler) =>
    server.registerPrompt(name, { description, argsSchema: argsSchema && z.object(argsSchema) }, handler);

  prompt("test_simple_prompt", "A prompt without arguments", undefined, () =>
    userMessages(text("This is a simple prompt for testing.")));
  prompt(
    "test_prompt_with_arguments", "A prompt with two arguments",
    { arg1: argument("First test argument"), arg2: argument("Second test argument") },
    ({ arg1, arg2 }) => userMessages(text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`)),
  );
  prompt(
    "test_prompt_with_embedded_resource", "A prompt with a resource",
    { resourceUri: z.string().describe("URI of the resource to embed") },
    ({ resourceUri }) => userMessages(
      embedded(resourceUri, "text/plain", "Embedded resource content for testing."),
      text("Please process the embedded resource above."),
    ),
  );
  prompt("test_prompt_with_image", "A prompt with an image", undefined, () =>
    userMessages(image, text("Please analyze the image above.")));
  prompt("test_input_required_result_prompt", "A prompt that asks the user", undefined, (ctx) => {
    const given = filledIn(ctx, "user_context", CONTEXT);
    if (given) return userMessages(text(`Prompt with context: ${given.context}`));
    return ask({ user_context: elicitation("What context should the prompt use?", CONTEXT) });
  });
}

// --- resources ------------------------------------------------------------------------------------------------------

function resources(server) {
  const fixed = (uri, description, mimeType, content) =>
    server.registerResource(uri.slice("test://".length), uri, { description, mimeType }, () =>
      ({ contents: [{ uri, mimeType, ...content }] }));
  fixed("test://static-text", "Text", "text/plain", { text: "This is the content of the static text resource." });
  fixed("test://static-binary", "An image", "image/png", { blob: PNG });
  fixed("test://watched-resource", "To be subscribed to", "text/plain", { text: "Watched resource content." });

  const template = new ResourceTemplate("test://template/{id}/data", {
    list: undefined,
    complete: { id: (typed) => ["1", "12", "123"].filter((id) => id.startsWith(typed)) },
  });
  const mimeType = "application/json";
  server.registerResource("template", template, { description: "Data of an id", mimeType }, ({ href: uri }, { id }) => {
    const data = JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` });
    return { contents: [{ uri, mimeType, text: data }] };
  });

  // Before 2026-07-28 a client subscribes by these; afterwards the SDK does it with subscriptions/listen. No resource
  // ever changes, so there is nothing to remember.
  server.server.setRequestHandler("resources/subscribe", () => ({}));
  server.server.setRequestHandler("resources/unsubscribe", () => ({}));
}

// --- the server -----------------------------------------------------------------------------------------------------

function createServer() {
  const server = new McpServer(
    { name: "mcpdaemon-conformance-fixture", version: "1.0.0" },
    {
      capabilities: {
        tools: { listChanged: true },
        prompts: { listChanged: true },
        resources: { listChanged: true, subscribe: true },
        logging: {},
      },
      requestState: { verify: states.verify },
    },
  );
  const tool = (name, description, schema, handler) =>
    server.registerTool(name, { description, inputSchema: schema && fromJsonSchema(schema) }, handler);
  plainTools(tool);
  slowTools(tool);
  triggerTools(tool, server);
  askingTools(tool);
  inputRequiredTools(tool, server);
  statefulTools(tool);
  prompts(server);
  resources(server);
  return server;
}

serveStdio(createServer, { onerror: (error) => process.stderr.write(`fixture.mjs: ${error.message}\n`) });
