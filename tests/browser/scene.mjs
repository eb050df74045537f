// What the tests have in common: the real binary in dev mode, a receiver that does as it is told, a real browser.
// Never lets an error of a page pass: whatever the console, the network or the policy complains of fails the test.

import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(`${process.env.POSTHASTE_TOOLS}/`);
const { chromium } = require("playwright-core");
export const axe = require.resolve("axe-core/axe.min.js");

export const PATIENCE = 30_000;

export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] });
}

export function assert(holds, words) {
  if (!holds) throw new Error(words);
}

export function same(found, expected, words) {
  const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
  assert(a === b, `${words}: expected ${b}, found ${a}`);
}

export async function eventually(what, look) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert(Date.now() < end, `waited in vain for: ${what}`);
    await new Promise((done) => setTimeout(done, 20));
  }
}

// The binary. `settings` are environment variables without their prefix.
export async function appliance(settings = {}) {
  const environment = Object.entries(settings).map(([key, value]) => [`POSTHASTE__${key}`, value]);
  const child = spawn(process.env.POSTHASTE_BIN, ["serve", "--dev", "--json"], {
    stdio: ["ignore", "pipe", "ignore"],
    env: { ...process.env, POSTHASTE__LOG__LEVEL: "error", ...Object.fromEntries(environment) },
  });
  const ended = new Promise((done) => child.once("exit", done));
  const line = await new Promise((done) => {
    createInterface({ input: child.stdout }).once("line", done);
    child.once("exit", () => done(null));
  });
  assert(line, "the appliance did not start");
  const ready = JSON.parse(line);
  const call = async (base, key, method, path, body) => {
    const answer = await fetch(`${base}${path}`, {
      method,
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await answer.text();
    assert(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
    return text ? JSON.parse(text) : null;
  };
  const api = (method, path, body) => call(ready.public, ready.merchant_key, method, `/api/v2/webhooks${path}`, body);
  const operate = (method, path, body) => call(ready.admin, ready.operator_key, method, `/admin/v1${path}`, body);
  return {
    ready,
    api,
    operate,
    home: `${ready.public}/settings/webhooks`,
    submit: (type, data) =>
      call(ready.ingest, ready.producer_key, "POST", "/v1/events", { type, merchant_id: ready.merchant_id, data }),
    link: async () => (await operate("POST", `/merchants/${ready.merchant_id}/portal`)).url,
    status: (id, wanted) =>
      eventually(`${id} is ${wanted}`, async () => (await api("GET", `/events/${id}`)).status === wanted),
    stop: async () => {
      child.kill("SIGTERM");
      await ended;
    },
  };
}

// A merchant's receiver. `answer(request, number)` gives { status, headers, body }.
export async function receiver(answer = () => ({ status: 200 })) {
  const received = [];
  const server = createServer((request, response) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      const one = { headers: request.headers, body: Buffer.concat(chunks) };
      received.push(one);
      const { status = 200, headers = {}, body = "" } = answer(one, received.length);
      response.writeHead(status, headers).end(body);
    });
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return {
    received,
    url: `http://127.0.0.1:${server.address().port}/hook`,
    wait: (count) => eventually(`${count} deliveries`, () => received.length >= count),
    stop: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

// A browser of its own cookies. Complaints gather in `complaints`; `close` fails where there are any.
export async function visitor(browser, app, { js = true, dark = false, width = 1280, height = 900 } = {}) {
  const context = await browser.newContext({
    javaScriptEnabled: js,
    colorScheme: dark ? "dark" : "light",
    viewport: { width, height },
    permissions: js ? ["clipboard-read", "clipboard-write"] : [],
  });
  const complaints = [];
  let refusals = [];
  if (js) {
    await context.addInitScript(() => {
      window.executed = 0;
      addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
    });
  }
  context.on("request", (request) => {
    if (!request.url().startsWith(app.ready.public)) complaints.push(`a request to ${request.url()}`);
  });
  context.on("dialog", (dialog) => {
    complaints.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  context.on("weberror", (error) => complaints.push(`an error: ${error.error()}`));
  context.on("console", (message) => {
    if (!["error", "warning"].includes(message.type())) return;
    // A page that is a refusal is told to the console by its status; a test says which it expects.
    const status = /status of (\d+)/.exec(message.text())?.[1];
    if (status && refusals.includes(Number(status))) return;
    complaints.push(`console: ${message.text()}`);
  });
  const page = await context.newPage();
  return {
    page,
    context,
    complaints,
    expect: (...statuses) => {
      refusals = statuses;
    },
    enter: async () => {
      await page.goto(await app.link());
      same(page.url(), app.home, "the link leads to the webhook's page");
    },
    close: async () => {
      await context.close();
      assert(complaints.length === 0, `the pages complain:\n  ${[...new Set(complaints)].join("\n  ")}`);
    },
  };
}
