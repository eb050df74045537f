// What a merchant does, each flow with a script and without one.

import { execFile } from "node:child_process";
import { createHmac } from "node:crypto";
import { createServer } from "node:http";
import { promisify } from "node:util";

import { appliance, assert, eventually, receiver, same, visitor } from "./scene.mjs";

// Runs a flow in a scene of its own, with and without JavaScript.
function both(name, flow, settings = {}) {
  return [true, false].map((js) => [
    `${name}, ${js ? "with" : "without"} a script`,
    (browser) => scene(browser, settings, { js }, flow),
  ]);
}

function once(name, flow, settings = {}) {
  return [[name, (browser) => scene(browser, settings, {}, flow)]];
}

async function scene(browser, settings, options, flow) {
  const app = await appliance(settings);
  try {
    const guest = await visitor(browser, app, options);
    const said = await flow({ app, guest, page: guest.page, browser, js: options.js ?? true });
    await guest.close();
    return said;
  } finally {
    await app.stop();
  }
}

const notice = (page) => page.locator(".notice").first().innerText();
const field = (page, name) => page.locator(`[name="${name}"]`);

async function signIn({ app, guest, page }) {
  const link = await app.link();
  await page.goto(link);
  same(page.url(), app.home, "the link leads in");
  await page.click("text=Sign out");
  assert((await notice(page)).includes("signed out"), "signing out is said");
  await page.goto(link);
  assert((await notice(page)).includes("used already"), "a link works once");
  await page.goto(`${app.home}/events`);
  same(page.url(), `${app.ready.public}/sign-in`, "nobody is in");
  guest.expect(422);
  await page.fill("#key", "phm_wrong");
  await page.click("button");
  assert((await notice(page)).includes("not a merchant's key"), "a wrong key is told");
  await page.fill("#key", app.ready.merchant_key);
  await page.click("button");
  same(page.url(), app.home, "the key leads in");
  const [cookie] = await guest.context.cookies();
  same([cookie.name, cookie.httpOnly, cookie.secure, cookie.sameSite], ["__Host-posthaste", true, true, "Lax"], "cookie");
}

const REFUSED = [
  ["", "absolute URL"],
  ["yourapp.com/hook", "absolute URL"],
  ["http://yourapp.com/hook", "must begin with https://"],
  ["ftp://yourapp.com/hook", "must begin with https://"],
  ["https://user:pass@yourapp.com/", "user name or password"],
  ["https://yourapp.com:2525/", "port 2525"],
  ["https://yourapp.com/#part", "fragment"],
  ["https://192.168.1.5/", "private"],
  ["https://127.0.0.1/", "private"],
  ["https://localhost/", "private"],
  ["https://service.internal/", "private"],
  ["https://-yourapp-.com/", "host name"],
  ["https://yourapp.com/a/../b", "normal form"],
  [`https://yourapp.com/${"x".repeat(2100)}`, "longer than"],
];

async function refusals({ app, guest, page }) {
  const acme = await app.operate("PUT", "/merchants/acme", {});
  same(acme.id, "acme", "another merchant");
  await page.goto((await app.operate("POST", "/merchants/acme/portal")).url);
  guest.expect(422);
  assert(await page.isVisible("h1:has-text('Create a webhook')"), "the form is there");
  for (const [url, words] of REFUSED) {
    await page.fill("#url", url);
    await page.click("button:has-text('Create webhook')");
    const error = await page.innerText("#url-error");
    assert(error.includes(words), `${url}: ${error}`);
    same(await page.getAttribute("#url", "aria-invalid"), "true", "the field says that it is wrong");
    same(await page.inputValue("#url"), url, "what was typed stays");
  }
  await page.fill("#url", "https://yourapp.com/webhooks/incoming");
  await field(page, "every_type").uncheck();
  await page.click("button:has-text('Create webhook')");
  assert((await page.innerText("#types-error")).includes("at least one type"), "types are wanted");
  await field(page, "every_type").check();
  await page.fill("#secret", "x".repeat(257));
  await page.click("button:has-text('Create webhook')");
  assert((await page.innerText("#secret-error")).includes("at most 256"), "the secret is too long");
  await page.click("button:has-text('Generate')");
  assert((await page.inputValue("#secret")).startsWith("whsec_"), "a secret is offered");
  await page.click("button:has-text('Create webhook')");
  assert((await notice(page)).includes("Webhook created"), "it is created");
  same(await page.innerText(".state code >> nth=0"), "https://yourapp.com/webhooks/incoming", "the URL is shown");
  return `${REFUSED.length} refused URLs`;
}

async function configure({ app, guest, page, js }) {
  const target = await receiver();
  await guest.enter();
  await page.fill("#url", target.url);
  await page.fill("#secret", "correct horse battery staple");
  await page.selectOption("#grace", "3600");
  if (js) {
    await page.check("[value=card_state]");
    assert(!(await field(page, "every_type").isChecked()), "choosing a type takes All events away");
    await field(page, "every_type").check();
    assert(!(await page.isChecked("[value=card_state]")), "All events takes the types away");
  }
  await field(page, "every_type").uncheck();
  await page.check("[value=card_state]");
  await page.check("[value=account_topup]");
  await page.click("button:has-text('Save')");
  assert((await notice(page)).startsWith("Saved"), "it is saved");
  assert(!(await page.content()).includes("correct horse"), "a kept secret is never shown");
  const config = await app.api("GET", "/config");
  same([config.url, config.event_types.sort(), config.enabled], [target.url, ["account_topup", "card_state"], true], "API");
  await page.click("text=Pause delivery");
  assert((await page.innerText(".state")).includes("Paused"), "it is paused");
  const { id } = await app.submit("card_state", { id: "card_1" });
  await page.goto(`${app.home}/events/${id}`);
  assert((await page.innerText("h1")).includes("Pending"), "the event waits");
  await page.goto(app.home);
  await page.click("text=Resume delivery");
  await app.status(id, "delivered");
  const mac = createHmac("sha256", "correct horse battery staple").update(target.received[0].body).digest("hex");
  same(target.received[0].headers["x-webhook-signature"], mac, "the new secret signs");
  await field(page, "enabled").uncheck();
  await page.check("[name=remove_secret]");
  await page.click("button:has-text('Save')");
  const after = await app.api("GET", "/config");
  same([after.enabled, after.secret_set], [false, false], "switched off and unsigned");
  await page.click("text=Delete webhook");
  await page.click("text=Keep it");
  await page.click("text=Delete webhook");
  await page.click("button:has-text('Delete webhook')");
  assert((await notice(page)).includes("is deleted"), "it is deleted");
  assert(await page.isVisible("button:has-text('Create webhook')"), "and can be created again");
  target.stop();
}

async function conflict({ app, guest, page }) {
  await guest.enter();
  await app.api("PUT", "/config", { url: app.ready.receiver_url, event_types: ["card_state"] });
  guest.expect(409);
  await field(page, "enabled").uncheck();
  await page.click("button:has-text('Save')");
  assert((await notice(page)).includes("changed or deleted meanwhile"), "the change of the API is not overwritten");
  await page.click("button:has-text('Save')");
  assert((await notice(page)).startsWith("Saved"), "the second time it is meant");
}

async function testEvent({ app, guest, page }) {
  await guest.enter();
  await page.click("text=Send test event");
  await page.check("[value=account_topup]");
  await page.click("button:has-text('Send test event')");
  assert((await notice(page)).includes("your test event"), "it is sent");
  const id = new URL(page.url()).pathname.split("/").pop();
  await app.status(id, "delivered");
  await page.goto(`${app.home}/events/${id}`);
  assert((await page.innerText("h1")).includes("Delivered"), "it is delivered");
  assert((await page.innerText(".attempt")).includes("x-webhook-signature"), "the signature is shown");
  await page.click("text=Resend");
  await eventually("the second attempt", async () => (await app.api("GET", `/events/${id}`)).attempt_count === 2);
  await page.goto(`${app.home}/events/${id}`);
  same(await page.locator(".attempt").count(), 2, "both attempts are shown");
  await page.goto(app.home);
  assert((await page.innerText(".figures")).includes("100 %"), "health counts them");
}

async function log({ app, guest, page }) {
  const target = await receiver(({ body }, number) => ({ status: body.includes("bad") ? 500 : 200 }));
  await app.api("PUT", "/config", { url: target.url });
  const kinds = ["card_transaction", "card_state"];
  for (let i = 0; i < 60; i += 1) await app.submit(kinds[i % 2], { id: i < 3 ? `bad_${i}` : `good_${i}` });
  await target.wait(60);
  await guest.enter();
  await page.click("nav >> text=Event log");
  same(await page.locator("tbody tr").count(), 50, "a page");
  await page.click("text=Older");
  same(await page.locator("tbody tr").count(), 10, "the rest");
  await page.click("text=Newer");
  same(await page.locator("tbody tr").count(), 50, "and back");
  await page.locator(".chip:has-text('Failed')").click();
  await page.locator(".chip:has-text('card_state')").click();
  await page.click("button:has-text('Filter')");
  await eventually("the failures are final", async () => {
    await page.goto(page.url());
    return (await page.locator("tbody tr").count()) === 1;
  });
  assert((await page.innerText("tbody")).includes("bad_1"), "the one that fits");
  const shared = page.url();
  await page.click("text=Clear");
  await page.fill("#resource_id", "good_7");
  await page.click("button:has-text('Filter')");
  same(await page.locator("tbody tr").count(), 1, "by resource");
  await page.fill("#resource_id", "nothing like it");
  await page.click("button:has-text('Filter')");
  assert((await page.innerText(".empty")).includes("No event fits"), "an empty log explains itself");
  await page.goto(shared);
  assert(await page.isChecked("[value=failed]"), "a shared link has its filters");
  await page.fill("#resource_id", await page.innerText("tbody .id"));
  await page.click("button:has-text('Filter')");
  const attempt = await page.innerText(".attempt >> nth=0");
  assert(attempt.includes("not 2xx") && attempt.includes("500"), "the failure in words");
  guest.expect(404);
  await page.goto(`${app.home}/events/evt_00000000000000000000000000`);
  assert((await page.innerText("h1")).includes("No such event"), "an unknown event explains itself");
  target.stop();
}

async function curl({ app, guest, page }) {
  const target = await receiver();
  await app.api("PUT", "/config", { url: target.url });
  const { id } = await app.submit("card_state", { id: "it's", text: "$HOME `id` \"q\" \\ é" });
  await app.status(id, "delivered");
  await guest.enter();
  await page.goto(`${app.home}/events/${id}`);
  await page.click("text=As a curl command");
  await page.click("text=Copy as curl");
  const command = await page.evaluate(() => navigator.clipboard.readText());
  same(command, await page.locator("#curl").textContent(), "what is copied is what is shown");
  await promisify(execFile)("bash", ["-c", command]);
  await target.wait(2);
  const [first, second] = target.received;
  assert(first.body.equals(second.body), "the same bytes");
  for (const name of ["x-webhook-signature", "webhook-id", "webhook-signature", "content-type"]) {
    same(second.headers[name], first.headers[name], name);
  }
  target.stop();
}

async function recover({ app, guest, page }) {
  let well = false;
  const target = await receiver(() => ({ status: well ? 200 : 503 }));
  await app.api("PUT", "/config", { url: target.url });
  const ids = [];
  for (let i = 0; i < 12; i += 1) ids.push((await app.submit("card_state", { id: `card_${i}` })).id);
  for (const id of ids) await app.status(id, "failed");
  await guest.enter();
  await page.click("nav >> text=Tools");
  await page.click("text=Recover events");
  await page.click("text=Count them");
  assert((await page.innerText("#count-title")).startsWith("12 events"), "they are counted first");
  well = true;
  await page.click("button:has-text('Recover 12 events')");
  await eventually("it is over", async () => {
    await page.goto(`${app.home}/recover`);
    return (await page.content()).includes("The last recovery is done");
  });
  for (const id of ids) await app.status(id, "delivered");
  await page.click("text=Count them");
  assert((await page.innerText("#count-title")).startsWith("No event"), "nothing is left");
  target.stop();
}

async function cancelRecovery({ app, guest, page }) {
  const target = await receiver(() => ({ status: 503 }));
  await app.api("PUT", "/config", { url: target.url });
  const ids = [];
  for (let i = 0; i < 400; i += 1) ids.push((await app.submit("card_state", { id: `card_${i}` })).id);
  for (const id of ids.slice(-3)) await app.status(id, "failed");
  await guest.enter();
  await page.goto(`${app.home}/recover`);
  await page.click("text=Count them");
  await page.click("button:has-text('Recover')");
  assert(await page.isVisible("progress"), "progress is shown");
  await page.click("text=Cancel recovery");
  await eventually("it is canceled", async () => {
    await page.goto(`${app.home}/recover`);
    return (await page.content()).includes("The last recovery is canceled");
  });
  target.stop();
}

async function debug({ app, guest, page }) {
  const target = await receiver();
  const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
  await app.api("PUT", "/config", { url: target.url, secret: "the one before" });
  await app.api("PUT", "/config", { url: target.url, secret });
  const { id } = await app.submit("card_state", { id: "card_1", amount: "12.50" });
  await target.wait(1);
  const { body, headers } = target.received[0];
  const sent = body.toString();
  const right = headers["x-webhook-signature"];
  const sign = (key, text, form = "hex") => createHmac("sha256", key).update(text).digest(form);
  await guest.enter();
  await page.goto(`${app.home}/tools`);
  const cases = [
    [sent, right, secret, "", "The signature matches"],
    [sent, headers["x-webhook-signature-previous"], "", "", "matches a previous secret"],
    [JSON.stringify(JSON.parse(sent), null, 2), right, "", "", "parsed and serialised again"],
    [sent, Buffer.from(right, "hex").toString("base64"), "", "", "This is base64"],
    [`${sent}\n`, right, "", "", "line break at its end"],
    [sent, sign("mine", sent), "mine", "", "not the one that is configured"],
    [sent, right, "mine", "", "your receiver has the wrong secret"],
    [sent, `sha256=${right}`, "", "", "compare only the 64 hex digits"],
    [sent, headers["webhook-signature"], "", "", "Standard Webhooks"],
    [sent, sign(Buffer.from(secret.slice(6), "base64"), sent), "", "", "base64-decoded"],
    [sent, "nonsense", "", "", "This is no signature"],
    [sent.replace("12.50", "12.5"), right, "", id, "sign the raw request body"],
    [sent.replace("12.50", "12.5"), right, "", "", "Enter the event id"],
    [sent, "0".repeat(64), "", id, "belongs to another event"],
  ];
  for (const [text, signature, used, event, words] of cases) {
    await page.fill("#body", text);
    await page.fill("#given", signature);
    await page.fill("#used", used);
    await page.fill("#which", event);
    await page.click("button:has-text('Check')");
    const verdict = await page.innerText("#verdict");
    assert(verdict.includes(words), `“${words}” is missing in: ${verdict}`);
    assert(!(await page.content()).includes(secret), "no secret is on the page");
  }
  target.stop();
  return `${cases.length} slips`;
}

async function live({ app, guest, page }) {
  let well = false;
  const target = await receiver(() => ({ status: well ? 200 : 500 }));
  await app.api("PUT", "/config", { url: target.url });
  const { id } = await app.submit("card_state", { id: "card_1" });
  await app.status(id, "retrying");
  await guest.enter();
  const watching = page.waitForResponse((response) => response.url().includes("/live"));
  await page.goto(`${app.home}/events`);
  await watching;
  const row = page.locator(`tr[data-event="${id}"]`);
  const before = await row.boundingBox();
  await app.submit("card_state", { id: "card_2" });
  await page.waitForSelector(".news a");
  same(await page.innerText(".news a"), "1 new event. Show it", "it is announced");
  same(await page.locator("tbody tr").count(), 1, "and not put in");
  well = true;
  await app.api("POST", `/events/${id}/resend`);
  await eventually("the row changes", async () => (await row.innerText()).includes("Delivered"));
  same(await row.boundingBox(), before, "nothing moved");
  await page.click(".news a");
  same(await page.locator("tbody tr").count(), 2, "it comes when it is asked for");
  const filtered = page.waitForResponse((response) => response.url().includes("/live"));
  await page.goto(`${app.home}/events?event_type=account_topup`);
  await filtered;
  await app.submit("card_state", { id: "card_3" });
  await app.submit("account_topup", { id: "top_1" });
  await page.waitForSelector(".news a");
  same(await page.innerText(".news a"), "1 new event. Show it", "only what fits the filters");
  const detail = page.waitForResponse((response) => response.url().includes("/live"));
  await page.goto(`${app.home}/events/${id}`);
  await detail;
  await app.api("POST", `/events/${id}/resend`);
  await page.waitForSelector(".news a");
  assert((await page.innerText(".news a")).includes("This event changed"), "the open event tells");
  target.stop();
}

async function framed(browser) {
  const cabinet = createServer((_, response) => {
    response.writeHead(200, { "content-type": "text/html" });
    response.end(`<!doctype html><title>Cabinet</title><iframe width="900" height="700" src="${cabinet.link}"></iframe>`);
  });
  await new Promise((done) => cabinet.listen(0, "127.0.0.1", done));
  const origin = `http://localhost:${cabinet.address().port}`;
  for (const [ancestors, shows] of [[origin, true], ["https://another.example", false]]) {
    const app = await appliance({ DASHBOARD__FRAME_ANCESTORS: ancestors });
    const context = await browser.newContext();
    const page = await context.newPage();
    cabinet.link = await app.link();
    await page.goto(origin);
    const frame = page.frames()[1];
    if (shows) {
      await frame.waitForSelector("text=Signed in as");
      await frame.click("text=Pause delivery");
      await frame.waitForSelector("text=Delivery is paused");
      same((await app.api("GET", "/config")).enabled, false, "forms work inside the cabinet");
    } else {
      await eventually("the frame is refused", () => frame.url().startsWith("chrome-error:"));
    }
    await context.close();
    await app.stop();
  }
  cabinet.close();
}

async function keyboard({ app, guest, page }) {
  await guest.enter();
  const reached = [];
  for (let i = 0; i < 40; i += 1) {
    await page.keyboard.press("Tab");
    reached.push(await page.evaluate(() => {
      const at = document.activeElement;
      const { outlineStyle, outlineWidth } = getComputedStyle(at.matches(".chip input") ? at.nextElementSibling : at);
      return { name: at.name || at.textContent.trim().slice(0, 30), seen: outlineStyle !== "none" && outlineWidth !== "0px" };
    }));
  }
  same(reached[0].name, "Skip to the content", "the way past the head comes first");
  for (const name of ["Sign out", "Event log", "Pause delivery", "url", "secret", "every_type", "event_type", "enabled", "Save"]) {
    const at = reached.find((one) => one.name === name || (name === "Save" && one.name === "do"));
    assert(at, `${name} is reached by keyboard`);
    assert(at.seen, `${name} shows that it has the focus`);
  }
}

// What fails does so at once, however many fail in a row: an endpoint that is left alone keeps its events waiting.
const QUICK = { DELIVERY__RETRY_SCHEDULE: "100ms", DELIVERY__RETRY_JITTER: "0", DELIVERY__BREAKER_FAILURES: "0" };

export const tests = [
  ...both("a merchant signs in by link and by key, and out", signIn),
  ...both("what is wrong with a URL stands at its field", refusals, { EGRESS__ALLOW_HTTP: "false", EGRESS__ALLOW: "", EGRESS__PORTS: "443,8443" }),
  ...both("a webhook is set, paused, resumed, deleted", configure),
  ...both("a change made elsewhere is not overwritten", conflict),
  ...both("a test event is sent, seen and resent", testEvent),
  ...both("the log is filtered, paged and shared", log, QUICK),
  ...both("failed events are counted and recovered", recover, QUICK),
  ...both("a recovery is canceled", cancelRecovery, QUICK),
  ...both("the signature debugger names each slip", debug),
  ...once("the curl command sends the same bytes", curl),
  ...once("news come live and nothing moves", live),
  ["a listed site frames the pages, another does not", framed],
  ...once("everything is reached by keyboard", keyboard),
];
