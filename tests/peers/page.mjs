// Looks at the page of an instance with a real browser, headless Chromium, and clicks what can be clicked.
//
//     node page.mjs --deps FOLDER --url URL --scratch FOLDER [--shots FOLDER]
//
// FOLDER of --deps has node_modules/ws. The instance has a server "fake" with a tool "echo", whose restart takes some
// seconds, and a server "host". At the end this program stops the instance, whose PID is in its status. It prints a line
// for each step, as JSON, and ends with status 1 if one has failed. With --shots it leaves pictures.
import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { inflateSync } from "node:zlib";

const { values: args } = parseArgs({
    options: { deps: { type: "string" }, url: { type: "string" }, scratch: { type: "string" }, shots: { type: "string" } },
});
const { WebSocket } = createRequire(join(args.deps, "x.js"))("ws");
const LONG = 30_000;

// --- a small client of the DevTools protocol -----------------------------------------------------------------------

const browser = spawn("chromium", [
    "--headless=new", "--remote-debugging-port=0", `--user-data-dir=${join(args.scratch, "profile")}`,
    ...(process.getuid() === 0 ? ["--no-sandbox"] : []), "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--hide-scrollbars", "--force-color-profile=srgb", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "about:blank",
], { stdio: ["ignore", "ignore", "pipe"] });
let complaints = "";
browser.stderr.on("data", (text) => { complaints += text; });

const wait = async (what, check) => {
    const start = Date.now();
    for (;;) {
        const found = await check();
        if (found) return found;
        if (Date.now() - start > LONG) throw new Error(`waited in vain for ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 25));
    }
};

const address = await wait("the browser", () => complaints.match(/DevTools listening on (ws:\S+)/)?.[1]);
const socket = new WebSocket(address);
await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
let number = 0;
const answers = new Map();
const listeners = [];
let page;
const send = (method, params = {}, session = page) => new Promise((resolve, reject) => {
    number += 1;
    answers.set(number, { resolve, reject, method });
    socket.send(JSON.stringify({ id: number, method, params, sessionId: session }));
});
socket.on("message", (data) => {
    const message = JSON.parse(data);
    if (message.id) {
        const { resolve, reject, method } = answers.get(message.id);
        answers.delete(message.id);
        if (message.error) reject(new Error(`${method}: ${message.error.message}`));
        else resolve(message.result);
    } else {
        listeners.forEach((listen) => listen(message));
    }
});

/** The value of an expression in the page. */
const see = async (expression) => {
    const answer = await send("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
    if (answer.exceptionDetails) throw new Error(answer.exceptionDetails.exception?.description ?? expression);
    return answer.result.value;
};
const text = () => see("document.body.innerText");
const level = (what) => wait(`"${what}" above`, async () => await see("document.querySelector('#head .badge').innerText") === what);
const says = (what) => wait(`"${what}" on the page`, async () => (await text()).includes(what));

/** Clicks with the mouse on the middle of what is on the screen. */
const click = async (selector) => {
    const at = await see(`(() => {
        const one = document.querySelector(${JSON.stringify(selector)});
        one.scrollIntoView({ block: "center" });
        const r = one.getBoundingClientRect();
        return { x: r.x + r.width / 2, y: r.y + r.height / 2 };
    })()`);
    for (const type of ["mousePressed", "mouseReleased"]) {
        await send("Input.dispatchMouseEvent", { type, ...at, button: "left", clickCount: 1 });
    }
};

// --- pictures ------------------------------------------------------------------------------------------------------

/** Width, height and the colours of a picture as the browser makes it: 8 bits, RGB or RGBA, not interlaced. */
const decode = (png) => {
    const [width, height, kind] = [png.readUInt32BE(16), png.readUInt32BE(20), png[25]];
    const size = kind === 6 ? 4 : 3;
    const parts = [];
    for (let at = 8; at < png.length; at += png.readUInt32BE(at) + 12) {
        if (png.toString("latin1", at + 4, at + 8) === "IDAT") parts.push(png.subarray(at + 8, at + 8 + png.readUInt32BE(at)));
    }
    const raw = inflateSync(Buffer.concat(parts));
    const line = width * size;
    const out = Buffer.alloc(line * height);
    for (let y = 0; y < height; y += 1) {
        const filter = raw[y * (line + 1)];
        for (let x = 0; x < line; x += 1) {
            const left = x >= size ? out[y * line + x - size] : 0;
            const up = y > 0 ? out[(y - 1) * line + x] : 0;
            const corner = x >= size && y > 0 ? out[(y - 1) * line + x - size] : 0;
            const guess = left + up - corner;
            const [a, b, c] = [left, up, corner].map((v) => Math.abs(guess - v));
            const paeth = a <= b && a <= c ? left : b <= c ? up : corner;
            const add = [0, left, up, (left + up) >> 1, paeth][filter];
            out[y * line + x] = (raw[y * (line + 1) + 1 + x] + add) & 255;
        }
    }
    return { width, height, at: (x, y) => [...out.subarray((y * width + x) * size, (y * width + x) * size + 3)] };
};

const shoot = async (name, clip) => {
    const params = clip ? { clip: { ...clip, scale: 1 } } : {};
    const { data } = await send("Page.captureScreenshot", { format: "png", captureBeyondViewport: true, ...params });
    const png = Buffer.from(data, "base64");
    if (args.shots) {
        mkdirSync(args.shots, { recursive: true });
        writeFileSync(join(args.shots, `${name}.png`), png);
    }
    return decode(png);
};

/** How many points of an element are painted in the colour that another one has as `property`. */
const painted = async (name, selector, of, property) => {
    const { clip, colour } = await see(`(() => {
        const r = document.querySelector(${JSON.stringify(selector)}).getBoundingClientRect();
        const colour = getComputedStyle(document.querySelector(${JSON.stringify(of)}))[${JSON.stringify(property)}];
        const clip = { x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height };
        return { clip, colour: colour.match(/\\d+/g).slice(0, 3).map(Number) };
    })()`);
    const picture = await shoot(name, clip);
    let count = 0;
    for (let y = 0; y < picture.height; y += 1) {
        for (let x = 0; x < picture.width; x += 1) {
            if (picture.at(x, y).every((c, i) => Math.abs(c - colour[i]) < 12)) count += 1;
        }
    }
    return count;
};

// --- the instance --------------------------------------------------------------------------------------------------

const status = async () => (await fetch(new URL("/status", args.url))).json();
const server = async (name) => (await status()).servers.find((s) => s.name === name);
let session;
const ask = async (method, params) => {
    const headers = { "content-type": "application/json", accept: "application/json, text/event-stream" };
    if (session) headers["mcp-session-id"] = session;
    const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
    const answer = await fetch(new URL("/servers/fake/mcp", args.url), { method: "POST", headers, body });
    session ??= answer.headers.get("mcp-session-id");
    await answer.text();
};
const load = async (times, tool = "echo") => {
    for (let n = 0; n < times; n += 1) await ask("tools/call", { name: tool, arguments: { text: "x" } });
};

// --- steps ---------------------------------------------------------------------------------------------------------

let failed = 0;
const step = async (name, work) => {
    try {
        await work();
        console.log(JSON.stringify({ step: name, ok: true }));
    } catch (why) {
        failed += 1;
        console.log(JSON.stringify({ step: name, ok: false, why: why.stack }));
    }
};
const check = (truth, why) => {
    if (!truth) throw new Error(why);
};

const errors = [];
const asked = [];
let loads = 0;
listeners.push(({ method, params }) => {
    if (method === "Runtime.exceptionThrown") errors.push(params.exceptionDetails.exception?.description);
    if (method === "Runtime.consoleAPICalled") errors.push(JSON.stringify(params.args));
    if (method === "Log.entryAdded") errors.push(params.entry.text);
    if (method === "Page.javascriptDialogOpening") errors.push(`dialog: ${params.message}`);
    if (method === "Network.requestWillBeSent") asked.push(params.request.url);
    if (method === "Page.loadEventFired") loads += 1;
});
const open = async () => {
    const before = loads;
    await send("Page.navigate", { url: args.url });
    await wait("the page", () => loads > before);
};
const size = (width, height) =>
    send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
const scheme = (value) =>
    send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }] });

/** Nothing is wider than the screen, and no text is cut or too faint (WCAG 2.2, 1.4.3 and 1.4.10). */
const readable = async () => {
    const wide = await see("document.documentElement.scrollWidth - innerWidth");
    check(wide <= 0, `the page is ${wide} wider than the screen`);
    const faint = await see(`(() => {
        const parse = (c) => c.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
            .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
        const ground = (one) => {
            for (let at = one; at; at = at.parentElement) {
                const c = parse(getComputedStyle(at).backgroundColor);
                if (c.length < 4 || c[3] > 0) return c;
            }
            return [255, 255, 255];
        };
        const faint = [];
        for (const one of document.body.querySelectorAll("*")) {
            const own = [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
            if (!own || !one.checkVisibility() || one.closest("svg, script, style")) continue;
            const [a, b] = [light(parse(getComputedStyle(one).color)), light(ground(one))].sort((x, y) => y - x);
            if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(one.outerHTML.slice(0, 80));
        }
        return faint;
    })()`);
    check(faint.length === 0, `too faint: ${faint.join(" | ")}`);
};

try {
    const { targetId } = await send("Target.createTarget", { url: "about:blank" }, undefined);
    page = (await send("Target.attachToTarget", { targetId, flatten: true }, undefined)).sessionId;
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await send(`${domain}.enable`);
    await size(1280, 900);
    await scheme("light");
    await ask("initialize", {
        protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "page", version: "1" },
    });
    await load(40);
    await open();

    await step("what matters is on the screen", async () => {
        const { name, servers, requests } = await status();
        check(requests.total === 41, `${requests.total} requests`);
        const shown = await text();
        for (const wanted of [name, "✓ healthy", "Servers ready", "2 of 2", "41 in all", "fake", "host", "Events", "Log"]) {
            check(shown.includes(wanted), `${wanted} is not in ${shown}`);
        }
        check(servers.length === 2 && (await see("document.title")).startsWith(`${name} is healthy`), "the title");
        check(await see("document.querySelectorAll('h1').length === 1"), "one heading");
        const bare = "[...document.querySelectorAll('th')].filter((th) => !th.scope).length";
        check(await see(bare) === 0, "headers of tables say whose they are");
    });
    await step("plots have points that are to be seen", async () => {
        for (const what of ["ok", "p50", "p95", "memory"]) {
            check(await see(`document.querySelector('#hour path.${what}').getTotalLength()`) > 0, `${what} is empty`);
        }
        check(await see("document.querySelector('#hour path.ok').getBoundingClientRect().height") > 9, "no bars");
        check(await see("document.querySelector('#hour path.failed').getTotalLength()") === 0, "nothing has failed");
        check(await painted("bars", "#hour svg", "#hour path.ok", "fill") > 40, "the bars are not painted");
        check(await painted("lines", "#hour figure:nth-child(2) svg", "#hour path.p95", "stroke") > 2, "the line is not");
        const labels = "[...document.querySelectorAll('svg')].every((s) => /over the last hour: .*\\d/.test(s.getAttribute('aria-label')))";
        check(await see(labels), "a plot says nothing");
    });
    await step("what a server says is text", async () => {
        check((await text()).includes("<img src=x onerror=alert(1)><script>alert(2)</script>"), "its name is not there");
        check(await see("document.querySelectorAll('img').length === 0 && document.scripts.length === 1"), "it is no text");
    });
    await step("a server opens by its name, and stays open", async () => {
        await click("tr[data-server=fake] a");
        await says("tools/call");
        check(await see("document.querySelector('#server-fake').open"), "it is not open");
        check(!await see("document.querySelector('#server-host').open"), "the other one is open");
        await load(3);
        await says("44 in all");
        check(await see("document.querySelector('#server-fake').open"), "it was closed by a refresh");
        await shoot("open");
        await click("#server-fake summary");
        await wait("it to be closed", () => see("!document.querySelector('#server-fake').open"));
    });
    await step("the filter leaves what fits", async () => {
        await click("#filter");
        await send("Input.insertText", { text: "HO" });
        const rows = "[...document.querySelectorAll('[data-server]')].filter((r) => r.checkVisibility()).map((r) => r.dataset.server)";
        const shown = await see(rows);
        check(shown.every((name) => name === "host") && shown.length === 2, `${shown}`);
        await load(1);
        await says("45 in all");
        check((await see(rows)).every((name) => name === "host"), "a refresh forgot the filter");
        check(await see("document.activeElement.id") === "filter", "a refresh took the cursor away");
        await see("document.querySelector('#filter').value = '', document.querySelector('#filter').dispatchEvent(new Event('input'))");
        check((await see(rows)).length === 4, "they do not come back");
    });
    await step("the plots show the hour or a quarter of it", async () => {
        const view = "document.querySelector('#hour svg').getAttribute('viewBox')";
        const width = "document.querySelector('#hour path.ok').getBoundingClientRect().width";
        const before = await see(width);
        await click("#span");
        check(await see(view) === "450 0 150 100" && (await text()).includes("15 min ago"), "no quarter");
        check(await see(width) > 3 * before, "the bars are no wider");
        await load(1);
        await says("46 in all");
        check(await see(view) === "450 0 150 100", "a refresh forgot it");
        await click("#span");
        check(await see(view) === "0 0 600 100", "no hour");
    });
    await step("paused is paused, and then it goes on", async () => {
        await click("#pause");
        await says("paused");
        const before = asked.length;
        await load(1);
        // More than one refresh would take.
        await see("new Promise((resolve) => setTimeout(resolve, 4000))");
        check(asked.length === before && !(await text()).includes("47 in all"), "it was refreshed");
        await click("#pause");
        await says("47 in all");
    });
    await step("an ill server is seen without a reload, and its recovery", async () => {
        const before = loads;
        process.kill((await server("fake")).pids[0], "SIGKILL");
        await level("✕ unhealthy");
        await says("server 'fake': its child ended");
        const listed = (await text()).match(/server 'fake' is backoff: was ended by SIGKILL/);
        check(listed, "it is not among the events");
        await shoot("ill");
        await level("✓ healthy");
        await says("server 'fake' is ready");
        check(await see("document.querySelector('#reasons').hidden"), "its reasons are left");
        check(loads === before, "the page was loaded anew");
    });
    await step("errors are seen in the plot", async () => {
        await load(20, "nosuch");
        await wait("red bars", () => see("document.querySelector('#hour path.failed').getTotalLength() > 0"));
        check(await painted("failed", "#hour svg", "#hour path.failed", "fill") > 10, "no red is painted");
        await says("requests failed in the last 5 minutes");
    });
    for (const value of ["light", "dark"]) {
        await step(`it is readable in ${value}, on narrow and on wide screens`, async () => {
            await scheme(value);
            await see("document.querySelector('#server-fake').open = true");
            for (const [width, height] of [[320, 700], [768, 1000], [1280, 900], [1600, 1000]]) {
                await size(width, height);
                const all = await see("({ x: 0, y: 0, width: innerWidth, height: document.documentElement.scrollHeight })");
                const picture = await shoot(`${value}-${width}`, all);
                const corner = picture.at(2, 2).reduce((sum, c) => sum + c, 0) / 3;
                check(value === "light" ? corner > 200 : corner < 60, `the ground is ${corner}`);
                await readable();
            }
            await size(1280, 900);
        });
    }
    await step("the console is silent and nothing leaves the host", async () => {
        check(errors.length === 0, errors.join("\n"));
        const foreign = asked.filter((url) => !url.startsWith(new URL(args.url).origin + "/") && !url.startsWith("data:"));
        check(asked.length > 3 && foreign.length === 0, `${foreign} of ${asked.length}`);
    });
    await step("without scripts it is a page of tables, and fresh all the same", async () => {
        await scheme("light");
        await send("Emulation.setScriptExecutionDisabled", { value: true });
        await open();
        const { root } = await send("DOM.getDocument", { depth: -1 });
        const find = async (selector) => (await send("DOM.querySelector", { nodeId: root.nodeId, selector })).nodeId;
        for (const selector of ["table.servers tr[data-server=host]", "#hour path.ok", "details#server-fake", "#tools[hidden]"]) {
            check(await find(selector), `there is no ${selector}`);
        }
        await size(1280, 900);
        await shoot("no-scripts");
        const before = loads;
        await wait("the page to come anew by itself", () => loads > before);
        await send("Emulation.setScriptExecutionDisabled", { value: false });
    });
    await step("when the instance is gone, the page says so", async () => {
        await open();
        await says("live, every 3 s");
        process.kill((await status()).pid, "SIGTERM");
        await says("not reachable since");
        check(await see("getComputedStyle(document.querySelector('main')).opacity < 0.6"), "what is old looks as if it were true");
        await shoot("gone");
    });
} finally {
    // It ends by itself, with all its processes, and its profile can be removed.
    await send("Browser.close", {}, undefined).catch(() => {});
    await new Promise((resolve) => (browser.exitCode === null ? browser.once("exit", resolve) : resolve()));
}
process.exit(failed > 0 ? 1 : 0);
